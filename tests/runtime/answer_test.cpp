// SPDX-License-Identifier: BSD-2-Clause
// answer_test.cpp - round trips, counted where their answer is sent: each once, whatever the
// client says and however it is answered, and those of nobody else.
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

#include <gmock/gmock.h>

#include "support/kernel.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

class AnswerTest : public RuntimeTest {
protected:
  static void SetUpTestSuite() { use_cluster({.conf = {"wal_level = logical"}}); }
};

// What a client does, and in how many round trips.
struct Talk {
  const char *what;
  int round_trips;
  std::function<void(Session &)> take_place;
};

void drain(PGconn *conn, int syncs)
{
  while (syncs > 0)
    if (PGresult *result = PQgetResult(conn)) {
      syncs -= PQresultStatus(result) == PGRES_PIPELINE_SYNC;
      PQclear(result);
    }
}

void extended(Session &session, const char *sql)
{
  PQclear(PQexecParams(session.get(), sql, 0, nullptr, nullptr, nullptr, nullptr, 0));
}

void pipeline(Session &session, int queries, bool sync_each)
{
  PGconn *conn = session.get();
  ASSERT_TRUE(PQenterPipelineMode(conn));
  int syncs = 0;
  for (int i = 0; i < queries; ++i) {
    PQsendQueryParams(conn, "SELECT count(*) FROM pg_class", 0, nullptr, nullptr, nullptr, nullptr,
                      0);
    if (sync_each || i + 1 == queries)
      syncs += PQpipelineSync(conn);
  }
  drain(conn, syncs);
  ASSERT_TRUE(PQexitPipelineMode(conn));
}

// The server waits in the middle of an answer until its client reads.
void read_late(Session &session, Session &watcher)
{
  session.send_async("SELECT repeat('x', 1000) FROM generate_series(1, 20000)");
  EXPECT_TRUE(eventually([&] {
    return watcher.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' "
                         "AND pid = " +
                         std::to_string(session.backend_pid())) == "1";
  }));
  EXPECT_TRUE(session.finish());
}

std::vector<Talk> talks(Session &watcher)
{
  return {
      {"a query", 1, [](Session &s) { s.exec("SELECT 1"); }},
      {"no query", 1, [](Session &s) { s.exec(""); }},
      {"several at once", 1, [](Session &s) { s.exec("SELECT 1; SELECT 2; SELECT 3"); }},
      {"a utility", 1, [](Session &s) { s.exec("SET work_mem = '5MB'"); }},
      {"a syntax error", 1, [](Session &s) { EXPECT_FALSE(s.try_exec("SELEKT")); }},
      {"an error in the middle of rows", 1,
       [](Session &s) {
         EXPECT_FALSE(s.try_exec("SELECT 100 / (5000 - g), repeat('x', 100) "
                                 "FROM generate_series(1, 6000) g"));
       }},
      {"an error at the end of the transaction", 1,
       [](Session &s) { extended(s, "INSERT INTO deferred VALUES (1), (1)"); }},
      {"many rows", 1,
       [](Session &s) { s.exec("SELECT repeat('x', 1000) FROM generate_series(1, 5000)"); }},
      {"many rows, read late", 1, [&](Session &s) { read_late(s, watcher); }},
      {"many rows by the extended protocol", 1,
       [](Session &s) { extended(s, "SELECT repeat('x', 1000) FROM generate_series(1, 5000)"); }},
      {"notices", 1,
       [](Session &s) {
         s.exec("DO $$BEGIN FOR i IN 1..9 LOOP RAISE NOTICE '%', i; END LOOP; END$$");
       }},
      {"COPY to the client", 1, [](Session &s) { s.exec("COPY pg_class TO STDOUT"); }},
      {"prepare and execute", 2,
       [](Session &s) {
         PQclear(PQprepare(s.get(), "p", "SELECT 1", 0, nullptr));
         PQclear(PQexecPrepared(s.get(), "p", 0, nullptr, nullptr, nullptr, 0));
       }},
      {"a transaction with a cursor", 5,
       [](Session &s) {
         for (const char *sql : {"BEGIN", "DECLARE c CURSOR FOR SELECT * FROM pg_class",
                                 "FETCH 10 FROM c", "FETCH 10 FROM c", "COMMIT"})
           s.exec(sql);
       }},
      {"a pipeline, one Sync each", 20, [](Session &s) { pipeline(s, 20, true); }},
      {"a pipeline, one Sync", 1, [](Session &s) { pipeline(s, 20, false); }},
  };
}

std::uint64_t requests(Kernel &kernel, const Session &session)
{
  const auto *slot = kernel.slot(session);
  return slot ? slot->requests : 0;
}

// Of each talk on `session`, with a server whose kernel half is `kernel`.
void expect_each_counted_once(Kernel &kernel, Session &session, Session &watcher)
{
  session.exec("CREATE TEMP TABLE deferred (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
  settle(kernel, session, 1);
  for (const auto &talk : talks(watcher)) {
    const auto before = requests(kernel, session);
    talk.take_place(session);
    // One more would come before that of the next query.
    session.exec("SELECT 1");
    const auto expected = before + static_cast<std::uint64_t>(talk.round_trips) + 1;
    EXPECT_TRUE(eventually([&] { return requests(kernel, session) >= expected; })) << talk.what;
    EXPECT_EQ(requests(kernel, session), expected) << talk.what;
  }
  EXPECT_EQ(kernel.hits(session, PGMT_PROBE_SETTLE), requests(kernel, session));
}

TEST_F(AnswerTest, each_round_trip_is_counted_once)
{
  auto session = cluster().connect(), watcher = cluster().connect();
  Kernel kernel(cluster(), Level::request);
  ASSERT_TRUE(kernel.probes().settles_by_answer());
  expect_each_counted_once(kernel, session, watcher);
}

// What kernels before 6.3 get.
TEST_F(AnswerTest, each_round_trip_is_counted_once_by_a_uprobe)
{
  auto session = cluster().connect(), watcher = cluster().connect();
  Kernel kernel(cluster(), Level::request, {}, {.answers = false});
  ASSERT_FALSE(kernel.probes().settles_by_answer());
  expect_each_counted_once(kernel, session, watcher);
}

// It sends and sends, and its command is never over.
TEST_F(AnswerTest, what_a_walsender_streams_is_no_answer)
{
  auto writer = cluster().connect();
  auto walsender = cluster().connect("postgres", "replication=database");
  PGconn *conn = walsender.get();
  Kernel kernel(cluster(), Level::request);
  walsender.exec("CREATE_REPLICATION_SLOT slot TEMPORARY LOGICAL test_decoding");
  settle(kernel, walsender, 1);
  PGresult *started = PQexec(conn, "START_REPLICATION SLOT slot LOGICAL 0/0");
  ASSERT_EQ(PQresultStatus(started), PGRES_COPY_BOTH) << PQerrorMessage(conn);
  PQclear(started);
  writer.exec("CREATE TABLE streamed (a int)");
  int changes = 0;
  EXPECT_TRUE(eventually([&] {
    writer.exec("INSERT INTO streamed VALUES (1)");
    PQconsumeInput(conn);
    for (char *message = nullptr; PQgetCopyData(conn, &message, 1) > 0; PQfreemem(message))
      changes += message[0] == 'w';
    return changes > 100;
  })) << changes;
  EXPECT_EQ(requests(kernel, walsender), 1U);
}

// ---- encrypted -----------------------------------------------------------------------------

// An address of this machine that no other test has, since all servers have one port.
std::string own_address()
{
  const int pid = getpid();
  return "127." + std::to_string(pid >> 16 & 0x7f) + "." + std::to_string(pid >> 8 & 0xff) + "." +
         std::to_string(pid & 0xff);
}

// Sessions come to `address`, encrypted, and `secret` by a password.
Result<> encrypt(PostgresCluster &cluster, const std::string &address)
{
  const auto data = cluster.data_directory();
  const auto key = data / "server.key", certificate = data / "server.crt";
  const auto made =
      run_command({"openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-newkey", "rsa:2048",
                   "-subj", "/CN=test", "-keyout", key, "-out", certificate});
  if (made.status != 0)
    return Error{"make a certificate", 0, made.err};
  struct stat owner {};
  if (stat(data.c_str(), &owner) != 0 || chown(key.c_str(), owner.st_uid, owner.st_gid) != 0 ||
      chown(certificate.c_str(), owner.st_uid, owner.st_gid) != 0 || chmod(key.c_str(), 0600) != 0)
    return Error{"hand the certificate over", errno, {}};
  std::ofstream(data / "postgresql.conf", std::ios::app)
      << "ssl = on\nlisten_addresses = '" << address << "'\n"
      << "password_encryption = 'scram-sha-256'\n";
  const auto others = read_text(data / "pg_hba.conf");
  std::ofstream(data / "pg_hba.conf") << "hostssl all secret all scram-sha-256\n" << others;
  return cluster.restart();
}

class EncryptedAnswerTest : public AnswerTest {
protected:
  static void SetUpTestSuite() { use_cluster({}); }

  void SetUp() override
  {
    AnswerTest::SetUp();
    if (IsSkipped() || HasFailure())
      return;
    static const auto encrypted = encrypt(cluster(), address_);
    ASSERT_TRUE(encrypted) << to_string(encrypted.error()) << encrypted.error().hint;
  }

  Session connect(const std::string &more = "") const
  {
    auto session = cluster().connect("postgres", "host=" + address_ + " sslmode=require " + more);
    EXPECT_EQ(session.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
    return session;
  }

private:
  const std::string address_ = own_address();
};

TEST_F(EncryptedAnswerTest, each_round_trip_is_counted_once)
{
  auto session = connect(), watcher = cluster().connect();
  Kernel kernel(cluster(), Level::request);
  ASSERT_TRUE(kernel.probes().settles_by_answer());
  expect_each_counted_once(kernel, session, watcher);
}

// The server asks for the password before the session has anything to count.
TEST_F(EncryptedAnswerTest, what_is_said_before_the_session_is_ready_is_no_answer)
{
  cluster().connect().exec("CREATE ROLE secret LOGIN PASSWORD 'open sesame'");
  Kernel kernel(cluster(), Level::request);
  auto session = connect("user=secret password='open sesame'");
  settle(kernel, session, 2); // that it is ready, and pg_stat_ssl
  EXPECT_EQ(requests(kernel, session), 2U);
  EXPECT_EQ(kernel.slot(session)->growth_bytes, 0U) << "the first look is the baseline";
}

// ---- whose ---------------------------------------------------------------------------------

TEST_F(AnswerTest, a_new_session_is_counted_from_its_first_round_trip)
{
  Kernel kernel(cluster(), Level::request);
  auto session = cluster().connect();
  session.exec("SELECT 1");
  settle(kernel, session, 2); // what a new connection says first, and the SELECT
  EXPECT_EQ(requests(kernel, session), 2U);
}

// Their sends are seen, since the tracepoint is the kernel's; this process's, too.
TEST_F(AnswerTest, sessions_of_a_server_that_was_not_asked_for_are_nobody)
{
  Kernel kernel(cluster(), Level::request);
  const auto other = PostgresCluster::start();
  ASSERT_TRUE(other) << to_string(other.error());
  auto stranger = (*other)->connect();
  auto session = cluster().connect();
  for (int i = 0; i < 10; ++i) {
    stranger.exec("SELECT 1");
    session.exec("SELECT 1");
  }
  settle(kernel, session, 11);
  EXPECT_EQ(kernel.slot(stranger), nullptr);

  const auto pid = (*other)->postmaster_pid();
  ServerList::Options options;
  options.selection.pids = {pid};
  const auto found = ServerList::find(std::move(options));
  ASSERT_TRUE(found) << to_string(found.error());
  ASSERT_TRUE(kernel.probes().add_server(pid, found->servers().at(pid).load_bias));
  EXPECT_TRUE(eventually([&] {
    stranger.exec("SELECT 1");
    return requests(kernel, stranger) > 0;
  }));
  EXPECT_EQ(kernel.lost(PGMT_LOSS_SLOTS_FULL), 0U);
}

} // namespace
} // namespace pgmemtrace::test
