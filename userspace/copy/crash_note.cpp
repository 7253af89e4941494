// SPDX-License-Identifier: BSD-2-Clause
#include "copy/crash_note.h"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <string_view>

#include <fmt/format.h>
#include <unistd.h>

#include "rules/violation.h"
#include "symbols/symbolizer.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

constexpr std::string_view kOurLibrary = "pgmemtrace_faults.so";
constexpr std::size_t kMostFrames = 128;
constexpr std::size_t kMostCrashes = 64; // at a time: a server has that many workers at most

std::optional<std::uint64_t> number(std::string_view text)
{
  const int base = text.starts_with("0x") ? 16 : 10;
  text.remove_prefix(base == 16 ? 2 : 0);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty())
    return std::nullopt;
  return value;
}

// The folder is laid out as /proc, so it is read as such.
Crash read_crash(const Proc &notes, pid_t pid)
{
  const auto note = parse_crash_note(notes.text(pid, "crash").value_or(""));
  Crash crash{.pid = pid, .signal = note.signal, .address = note.address, .stack = {}};
  const auto stat = notes.stat(pid);
  if (!stat || note.stack.empty())
    return crash;
  Symbolizer symbolizer({.proc = notes});
  crash.stack = symbolizer.frames({.process = {.pid = pid, .start = stat->start}, .postmaster = {}},
                                  note.stack);
  std::erase_if(crash.stack, [](const Frame &frame) {
    return frame.code.module.ends_with(kOurLibrary); // its malloc() is in between
  });
  return crash;
}

} // namespace

CrashNote parse_crash_note(std::string_view text)
{
  CrashNote note;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string key, word;
    words >> key;
    while (words >> word) {
      const auto value = number(word);
      if (!value)
        continue;
      if (key == "signal")
        note.signal = static_cast<int>(std::min<std::uint64_t>(*value, NSIG));
      else if (key == "address")
        note.address = *value;
      else if (key == "stack" && note.stack.size() < kMostFrames)
        note.stack.push_back(*value);
    }
  }
  return note;
}

std::vector<Crash> take_crashes(const std::string &folder, const std::string &root)
{
  std::vector<Crash> crashes;
  const Proc notes(folder);
  for (const pid_t pid : notes.pids()) {
    if (crashes.size() == kMostCrashes)
      break;
    std::error_code ignored;
    std::filesystem::create_symlink(root, notes.path(pid, "root"), ignored);
    crashes.push_back(read_crash(notes, pid));
    std::filesystem::remove_all(notes.path(pid, ""), ignored);
  }
  return crashes;
}

const Frame *suspect(const Crash &crash)
{
  // main() is the server's: no library has one.
  const auto server = std::ranges::find(crash.stack, "main", &Frame::function);
  return asking_frame(crash.stack,
                      server == crash.stack.end() ? std::string_view() : server->code.module);
}

std::string to_string(const Crash &crash)
{
  auto text = fmt::format("signal {} ({})", crash.signal, strsignal(crash.signal));
  if (crash.address)
    text += fmt::format(" at address {:#x}", *crash.address);
  if (const Frame *frame = suspect(crash))
    text += fmt::format(" in {}, {}", to_string(*frame),
                        std::filesystem::path(frame->code.module).filename().string());
  return text;
}

} // namespace pgmemtrace
