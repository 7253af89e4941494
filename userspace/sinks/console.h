// SPDX-License-Identifier: BSD-2-Clause
// console.h - the sink for a person: one line per event, readable without colour.
//
//   TIME ERROR   ctx_bloat 15/main pid 4242 client backend alice@shop: PATH 1.2 MiB -> 9.8 MiB
//                (+8.6 MiB), linear, ...; DETAIL; query: SELECT ...
//       advice: ...
//   TIME ERROR   ctx_bloat 15/main pid 4242: PATH still growing, 1.2 MiB -> 19 MiB (+18 MiB)
//   TIME ok      ctx_bloat 15/main pid 4242: PATH cleared ...
//   TIME level   level of 15/main: statement -> request: estimated overhead 7.2% > 5.0%
//   TIME status  1 server, 23 processes, 120 MiB in contexts ...
#pragma once

#include <chrono>
#include <map>
#include <ostream>
#include <string>
#include <string_view>

#include "sinks/sink.h"
#include "sinks/status.h"

namespace pgmemtrace {

struct ConsoleOptions {
  bool color = false; // is the stream a terminal?
  bool redact = false;
  std::chrono::nanoseconds status_interval = std::chrono::seconds{10};
};

class ConsoleSink final : public Sink {
public:
  // `out` must outlive the sink.
  ConsoleSink(std::ostream &out, const ConsoleOptions &options);

  Result<> write(const Snapshot &snapshot, std::span<const Violation> changes,
                 std::span<const Violation> active) override;

private:
  struct SeenServer {
    std::string instance;
    Level level;
  };

  void line(Clock::time_point time, std::string_view tag, std::string_view color,
            std::string_view text);
  void write_servers(const Snapshot &snapshot);
  void write_code(const Violation &violation);
  void write_violation(const Violation &violation);
  void write_status(const Snapshot &snapshot, const Status &status, std::size_t active);

  std::ostream &out_;
  ConsoleOptions options_;
  StatusTracker status_;
  std::map<pid_t, SeenServer> servers_; // by postmaster, as of the last snapshot
};

} // namespace pgmemtrace
