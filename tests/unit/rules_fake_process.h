// SPDX-License-Identifier: BSD-2-Clause
// rules_fake_process.h - a server process whose context tree a test sets group by group.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "snapshot/snapshot.h"

namespace pgmemtrace::test {

class FakeProcess {
public:
  explicit FakeProcess(pid_t pid = 4711)
  {
    snapshot_.process.id = {pid, 100};
    snapshot_.process.server_pid = pid;
    snapshot_.process.major = 15;
    snapshot_.process.backend_type = "client backend";
    snapshot_.taken_at = Clock::time_point{std::chrono::hours(24)};
    snapshot_.work_mem_bytes = 8ULL << 20;
    snapshot_.private_bytes = 3500ULL << 10;
    snapshot_.first = true;
    // What every backend has.
    set("TopMemoryContext", 1, 90'000, 97'000);
    set("TopMemoryContext|CacheMemoryContext", 1, 480'000, 524'288);
    set("TopMemoryContext|CacheMemoryContext|index info", 90, 120'000, 180'000);
    set("TopMemoryContext|Relcache by OID", 1, 12'000, 16'384);
    set("TopMemoryContext|TopPortalContext", 1, 600, 8192);
    set("TopMemoryContext|MessageContext", 1, 1300, 8192);
    set("TopMemoryContext|ErrorContext", 1, 264, 8192);
  }

  // The parts of a path are divided by '|', since names may hold a slash.
  // `count` contexts below that path's parent, `used` and `total` bytes in all.  Their
  // addresses depend on path and number only, unless `moving`: then none survives.
  FakeProcess &set(const std::string &path, std::uint32_t count, double used, double total,
                   bool moving = false)
  {
    for (Group &group : groups_)
      if (group.path == path) {
        group = {path, count, used, total, moving};
        return *this;
      }
    groups_.push_back({path, count, used, total, moving});
    return *this;
  }
  FakeProcess &set(const std::string &path, double used) { return set(path, 1, used, used); }

  FakeProcess &advance(double seconds, std::uint64_t statements = 0)
  {
    const auto step =
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    snapshot_.taken_at += step;
    snapshot_.moment += step;
    snapshot_.activity.statements += statements;
    snapshot_.activity.requests += statements;
    snapshot_.cpu_ticks += 1;
    return *this;
  }
  FakeProcess &idle(double seconds)
  {
    advance(seconds);
    snapshot_.cpu_ticks -= 1;
    return *this;
  }

  // The address of the first context of a group.
  static std::uint64_t address_of(const std::string &path)
  {
    return std::hash<std::string>{}(path)&0x0000ffff'ff000000ULL;
  }

  ProcessSnapshot &values() { return snapshot_; } // for what has no function here

  ProcessSnapshot take()
  {
    snapshot_.contexts.clear();
    std::vector<std::pair<std::string, std::size_t>> firsts; // path, index of its first context
    for (const Group &group : groups_) {
      if (group.count == 0)
        continue;
      const std::size_t slash = group.path.rfind('|');
      std::int32_t parent = -1;
      std::int32_t level = 1;
      if (slash != std::string::npos) {
        bool found = false;
        for (const auto &[path, index] : firsts)
          if (path == group.path.substr(0, slash)) {
            parent = static_cast<std::int32_t>(index);
            level = snapshot_.contexts[index].level + 1;
            found = true;
          }
        EXPECT_TRUE(found) << "the parent of " << group.path << " was not set before it";
      }
      firsts.emplace_back(group.path, snapshot_.contexts.size());
      const std::uint64_t base = address_of(group.path);
      for (std::uint32_t i = 0; i < group.count; ++i) {
        Context context;
        context.address = base + 64ULL * i + (group.moving ? 8 * (taken_ % 7) : 0);
        context.parent = parent;
        context.level = level;
        context.type = ContextType::alloc_set;
        context.name = slash == std::string::npos ? group.path : group.path.substr(slash + 1);
        context.total_bytes = static_cast<std::uint64_t>(group.total / group.count);
        context.free_bytes =
            context.total_bytes -
            std::min(context.total_bytes, static_cast<std::uint64_t>(group.used / group.count));
        snapshot_.contexts.push_back(std::move(context));
      }
    }
    ++taken_;
    ProcessSnapshot taken = snapshot_;
    snapshot_.first = false;
    snapshot_.activity.growth.clear();
    snapshot_.activity.peak.reset();
    return taken;
  }

private:
  struct Group {
    std::string path;
    std::uint32_t count;
    double used;
    double total;
    bool moving;
  };
  std::vector<Group> groups_; // parents first
  ProcessSnapshot snapshot_;
  std::uint64_t taken_ = 0;
};

} // namespace pgmemtrace::test
