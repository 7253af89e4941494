// SPDX-License-Identifier: BSD-2-Clause
// json_lines.h - the sink for programs: one JSON object per line, nothing else.
//
//   {"type":"violation", ...}  one per change; the keys of DESIGN.md section 8, all always
//                              there, null if unknown
//   {"type":"status", ...}     what is watched and how the tool fares, once per interval
//
// query_id is a number as pg_stat_activity shows it.  Where the server computes none it is
// the string "text:" + 16 hex digits: a fingerprint of the text without literals.
#pragma once

#include <chrono>
#include <ostream>
#include <string>

#include "sinks/sink.h"
#include "sinks/status.h"

namespace pgmemtrace {

struct JsonOptions {
  bool redact = false; // drop literals from queries, idents altogether
  std::chrono::nanoseconds status_interval = std::chrono::seconds{10};
};

// The line of a violation, without its end.
std::string json_of(const Violation &violation, bool redacted);

class JsonSink final : public Sink {
public:
  // `out` must outlive the sink.  Flushed after every line.
  JsonSink(std::ostream &out, const JsonOptions &options);

  Result<> write(const Snapshot &snapshot, std::span<const Violation> changes,
                 std::span<const Violation> active) override;

private:
  std::ostream &out_;
  JsonOptions options_;
  StatusTracker status_;
};

} // namespace pgmemtrace
