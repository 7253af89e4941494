// SPDX-License-Identifier: BSD-2-Clause
// copy_checks.h - checks on copies of servers, for sessions that asked: `pgmemtrace check`, as
// programs of their own, since they take minutes and give up what we may.
//
// One at a time per server; others wait in line.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "extension/outbox.h"
#include "extension/request.h"
#include "snapshot/snapshot.h"
#include "util/child.h"
#include "util/file.h"
#include "util/poll_set.h"

namespace pgmemtrace {

class CopyChecks {
public:
  struct Options {
    std::string dsn;       // see login.h
    std::string directory; // where copies are made; empty: its own default
  };
  struct Ended {
    pid_t postmaster;
    Answer answer;
  };

  explicit CopyChecks(Options options) : options_(std::move(options)) {}
  ~CopyChecks(); // ends all, and waits until their copies are removed

  // `asker`: who waits, if that is known.  Error: the line is full.
  Result<> ask(pid_t postmaster, const ProcessId &asker, const Request &request);
  std::vector<Ended> take();

  // Nobody waits for its checks any more.
  void forget(const ProcessId &asker);
  void forget(pid_t postmaster);

  int poll_fd() const { return events_.fd(); } // readable when one has ended

private:
  struct Asked {
    ProcessId asker;
    Request request;
  };
  struct Running {
    Asked asked;
    Child child;
    UniqueFd out, err;
    UniqueFd lifeline; // closed, it ends: as another user it takes no signals from us
  };

  Result<Running> start(pid_t postmaster, const Asked &asked) const;
  void start_next(pid_t postmaster, std::vector<Ended> &ended);
  void end(Running running);

  Options options_;
  PollSet events_;
  std::map<pid_t, Running> running_;
  std::map<pid_t, std::deque<Asked>> line_; // by postmaster
  std::vector<Running> ending_;
};

// What a check that has ended says: the one object of its "checks", or its error.
Answer answer_of_check(const Request &request, const std::string &out, const std::string &err);

} // namespace pgmemtrace
