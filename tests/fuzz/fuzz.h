// SPDX-License-Identifier: BSD-2-Clause
// fuzz.h - what the fuzzers share.
//
// A fuzzer is a function of the input's bytes.  It fails when it crashes, when a sanitizer speaks,
// when it needs too long or too much, and when must() finds something untrue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include <sys/mman.h>
#include <unistd.h>

#include "util/file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size);

namespace pgmemtrace::test {

// Ends the fuzzer, which then keeps the input, unless `holds`.
inline void must(bool holds, const char *what)
{
  if (holds)
    return;
  std::fprintf(stderr, "fuzzer: not true: %s\n", what);
  std::abort();
}

// The input as a file with a path, for readers that open one.
class InputFile {
public:
  explicit InputFile(std::span<const std::uint8_t> bytes) : fd_(memfd_create("input", MFD_CLOEXEC))
  {
    must(fd_ && write(fd_.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
         "the input can be written to memory");
  }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_.get()); }

private:
  UniqueFd fd_;
};

} // namespace pgmemtrace::test
