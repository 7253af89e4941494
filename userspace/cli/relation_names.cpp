// SPDX-License-Identifier: BSD-2-Clause
// relation_names.cpp - one query over libpq.
#include "cli/relation_names.h"

#include <charconv>
#include <memory>
#include <string_view>

#include <fmt/format.h>
#include <libpq-fe.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

using Connection = std::unique_ptr<PGconn, decltype(&PQfinish)>;
using Answer = std::unique_ptr<PGresult, decltype(&PQclear)>;

// What `conninfo` says of the first two wins, since it comes behind them.
Connection connect(const std::string &conninfo)
{
  const char *const keywords[] = {"connect_timeout", "fallback_application_name", "dbname",
                                  nullptr};
  const char *const values[] = {"5", "pgmemtrace", conninfo.c_str(), nullptr};
  constexpr int kExpandDbname = 1;
  return {PQconnectdbParams(keywords, values, kExpandDbname), &PQfinish};
}

Error refused(PGconn *connection, std::string_view what)
{
  return Error{fmt::format("{}: {}", what, one_line(PQerrorMessage(connection))), 0,
               "--dsn takes what psql takes: 'host=/run/postgresql user=postgres'"};
}

} // namespace

Result<std::map<std::uint32_t, std::string>> relation_names(const std::string &conninfo, int major,
                                                            const std::vector<std::uint32_t> &oids)
{
  const Connection connection = connect(conninfo);
  if (PQstatus(connection.get()) != CONNECTION_OK)
    return refused(connection.get(), "connect with --dsn");
  const int its_major = PQserverVersion(connection.get()) / 10000;
  if (its_major != major)
    return Error{
        fmt::format("take names from the server of --dsn: it is PostgreSQL {}, the process "
                    "{}",
                    its_major, major),
        0, "connect to the server of the process"};
  Answer answer(PQexec(connection.get(), "SET statement_timeout = '5s'"), &PQclear);
  if (PQresultStatus(answer.get()) != PGRES_COMMAND_OK)
    return refused(connection.get(), "ask for the names of catalogs");
  const std::string list = fmt::format("{{{}}}", fmt::join(oids, ","));
  const char *const parameters[] = {list.c_str()};
  answer.reset(PQexecParams(connection.get(),
                            "SELECT oid, relname FROM pg_catalog.pg_class WHERE oid = ANY "
                            "($1::pg_catalog.oid[])",
                            1, nullptr, parameters, nullptr, nullptr, 0));
  if (PQresultStatus(answer.get()) != PGRES_TUPLES_OK)
    return refused(connection.get(), "ask for the names of catalogs");
  std::map<std::uint32_t, std::string> names;
  for (int row = 0; row < PQntuples(answer.get()); ++row) {
    const std::string_view text = PQgetvalue(answer.get(), row, 0);
    std::uint32_t oid = 0;
    std::from_chars(text.data(), text.data() + text.size(), oid);
    names[oid] = PQgetvalue(answer.get(), row, 1);
  }
  return names;
}

} // namespace pgmemtrace
