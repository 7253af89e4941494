// SPDX-License-Identifier: BSD-2-Clause
// machine_code.h - machine code written down in tests: as hex bytes, or as AArch64's words.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace pgmemtrace::test {

// "55 4889e5": spaces between bytes are allowed.
inline std::vector<std::byte> bytes(std::string_view hex)
{
  std::vector<std::byte> out;
  for (std::size_t i = 0; i < hex.size();) {
    if (hex[i] == ' ') {
      i++;
      continue;
    }
    unsigned value = 0;
    std::from_chars(hex.data() + i, hex.data() + i + 2, value, 16);
    out.push_back(static_cast<std::byte>(value));
    i += 2;
  }
  return out;
}

inline std::vector<std::byte> words(std::initializer_list<std::uint32_t> instructions)
{
  std::vector<std::byte> out;
  for (std::uint32_t word : instructions)
    for (unsigned shift = 0; shift < 32; shift += 8)
      out.push_back(static_cast<std::byte>(word >> shift));
  return out;
}

} // namespace pgmemtrace::test
