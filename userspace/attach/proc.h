// SPDX-License-Identifier: BSD-2-Clause
// proc.h - /proc, read with every failure expected.
//
// Processes vanish between two reads; all functions say so by an empty optional.  The root
// is a parameter, so that tests bring their own tree.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <sys/types.h>

#include "util/result.h"

namespace pgmemtrace {

class Proc {
public:
  explicit Proc(std::filesystem::path root = "/proc") : root_(std::move(root)) {}

  struct Stat {
    pid_t ppid = 0;
    char state = '?';
    std::uint64_t start = 0;          // clock ticks after boot
    std::uint64_t cpu_ticks = 0;      // utime + stime
    std::uint64_t children_ticks = 0; // cutime + cstime: children that were waited for
  };
  struct Memory {
    std::uint64_t anon_bytes = 0; // RssAnon
    std::uint64_t swap_bytes = 0; // VmSwap
  };
  struct Mapping {
    std::uint64_t start = 0, end = 0, offset = 0, inode = 0;
    bool executable = false;
    std::string path; // as the process sees it, " (deleted)" cut off
  };

  // What tells one executable from another; a path does not.
  struct File {
    std::uint64_t device = 0, inode = 0, size = 0;
    std::int64_t modified_ns = 0; // an inode number is used again after its file is gone

    auto operator<=>(const File &) const = default;
  };

  std::vector<pid_t> pids() const;
  std::optional<Stat> stat(pid_t pid) const;
  std::optional<Memory> memory(pid_t pid) const;
  std::optional<std::vector<Mapping>> maps(pid_t pid) const;
  std::optional<pid_t> namespace_pid(pid_t pid) const; // last value of NSpid
  std::optional<std::string> exe(pid_t pid) const;     // readlink, " (deleted)" kept
  static File file(const struct ::stat &st);
  Result<File> executable(pid_t pid) const;        // ENOENT: gone, or a kernel thread; EACCES
  std::optional<std::string> cwd(pid_t pid) const; // readlink
  // What the process's only thread forked and has not waited for; nullopt if the kernel
  // does not say (CONFIG_PROC_CHILDREN).
  std::optional<std::vector<pid_t>> children(pid_t pid) const;
  // Where the kernel entered the executable (AT_ENTRY).
  std::optional<std::uint64_t> entry_address(pid_t pid) const;
  // A small file below root/PID/, a symbolic link as its last part not followed.
  std::optional<std::string> text(pid_t pid, std::string_view entry) const;
  // A setting below root/sys/, without its newline.
  std::optional<std::string> setting(std::string_view name) const;
  std::optional<std::string> cmdline(pid_t pid) const;                 // NULs as spaces
  std::filesystem::path path(pid_t pid, std::string_view entry) const; // root/PID/entry

private:
  std::filesystem::path root_;
};

// Is PostgreSQL's JIT provider among them?
bool jit_loaded(const std::vector<Proc::Mapping> &mappings);

} // namespace pgmemtrace
