// SPDX-License-Identifier: BSD-2-Clause
#include "extension/sql_session.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <utility>

#include <poll.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

using Time = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::seconds(5);

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
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Time::now());
    if (left.count() <= 0)
      return Error{"wait for the server", ETIMEDOUT, {}};
    pollfd waiting[] = {{stop_, POLLIN, 0}, {PQsocket(connection_.get()), events, 0}};
    const int ready = poll(waiting, std::size(waiting), static_cast<int>(left.count()));
    if (waiting[0].revents)
      return Error{"wait for the server", ECANCELED, {}};
    if (ready > 0)
      return Ok{};
    if (ready < 0 && errno != EINTR)
      return Error{"wait for the server", errno, {}};
  }
}

Error SqlSession::refusal() const
{
  return Error{one_line(PQerrorMessage(connection_.get())), 0, {}};
}

Result<SqlSession> SqlSession::connect(const std::map<std::string, std::string> &parameters,
                                       int stop)
{
  std::vector<const char *> keywords, values;
  for (const auto &[keyword, value] : parameters) {
    keywords.push_back(keyword.c_str());
    values.push_back(value.c_str());
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);
  constexpr int kLiterally = 0; // a dbname is a name
  SqlSession session(PQconnectStartParams(keywords.data(), values.data(), kLiterally), stop);
  const auto until = Time::now() + kPatience;
  for (auto next = PGRES_POLLING_WRITING; next != PGRES_POLLING_OK;
       next = PQconnectPoll(session.connection_.get())) {
    if (next == PGRES_POLLING_FAILED || PQstatus(session.connection_.get()) == CONNECTION_BAD)
      return session.refusal();
    if (auto waited = session.wait(next == PGRES_POLLING_READING ? POLLIN : POLLOUT, until);
        !waited)
      return waited.error();
  }
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
