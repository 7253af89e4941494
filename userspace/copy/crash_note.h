// SPDX-License-Identifier: BSD-2-Clause
// crash_note.h - where a process of a copy was when it died: what sql/faults/crash.c wrote down.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "symbols/frame.h"
#include "util/result.h"

namespace pgmemtrace {

struct Crash {
  pid_t pid = 0;
  int signal = 0;
  std::optional<std::uint64_t> address; // that could not be reached, if the processor said so
  std::vector<Frame> stack;             // innermost first; empty: none could be had
};

// As text: "signal 11\naddress 0x10\nstack 0x1 0x2\n".  What is missing or no number is left out.
struct CrashNote {
  int signal = 0;
  std::optional<std::uint64_t> address;
  std::vector<std::uint64_t> stack;
};
CrashNote parse_crash_note(std::string_view text);

// Takes all notes of a folder: they are not there afterwards.  `root`: of the server, as a path to
// open.
std::vector<Crash> take_crashes(const std::string &folder, const std::string &root);

// "signal 11 (Segmentation fault) in hold_pointer+0x13, pgmemtrace_buggy.so".
std::string to_string(const Crash &crash);

// The innermost frame of code that is neither the server's own nor the C library's, else the
// innermost one of the server.  Null without a stack.
const Frame *suspect(const Crash &crash);

} // namespace pgmemtrace
