// SPDX-License-Identifier: BSD-2-Clause
#include "util/gzip.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <new>

#include <zlib.h>

namespace pgmemtrace {

namespace {

constexpr int kGzip = MAX_WBITS + 16; // zlib.h: 16 asks for a gzip header and trailer

// zlib takes pieces of less than 4 GiB.
void give(z_stream &stream, std::string_view &left)
{
  const auto piece = std::min<std::size_t>(left.size(), std::numeric_limits<uInt>::max());
  stream.next_in = reinterpret_cast<Bytef *>(const_cast<char *>(left.data()));
  stream.avail_in = static_cast<uInt>(piece);
  left.remove_prefix(piece);
}

} // namespace

std::string gzip(std::string_view text)
{
  z_stream stream{};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY) !=
      Z_OK)
    throw std::bad_alloc(); // nothing else can go wrong with these
  const std::unique_ptr<z_stream, decltype(&deflateEnd)> end(&stream, &deflateEnd);
  std::string packed;
  std::array<char, 1 << 16> piece{};
  for (int status = Z_OK; status != Z_STREAM_END;) {
    if (stream.avail_in == 0)
      give(stream, text);
    stream.next_out = reinterpret_cast<Bytef *>(piece.data());
    stream.avail_out = piece.size();
    status = deflate(&stream, text.empty() ? Z_FINISH : Z_NO_FLUSH);
    packed.append(piece.data(), piece.size() - stream.avail_out);
  }
  return packed;
}

Result<std::string> gunzip(std::string_view packed, std::size_t most)
{
  z_stream stream{};
  if (inflateInit2(&stream, kGzip) != Z_OK)
    return Error{"unpack it: out of memory", 0, {}};
  const std::unique_ptr<z_stream, decltype(&inflateEnd)> end(&stream, &inflateEnd);
  std::string text;
  std::array<char, 1 << 16> piece{};
  stream.avail_out = piece.size();
  for (int status = Z_OK; status != Z_STREAM_END;) {
    if (stream.avail_in == 0) { // what came before may still wait in the stream
      if (packed.empty() && stream.avail_out != 0)
        return Error{text.empty() ? "it is no gzip file" : "it is cut short", 0, {}};
      give(stream, packed);
    }
    stream.next_out = reinterpret_cast<Bytef *>(piece.data());
    stream.avail_out = piece.size();
    status = inflate(&stream, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END)
      return Error{text.empty() ? "it is no gzip file" : "it is damaged", 0, {}};
    text.append(piece.data(), piece.size() - stream.avail_out);
    if (text.size() > most)
      return Error{"it is larger than any", 0, {}};
  }
  return text;
}

} // namespace pgmemtrace
