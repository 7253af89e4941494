// SPDX-License-Identifier: BSD-2-Clause
#include "util/text.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace pgmemtrace {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD"; // U+FFFD

struct Sequence {
  std::size_t length = 1; // bytes to consume
  bool valid = false;
  bool cut_short = false; // the text ends inside it
};

// The ranges of the second byte that Unicode (table 3-7) allows after each lead byte.
Sequence sequence_at(std::string_view text)
{
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80)
    return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4)
    return {};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size())
      return {i, false, true};
    const bool first = i == 1;
    if (byte(i) < (first ? low : 0x80U) || byte(i) > (first ? high : 0xBFU))
      return {i, false, false};
  }
  return {length, true, false};
}

bool is_blank_or_control(char c)
{
  const auto byte = static_cast<unsigned char>(c);
  return byte <= 0x20 || byte == 0x7F;
}

// U+0080..U+009F: terminals take some of them as escape sequences.
bool is_c1_control(std::string_view sequence)
{
  return sequence.size() == 2 && sequence[0] == '\xC2' &&
         static_cast<unsigned char>(sequence[1]) < 0xA0;
}

} // namespace

std::string valid_utf8(std::string_view text, std::size_t max_bytes)
{
  text = text.substr(0, max_bytes);
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Sequence sequence = sequence_at(text);
    if (sequence.valid)
      out += text.substr(0, sequence.length);
    else if (!sequence.cut_short)
      out += kReplacement;
    text.remove_prefix(sequence.length);
  }
  return out;
}

std::string one_line(std::string_view text, std::size_t max_bytes)
{
  const std::string valid = valid_utf8(text);
  std::string_view rest = valid;
  std::string out;
  bool blank = false;
  while (!rest.empty()) {
    const std::string_view character = rest.substr(0, sequence_at(rest).length);
    rest.remove_prefix(character.size());
    if (is_blank_or_control(character[0]) || is_c1_control(character)) {
      blank = !out.empty();
      continue;
    }
    if (out.size() + character.size() + (blank ? 1 : 0) > max_bytes)
      return out + "...";
    if (blank)
      out += ' ';
    blank = false;
    out += character;
  }
  return out;
}

std::string hex(std::span<const std::byte> bytes)
{
  std::string digits;
  for (const std::byte byte : bytes) {
    digits += "0123456789abcdef"[std::to_integer<unsigned>(byte) >> 4];
    digits += "0123456789abcdef"[std::to_integer<unsigned>(byte) & 15];
  }
  return digits;
}

std::string human_bytes(std::uint64_t bytes)
{
  static constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  // 1023.5 would print as 1024.
  while (value >= 1023.5 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text{};
  const int decimals = unit > 0 && value < 99.95 ? 1 : 0;
  std::snprintf(text.data(), text.size(), "%.*f %s", decimals, value, kUnits.at(unit));
  return text.data();
}

std::string human_delta(std::int64_t bytes)
{
  const auto magnitude = static_cast<std::uint64_t>(bytes);
  return bytes < 0 ? "-" + human_bytes(0 - magnitude) : "+" + human_bytes(magnitude);
}

} // namespace pgmemtrace
