// SPDX-License-Identifier: BSD-2-Clause
#include "extension/sql_session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <poll.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

using Time = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::seconds(5);
constexpr const char *kWhom = "the server";

using Answer = std::unique_ptr<PGresult, decltype(&PQclear)>;

SqlSession::Rows rows_of(const PGresult *result)
{
  SqlSession::Rows rows(static_cast<std::size_t>(PQntuples(result)));
  for (int row = 0; row < PQntuples(result); ++row)
    for (int column = 0; column < PQnfields(result); ++column)
      rows[static_cast<std::size_t>(row)].push_back(
          PQgetisnull(result, row, column)
              ? SqlSession::Value()
              : std::string(PQgetvalue(result, row, column),
                            static_cast<std::size_t>(PQgetlength(result, row, column))));
  return rows;
}

} // namespace

Result<> SqlSession::wait(short events, Time::time_point until)
{
  return wait_for_pg(connection_.get(), events, {until, stop_, kWhom});
}

Error SqlSession::refusal() const
{
  return Error{one_line(PQerrorMessage(connection_.get())), 0, {}};
}

Result<SqlSession> SqlSession::connect(const std::map<std::string, std::string> &parameters,
                                       int stop)
{
  auto connected = connect_pg(parameters, {Time::now() + kPatience, stop, kWhom});
  if (!connected)
    return connected.error();
  SqlSession session(std::move(*connected), stop);
  if (PQsetnonblocking(session.connection_.get(), 1) != 0)
    return session.refusal();
  return session;
}

Result<SqlSession::Rows> SqlSession::query(const char *sql, const std::vector<Value> &parameters)
{
  std::vector<const char *> values(parameters.size());
  std::ranges::transform(parameters, values.begin(), [](const Value &parameter) {
    return parameter ? parameter->c_str() : nullptr;
  });
  const auto until = Time::now() + kPatience;
  PGconn *connection = connection_.get();
  if (!PQsendQueryParams(connection, sql, static_cast<int>(values.size()), nullptr, values.data(),
                         nullptr, nullptr, 0))
    return refusal();
  // What does not fit into the socket's buffer: the server may want to be read first.
  for (int left = PQflush(connection); left != 0; left = PQflush(connection)) {
    if (left < 0)
      return refusal();
    if (auto waited = wait(POLLIN | POLLOUT, until); !waited)
      return give_up(waited.error());
    if (!PQconsumeInput(connection))
      return refusal();
  }
  Result<Rows> rows = Error{"the server said nothing", 0, {}};
  for (;;) {
    while (PQisBusy(connection)) {
      if (auto waited = wait(POLLIN, until); !waited)
        return give_up(waited.error());
      if (!PQconsumeInput(connection))
        return refusal();
    }
    const Answer answer(PQgetResult(connection), &PQclear);
    if (!answer)
      return rows;
    if (PQresultStatus(answer.get()) == PGRES_TUPLES_OK)
      rows = rows_of(answer.get());
    else
      rows = Error{one_line(PQresultErrorMessage(answer.get())), 0, {}};
  }
}

// What was asked may still be answered: the next question must not take it for its own.
Error SqlSession::give_up(const Error &why)
{
  connection_.reset();
  return why;
}

} // namespace pgmemtrace
