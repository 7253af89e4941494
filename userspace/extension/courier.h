// SPDX-License-Identifier: BSD-2-Clause
// courier.h - what goes to one server over SQL, by a thread of its own.
//
// Nobody waits for it: what is put there is delivered when the server takes it, in the order
// answers, question, log.  Connects when there is something to say and hangs up when there is not,
// so that it holds no connection slot and no smart shutdown up.  A server that is down or refuses
// is tried again, ever more rarely, and said once.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "extension/login.h"
#include "extension/outbox.h"
#include "util/file.h"
#include "util/result.h"

namespace pgmemtrace {

class SqlSession;

class Courier {
public:
  struct Waiting { // a row of requests()
    std::uint64_t id = 0;
    std::string kind;
    std::string json;
  };
  struct News {
    std::vector<Waiting> waiting;
    std::vector<Error> errors; // each once
  };
  struct Lost {
    std::uint64_t answers = 0, violations = 0;
  };

  // `server`: what to call it in errors.  `news`: an eventfd, written to when there are any; must
  // outlive the courier.
  Courier(SqlLogin login, std::string server, int news);
  ~Courier(); // waits for the thread, which nothing but a name server can hold up

  void put(Answer answer);
  void put_violation(std::string json);
  void ask(); // for everything that waits there

  News take_news();
  Lost lost() const;

  // To be destroyed when it has ended, without a wait.
  void stop();
  bool ended() const { return ended_; }

private:
  using Duration = std::chrono::milliseconds;

  void run();
  void take_identity() const;
  bool connect(std::unique_ptr<SqlSession> &session);
  void say(SqlSession &session);
  void say(SqlSession &session, Answer answer);
  void tell(SqlSession &session, std::string violation);
  void question(SqlSession &session);
  void complain(const std::string &doing, const Error &why, std::string hint);
  void wait_for_stop(Duration limit) const;

  const SqlLogin login_;
  const std::string server_;
  const int news_fd_;
  UniqueFd stop_fd_; // readable: the end

  mutable std::mutex mutex_; // over the next four
  std::condition_variable changed_;
  Outbox outbox_;
  News news_;
  Lost lost_; // by the server's own word

  std::string complaint_; // the last one; empty: all is well
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> ended_ = false;
  std::thread thread_; // last: it uses all of the above
};

} // namespace pgmemtrace
