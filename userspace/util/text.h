// SPDX-License-Identifier: BSD-2-Clause
// text.h - strings of other processes made fit to show.
//
// Names, idents and queries come out of foreign memory: they may be cut anywhere, hold any
// byte, and must neither break a JSON line nor move the cursor of a terminal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace pgmemtrace {

// At most `max_bytes` of `text` (before replacements), cut between characters.  Bytes that
// are not UTF-8 become U+FFFD, except for a sequence that the end cuts short: it is dropped.
std::string valid_utf8(std::string_view text, std::size_t max_bytes = std::string_view::npos);

// For a terminal or a label: valid UTF-8, every run of white space and control characters
// one blank, none at the ends; "..." after `max_bytes`.
std::string one_line(std::string_view text, std::size_t max_bytes = std::string_view::npos);

// "0fa3": lower case, as tools print build-ids.
std::string hex(std::span<const std::byte> bytes);

// "512 B", "1.2 MiB", "340 MiB": three digits at most.
std::string human_bytes(std::uint64_t bytes);

// "+8.6 MiB", "-512 B".
std::string human_delta(std::int64_t bytes);

} // namespace pgmemtrace
