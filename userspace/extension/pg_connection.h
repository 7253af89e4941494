// SPDX-License-Identifier: BSD-2-Clause
// pg_connection.h - a connection of libpq, every wait for which has an end.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include <libpq-fe.h>

#include "util/result.h"

namespace pgmemtrace {

using PgConnection = std::unique_ptr<PGconn, decltype(&PQfinish)>;

// When a wait is over, whatever happens: ETIMEDOUT; ECANCELED.
struct PgPatience {
  std::chrono::steady_clock::time_point until;
  int stop = -1;              // readable: every wait ends
  const char *whom = nullptr; // waited for, in errors: "the server"
};

// A dbname is a name, not a connection string.  Error: also of the server, without a number.
Result<PgConnection> connect_pg(const std::map<std::string, std::string> &parameters,
                                const PgPatience &patience);

// Until the socket has one of these events of poll(2).
Result<> wait_for_pg(const PGconn *connection, short events, const PgPatience &patience);

} // namespace pgmemtrace
