// SPDX-License-Identifier: BSD-2-Clause
#include "extension/pg_connection.h"

#include <array>
#include <cerrno>
#include <vector>

#include <fmt/format.h>
#include <poll.h>

#include "util/text.h"

namespace pgmemtrace {

Result<PgConnection> connect_pg(const std::map<std::string, std::string> &parameters,
                                const PgPatience &patience)
{
  std::vector<const char *> keywords, values;
  for (const auto &[keyword, value] : parameters) {
    keywords.push_back(keyword.c_str());
    values.push_back(value.c_str());
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);
  constexpr int kLiterally = 0;
  PgConnection connection(PQconnectStartParams(keywords.data(), values.data(), kLiterally),
                          &PQfinish);
  for (auto next = PGRES_POLLING_WRITING; next != PGRES_POLLING_OK;
       next = PQconnectPoll(connection.get())) {
    if (next == PGRES_POLLING_FAILED || PQstatus(connection.get()) == CONNECTION_BAD)
      return Error{one_line(PQerrorMessage(connection.get())), 0, {}};
    const short events = next == PGRES_POLLING_READING ? POLLIN : POLLOUT;
    if (auto waited = wait_for_pg(connection.get(), events, patience); !waited)
      return waited.error();
  }
  return connection;
}

Result<> wait_for_pg(const PGconn *connection, short events, const PgPatience &patience)
{
  const auto over = [&](int err) {
    return Error{fmt::format("wait for {}", patience.whom), err, {}};
  };
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(
        patience.until - std::chrono::steady_clock::now());
    if (left.count() <= 0)
      return over(ETIMEDOUT);
    std::array<pollfd, 2> waiting{{{patience.stop, POLLIN, 0}, {PQsocket(connection), events, 0}}};
    const int ready = poll(waiting.data(), waiting.size(), static_cast<int>(left.count()));
    if (waiting[0].revents)
      return over(ECANCELED);
    if (ready > 0)
      return Ok{};
    if (ready < 0 && errno != EINTR)
      return over(errno);
  }
}

} // namespace pgmemtrace
