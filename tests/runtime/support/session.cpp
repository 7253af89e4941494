// SPDX-License-Identifier: BSD-2-Clause
// session.cpp - see session.h.
#include "session.h"

#include <gtest/gtest.h>

namespace pgmemtrace::test {
namespace {

using ResultPtr = std::unique_ptr<PGresult, decltype(&PQclear)>;

bool is_error(const PGresult *result)
{
  switch (PQresultStatus(result)) {
  case PGRES_BAD_RESPONSE:
  case PGRES_FATAL_ERROR: return true;
  default: return false;
  }
}

// COPY has to be ended before the connection can be used again; no test needs its data.
bool end_copy(PGconn *conn, const PGresult *result)
{
  switch (PQresultStatus(result)) {
  case PGRES_COPY_IN: PQputCopyEnd(conn, "not supported by Session"); return true;
  case PGRES_COPY_OUT:
    for (char *row = nullptr; PQgetCopyData(conn, &row, 0) > 0;)
      PQfreemem(row);
    return true;
  case PGRES_COPY_BOTH: // the one who started replication reads it through get()
    return false;
  default: return true;
  }
}

Rows rows_of(const PGresult *result)
{
  Rows rows;
  for (int r = 0; r < PQntuples(result); ++r) {
    auto &row = rows.emplace_back();
    for (int c = 0; c < PQnfields(result); ++c)
      row.emplace_back(PQgetvalue(result, r, c));
  }
  return rows;
}

} // namespace

Result<Session> Session::connect(const std::string &conninfo)
{
  Session session(PQconnectdb(conninfo.c_str()));
  if (PQstatus(session.get()) != CONNECTION_OK)
    return Error{"connect to " + conninfo, 0, PQerrorMessage(session.get())};
  PQsetNoticeProcessor(
      session.get(), [](void *, const char *) {}, nullptr);
  return session;
}

Result<Rows> Session::finish()
{
  Rows rows;
  std::string message;
  while (ResultPtr result{PQgetResult(conn_.get()), &PQclear}) {
    if (is_error(result.get()))
      message = PQresultErrorMessage(result.get());
    else
      rows = rows_of(result.get());
    if (!end_copy(conn_.get(), result.get()))
      break;
  }
  if (!message.empty() || PQstatus(conn_.get()) != CONNECTION_OK)
    return Error{"run SQL", 0, message.empty() ? PQerrorMessage(conn_.get()) : message};
  return rows;
}

Result<Rows> Session::try_exec(const std::string &sql)
{
  if (!PQsendQuery(conn_.get(), sql.c_str()))
    return Error{"send " + sql, 0, PQerrorMessage(conn_.get())};
  return finish();
}

Rows Session::exec(const std::string &sql)
{
  auto rows = try_exec(sql);
  if (rows)
    return *rows;
  ADD_FAILURE() << sql << "\n" << rows.error().hint;
  return {};
}

std::string Session::value(const std::string &sql)
{
  auto rows = exec(sql);
  if (!rows.empty() && !rows.front().empty())
    return rows.front().front();
  ADD_FAILURE() << "no row from: " << sql;
  return {};
}

void Session::send_async(const std::string &sql)
{
  if (!PQsendQuery(conn_.get(), sql.c_str()))
    ADD_FAILURE() << sql << "\n" << PQerrorMessage(conn_.get());
}

bool Session::busy() { return PQconsumeInput(conn_.get()) && PQisBusy(conn_.get()); }

} // namespace pgmemtrace::test
