#include "util/result.h"

#include <cstring>

namespace pgmemtrace {

std::string to_string(const Error &error)
{
  if (error.err == 0)
    return error.what;
  return error.what + ": " + std::strerror(error.err);
}

} // namespace pgmemtrace
