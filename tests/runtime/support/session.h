// SPDX-License-Identifier: BSD-2-Clause
// session.h - one client connection, hence one backend that we can name by pid.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <libpq-fe.h>
#include <sys/types.h>

#include "util/result.h"

namespace pgmemtrace::test {

// As text; NULL is the empty string.
using Rows = std::vector<std::vector<std::string>>;

class Session final {
public:
  Session() : Session(nullptr) {} // connected to nothing: every statement fails
  static Result<Session> connect(const std::string &conninfo);

  pid_t backend_pid() const { return PQbackendPID(conn_.get()); }
  PGconn *get() const { return conn_.get(); }

  // Each is one round trip of the simple protocol.  exec() and value() fail the running
  // test on an SQL error; try_exec() returns it, with the server's words in `hint`.
  Rows exec(const std::string &sql);
  Result<Rows> try_exec(const std::string &sql);
  std::string value(const std::string &sql); // first column of the first row

  // A statement that runs while the test does something else.
  void send_async(const std::string &sql);
  bool busy(); // has no complete answer yet
  Result<Rows> finish();

  void close() { conn_.reset(); } // the backend ends soon after

private:
  explicit Session(PGconn *conn) : conn_(conn, &PQfinish) {}

  std::unique_ptr<PGconn, decltype(&PQfinish)> conn_;
};

} // namespace pgmemtrace::test
