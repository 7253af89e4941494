// SPDX-License-Identifier: BSD-2-Clause
// workload.h - the statements that are checked, run as one string, and what came of it.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "extension/pg_connection.h"
#include "util/result.h"

namespace pgmemtrace {

// What one statement returned: its rows as text, and its command tag.
struct StatementOutcome {
  std::string begin;        // the first bytes of it
  std::uint64_t digest = 0; // of all of it
  bool operator==(const StatementOutcome &) const = default;
};

struct RunOutcome {
  std::vector<StatementOutcome> statements; // up to the one that failed
  std::string sqlstate;                     // empty: none failed, or the server did not say
  std::string error;                        // one line, with its severity; empty: none
  std::string raised_in;                    // "palloc, mcxt.c"; empty: the server did not say
  enum class End : std::uint8_t { done, session_lost, timed_out } end = End::done;

  bool failed() const { return !error.empty(); }
};

// "ERROR: out of memory (53200, raised in palloc, mcxt.c)"; "no error".
std::string to_string(const RunOutcome &run);

class WorkloadSession {
public:
  using Time = std::chrono::steady_clock;
  struct Limits {
    std::chrono::seconds run{60}; // then it is cancelled, and has timed_out
    int stop = -1;                // readable: every wait ends
  };

  static Result<std::unique_ptr<WorkloadSession>>
  connect(const std::map<std::string, std::string> &parameters, Limits limits);

  // As psql -c sends it: by the simple protocol, one message.  Error: only ECANCELED.
  Result<RunOutcome> run(const std::string &sql);
  // What the one statement with one row of one column returned; empty where it did not.
  Result<std::string> value(const std::string &sql);

  pid_t backend_pid() const { return PQbackendPID(connection_.get()); }

private:
  WorkloadSession(PgConnection connection, Limits limits)
      : connection_(std::move(connection)), limits_(limits)
  {
  }
  Result<> wait(short events, Time::time_point until);
  bool take(PGresult *result, RunOutcome &outcome);
  void take_copy_out(StatementOutcome &statement);
  void cancel();

  PgConnection connection_;
  Limits limits_;
  bool in_rows_ = false; // the last statement of an outcome has not ended
};

} // namespace pgmemtrace
