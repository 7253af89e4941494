// SPDX-License-Identifier: BSD-2-Clause
// outbox.h - what waits to be said to one server: bounded, answers first.
//
// A session waits for an answer; the log can wait.  Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include <sys/types.h>

namespace pgmemtrace {

struct Answer {
  pid_t backend_pid = 0; // as the server numbers it
  std::uint64_t request_id = 0;
  std::string json;  // empty: NULL
  std::string error; // empty: none
};

class Outbox {
public:
  struct Limits {
    std::size_t answers = 256;       // the extension lets 64 sessions wait
    std::size_t bytes = 64ULL << 20; // of answers; one is taken whatever its size
    std::size_t violations = 1024;
  };
  struct Dropped {
    std::uint64_t answers = 0, violations = 0;
  };

  Outbox() : Outbox(Limits{}) {}
  explicit Outbox(Limits limits) : limits_(limits) {}

  // What has no room is counted: of answers the oldest, whose asker gave up first; of violations
  // the newest, since the log is told in order.
  void put(Answer answer);
  void put_violation(std::string json);
  void ask() { ask_ = true; } // for everything that waits there

  bool take_ask();
  std::optional<Answer> take_answer();
  std::optional<std::string> take_violation();
  bool empty() const { return !ask_ && answers_.empty() && violations_.empty(); }

  const Dropped &dropped() const { return dropped_; }

private:
  Limits limits_;
  std::deque<Answer> answers_;
  std::deque<std::string> violations_;
  std::size_t bytes_ = 0; // of answers_
  bool ask_ = false;
  Dropped dropped_;
};

} // namespace pgmemtrace
