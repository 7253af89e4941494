// SPDX-License-Identifier: BSD-2-Clause
// sql_session.h - one connection to a server, whose waits have an end.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "extension/pg_connection.h"
#include "util/result.h"

namespace pgmemtrace {

class SqlSession {
public:
  using Value = std::optional<std::string>; // nullopt: NULL
  using Rows = std::vector<std::vector<Value>>;

  // Every wait, here and in query(), ends after five seconds, or when `stop` becomes readable:
  // ETIMEDOUT, ECANCELED.
  static Result<SqlSession> connect(const std::map<std::string, std::string> &parameters, int stop);

  // One statement, its parameters as text.  Error: of the server, or, if it is not alive() any
  // more, of the connection.
  Result<Rows> query(const char *sql, const std::vector<Value> &parameters = {});

  bool alive() const { return PQstatus(connection_.get()) == CONNECTION_OK; }
  pid_t backend_pid() const { return PQbackendPID(connection_.get()); }

private:
  SqlSession(PgConnection connection, int stop) : connection_(std::move(connection)), stop_(stop) {}
  Result<> wait(short events, std::chrono::steady_clock::time_point until);
  Error refusal() const;
  Error give_up(const Error &why);

  PgConnection connection_;
  int stop_;
};

} // namespace pgmemtrace
