// SPDX-License-Identifier: BSD-2-Clause
#include "copy/workload.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <poll.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kKept = 256; // of what a statement returned
constexpr auto kLastWords = std::chrono::seconds(10);
constexpr const char *kWhom = "the copy";

// FNV-1a, 64 bits: results are told from one another, nobody forges them.
void add(StatementOutcome &outcome, std::string_view text)
{
  outcome.begin += text.substr(0, kKept - std::min(kKept, outcome.begin.size()));
  for (const char c : text)
    outcome.digest = (outcome.digest ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
}

void add_rows(StatementOutcome &outcome, const PGresult *result)
{
  for (int row = 0; row < PQntuples(result); ++row) {
    for (int column = 0; column < PQnfields(result); ++column) {
      add(outcome, column == 0 ? "" : "|");
      if (!PQgetisnull(result, row, column))
        add(outcome, {PQgetvalue(result, row, column),
                      static_cast<std::size_t>(PQgetlength(result, row, column))});
    }
    add(outcome, "\n");
  }
}

std::string field(const PGresult *result, int which)
{
  const char *text = PQresultErrorField(result, which);
  return text == nullptr ? "" : one_line(text);
}

} // namespace

Result<std::unique_ptr<WorkloadSession>>
WorkloadSession::connect(const std::map<std::string, std::string> &parameters, Limits limits)
{
  auto connected = connect_pg(parameters, {Time::now() + limits.run, limits.stop, kWhom});
  if (!connected && connected.error().err == 0)
    return Error{"connect to the copy: " + connected.error().what, 0, {}};
  if (!connected)
    return connected.error();
  PQsetNoticeProcessor(
      connected->get(), [](void *, const char *) {}, nullptr);
  return std::unique_ptr<WorkloadSession>(new WorkloadSession(std::move(*connected), limits));
}

Result<> WorkloadSession::wait(short events, Time::time_point until)
{
  return wait_for_pg(connection_.get(), events, {until, limits_.stop, kWhom});
}

Result<RunOutcome> WorkloadSession::run(const std::string &sql)
{
  PGconn *connection = connection_.get();
  RunOutcome outcome;
  auto until = Time::now() + limits_.run;
  in_rows_ = false;
  if (!PQsendQuery(connection, sql.c_str())) {
    outcome.error = one_line(PQerrorMessage(connection));
    outcome.end = RunOutcome::End::session_lost;
    return outcome;
  }
  (void)PQsetSingleRowMode(connection); // however much it returns
  for (;;) {
    while (PQisBusy(connection)) {
      if (auto waited = wait(POLLIN, until); !waited && waited.error().err == ECANCELED) {
        return waited.error();
      } else if (!waited) {
        if (std::exchange(outcome.end, RunOutcome::End::timed_out) == RunOutcome::End::timed_out) {
          connection_.reset(); // it does not even hear that it is to end
          return outcome;
        }
        cancel();
        until = Time::now() + kLastWords;
      } else if (!PQconsumeInput(connection)) {
        break; // PQgetResult() says so
      }
    }
    PGresult *result = PQgetResult(connection);
    if (result == nullptr)
      break;
    const bool more = take(result, outcome);
    PQclear(result);
    if (!more)
      break;
  }
  if (PQstatus(connection) != CONNECTION_OK) {
    if (outcome.error.empty())
      outcome.error = one_line(PQerrorMessage(connection));
    if (outcome.end == RunOutcome::End::done)
      outcome.end = RunOutcome::End::session_lost;
  }
  return outcome;
}

// False: there is nothing more to be had.
bool WorkloadSession::take(PGresult *result, RunOutcome &outcome)
{
  const auto status = PQresultStatus(result);
  if (status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) {
    if (outcome.error.empty()) { // the first is the cause: what follows a lost session is libpq's
      outcome.sqlstate = field(result, PG_DIAG_SQLSTATE);
      const auto severity = field(result, PG_DIAG_SEVERITY_NONLOCALIZED);
      outcome.error = severity.empty() ? one_line(PQresultErrorMessage(result))
                                       : severity + ": " + field(result, PG_DIAG_MESSAGE_PRIMARY);
      if (!severity.empty())
        outcome.raised_in = fmt::format("{}, {}", field(result, PG_DIAG_SOURCE_FUNCTION),
                                        field(result, PG_DIAG_SOURCE_FILE));
    }
    return true;
  }
  if (!std::exchange(in_rows_, status == PGRES_SINGLE_TUPLE))
    outcome.statements.emplace_back();
  StatementOutcome &statement = outcome.statements.back();
  add_rows(statement, result);
  if (status == PGRES_COPY_OUT)
    take_copy_out(statement);
  else if (status == PGRES_COPY_IN)
    (void)PQputCopyEnd(connection_.get(), "the workload of a check has no input");
  else if (status != PGRES_SINGLE_TUPLE)
    add(statement, PQcmdStatus(result));
  return status != PGRES_COPY_BOTH;
}

void WorkloadSession::take_copy_out(StatementOutcome &statement)
{
  char *row = nullptr;
  for (int length = 0; (length = PQgetCopyData(connection_.get(), &row, 0)) > 0; PQfreemem(row))
    add(statement, {row, static_cast<std::size_t>(length)});
}

void WorkloadSession::cancel()
{
  std::array<char, 256> ignored;
  const std::unique_ptr<PGcancel, decltype(&PQfreeCancel)> request(PQgetCancel(connection_.get()),
                                                                   &PQfreeCancel);
  if (request)
    (void)PQcancel(request.get(), ignored.data(), static_cast<int>(ignored.size()));
}

std::string to_string(const RunOutcome &run)
{
  if (!run.failed())
    return "no error";
  return run.raised_in.empty()
             ? run.error
             : fmt::format("{} ({}, raised in {})", run.error, run.sqlstate, run.raised_in);
}

Result<std::string> WorkloadSession::value(const std::string &sql)
{
  auto outcome = run(sql);
  if (!outcome)
    return outcome.error();
  if (outcome->failed() || outcome->statements.empty())
    return std::string();
  return outcome->statements.front().begin.substr(0, outcome->statements.front().begin.find('\n'));
}

} // namespace pgmemtrace
