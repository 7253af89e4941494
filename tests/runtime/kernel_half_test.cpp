// SPDX-License-Identifier: BSD-2-Clause
// kernel_half_test.cpp - the BPF programs on a live server: what each boundary counts, whose
// text it keeps, what it hands over, and what it says when there is no room.
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <unistd.h>

#include "collect/sweep.h"
#include "support/c_functions.h"
#include "support/kernel.h"
#include "support/runtime_test.h"
#include "util/clock.h"

namespace pgmemtrace::test {
namespace {

using testing::HasSubstr;

class KernelHalfTest : public RuntimeTest {};

// ---- counting -------------------------------------------------------------------

TEST_F(KernelHalfTest, counts_statements_of_every_kind_once)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement);

  session.exec("SELECT 1");
  settle(kernel, session, 1);
  EXPECT_EQ(kernel.take(session).statements, 1u);

  session.exec("SET work_mem = '4MB'"); // utility
  settle(kernel, session, 2);
  EXPECT_EQ(kernel.take(session).statements, 2u);

  session.exec("PREPARE p AS SELECT 1");
  session.exec("EXECUTE p"); // a statement inside a utility: one for the user
  settle(kernel, session, 4);
  EXPECT_EQ(kernel.take(session).statements, 4u);

  session.exec("DO $$ BEGIN FOR i IN 1..10 LOOP PERFORM count(*) FROM pg_class; END LOOP; END $$");
  settle(kernel, session, 5);
  EXPECT_EQ(kernel.take(session).statements, 5u);
  EXPECT_GE(kernel.hits(session, PGMT_PROBE_START), 11u); // the loop's are hits all the same

  session.exec("SELECT 1; SELECT 2; SELECT 3"); // three in one request
  settle(kernel, session, 6);
  EXPECT_EQ(kernel.take(session).statements, 8u);
}

// Threads take their numbers from where processes do.
pid_t take_number()
{
  pid_t number = 0;
  std::thread([&] { number = gettid(); }).join();
  return number;
}

// A session whose process has the pid of `one`, but for a multiple of `distance`; nothing if others
// came in between too often.
std::optional<Session> connect_at_distance(const PostgresCluster &cluster, const Session &one,
                                           pid_t distance)
{
  const pid_t wanted = one.backend_pid() % distance;
  for (int i = 0; i < 100; ++i) {
    for (int taken = 0; taken < 2 * distance && (take_number() + 1) % distance != wanted;)
      ++taken;
    if (auto session = cluster.connect(); session.backend_pid() % distance == wanted)
      return session;
  }
  return std::nullopt;
}

TEST_F(KernelHalfTest, processes_whose_numbers_end_alike_are_told_apart)
{
  auto one = cluster().connect();
  auto other = connect_at_distance(cluster(), one, PGMT_HINTS);
  ASSERT_TRUE(other);
  Kernel kernel(cluster(), Level::statement);
  for (int i = 0; i < 5; ++i) {
    one.exec("SELECT 1");
    other->exec("SELECT 1");
    other->exec("SELECT 2");
  }
  settle(kernel, one, 5);
  settle(kernel, *other, 10);
  EXPECT_EQ(kernel.take(one).statements, 5u);
  EXPECT_EQ(kernel.take(*other).statements, 10u);
}

TEST_F(KernelHalfTest, an_error_ends_its_statement)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement);
  EXPECT_FALSE(session.try_exec("SELECT 1 / (g - 5) FROM generate_series(1, 10) g"));
  settle(kernel, session, 1);
  auto activity = kernel.take(session);
  EXPECT_EQ(activity.statements, 1u);
  EXPECT_FALSE(activity.in_statement);
  session.exec("SELECT 1");
  settle(kernel, session, 2);
  EXPECT_EQ(kernel.take(session).statements, 2u);
}

TEST_F(KernelHalfTest, cursors_that_interleave_do_not_confuse_the_nesting)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement);
  for (const char *sql :
       {"BEGIN", "DECLARE a CURSOR FOR SELECT generate_series(1, 100)",
        "DECLARE b CURSOR FOR SELECT generate_series(1, 100)", "FETCH 10 FROM a", "FETCH 10 FROM b",
        "CLOSE a", "SELECT 1", "CLOSE b", "COMMIT", "SELECT 2"})
    session.exec(sql);
  settle(kernel, session, 10);
  const auto activity = kernel.take(session);
  EXPECT_EQ(activity.statements, 10u);
  EXPECT_EQ(kernel.slot(session)->nesting, 0u);
}

TEST_F(KernelHalfTest, level_request_sees_requests_and_nothing_inside_them)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::request);
  session.exec("DO $$ BEGIN FOR i IN 1..100 LOOP PERFORM count(*) FROM pg_class; END LOOP; END $$");
  settle(kernel, session, 1);
  const auto activity = kernel.take(session);
  EXPECT_EQ(activity.requests, 1u);
  EXPECT_EQ(activity.statements, 0u);
  EXPECT_EQ(activity.hits, 1u);
}

TEST_F(KernelHalfTest, perf_event_probes_count_the_same)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement, {}, {.uprobe_multi = false});
  for (int i = 0; i < 5; ++i)
    session.exec("SELECT 1");
  settle(kernel, session, 5);
  const auto activity = kernel.take(session);
  EXPECT_EQ(activity.requests, 5u);
  EXPECT_EQ(activity.statements, 5u);
  EXPECT_NE(kernel.slot(session)->load_bias, 0u);
}

TEST_F(KernelHalfTest, a_level_can_be_left_and_taken_again)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement);
  session.exec("SELECT 1");
  settle(kernel, session, 1);
  ASSERT_TRUE(kernel.probes().set_level(Level::sweep));
  session.exec("SELECT 1");
  ASSERT_TRUE(kernel.probes().set_level(Level::statement));
  session.exec("SELECT 1");
  settle(kernel, session, 2);
  EXPECT_EQ(kernel.take(session).statements, 2u);
}

// The governor lowers a level while a statement runs, and raises it when that one is long over.
TEST_F(KernelHalfTest, a_statement_that_ended_while_nobody_looked_is_over)
{
  auto locker = cluster().connect();
  locker.exec("SELECT pg_advisory_lock(9)");
  auto session = cluster().connect();
  session.exec("SET search_path = public");
  Kernel kernel(cluster(), Level::statement);
  session.send_async("DO $$ BEGIN PERFORM pg_advisory_lock(9), 'old'; END $$");
  ASSERT_TRUE(eventually([&] {
    const auto *slot = kernel.slot(session);
    return slot && slot->nesting == 1;
  }));
  ASSERT_TRUE(kernel.probes().set_level(Level::sweep));
  locker.exec("SELECT pg_advisory_unlock(9)");
  EXPECT_TRUE(session.finish());
  // What grows now is not the next statement's.
  for (int i = 0; i < 50; ++i)
    session.exec("PREPARE unseen_" + std::to_string(i) + " AS SELECT relname FROM pg_class");
  ASSERT_TRUE(kernel.probes().set_level(Level::statement));
  EXPECT_FALSE(kernel.take(session).in_statement);
  session.exec("SELECT 1");
  settle(kernel, session, 1);
  const auto activity = kernel.take(session);
  EXPECT_EQ(activity.statements, 2u);
  for (const auto &one : activity.growth)
    ADD_FAILURE() << one.bytes << " bytes, " << one.new_contexts << " contexts: " << one.query;
}

TEST_F(KernelHalfTest, a_level_that_comes_back_inside_a_statement_joins_it)
{
  auto locker = cluster().connect();
  locker.exec("SELECT pg_advisory_lock(9), pg_advisory_lock(10)");
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement);
  session.send_async("DO $$ BEGIN PERFORM pg_advisory_lock(9); PERFORM count(*) FROM pg_class; "
                     "PERFORM pg_advisory_lock(10); END $$");
  ASSERT_TRUE(eventually([&] {
    const auto *slot = kernel.slot(session);
    return slot && slot->nesting == 1;
  }));
  ASSERT_TRUE(kernel.probes().set_level(Level::request));
  ASSERT_TRUE(kernel.probes().set_level(Level::statement));
  locker.exec("SELECT pg_advisory_unlock(9)");
  EXPECT_TRUE(eventually([&] {
    const auto activity = kernel.take(session);
    return activity.in_statement && activity.current_query.starts_with("DO $$ BEGIN");
  })) << kernel.take(session).current_query;
  EXPECT_EQ(kernel.take(session).statements, 1u);
  locker.exec("SELECT pg_advisory_unlock(10)");
  EXPECT_TRUE(session.finish());
  settle(kernel, session, 1);
  session.exec("SELECT 1");
  settle(kernel, session, 2);
  EXPECT_EQ(kernel.take(session).statements, 2u);
}

// ---- starts of single processes -------------------------------------------------------

TEST_F(KernelHalfTest, who_is_not_asked_for_pays_no_traps)
{
  auto session = cluster().connect();
  auto other = cluster().connect();
  Kernel kernel(cluster(), Level::statement, {}, {}, /* every_start */ false);
  ASSERT_TRUE(kernel.probes().attach_starts(session.backend_pid()));
  for (auto *one : {&session, &other}) {
    one->exec("SELECT 1");
    one->exec("SET work_mem = '4MB'");
    one->exec("SELECT 1; SELECT 2");
    settle(kernel, *one, 3);
  }
  EXPECT_EQ(kernel.hits(session, PGMT_PROBE_START), 3u);
  EXPECT_EQ(kernel.hits(session, PGMT_PROBE_UTILITY), 1u);
  EXPECT_EQ(kernel.hits(session, PGMT_PROBE_END), 3u);
  EXPECT_EQ(kernel.take(session).statements, 4u);
  EXPECT_EQ(kernel.hits(other, PGMT_PROBE_START), 0u);
  EXPECT_EQ(kernel.hits(other, PGMT_PROBE_UTILITY), 0u);
  EXPECT_EQ(kernel.hits(other, PGMT_PROBE_END), 0u);
  EXPECT_EQ(kernel.take(other).requests, 3u);
  // Its first round trip may have been its greeting; each other one counts as a statement.
  EXPECT_EQ(kernel.take(other).statements, 2u);
}

TEST_F(KernelHalfTest, starts_can_be_left_and_taken_again)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement, {}, {}, /* every_start */ false);
  const auto pid = session.backend_pid();
  for (std::uint64_t round = 1; round <= 3; ++round) {
    ASSERT_TRUE(kernel.probes().attach_starts(pid));
    ASSERT_TRUE(kernel.probes().attach_starts(pid)); // once is enough
    EXPECT_EQ(kernel.probes().attached_sites(PGMT_PROBE_START), 1u);
    session.exec("SELECT 1");
    settle(kernel, session, 2 * round - 1);
    EXPECT_EQ(kernel.hits(session, PGMT_PROBE_START), round);
    kernel.probes().detach_starts(pid);
    session.exec("SELECT 1");
    settle(kernel, session, 2 * round);
    EXPECT_EQ(kernel.hits(session, PGMT_PROBE_START), round);
  }
  ASSERT_TRUE(kernel.probes().attach_starts(pid));
  ASSERT_TRUE(kernel.probes().set_level(Level::request));
  EXPECT_EQ(kernel.probes().attached_sites(PGMT_PROBE_START), 0u);
  ASSERT_TRUE(kernel.probes().attach_starts(pid)); // not at this level
  EXPECT_EQ(kernel.probes().attached_sites(PGMT_PROBE_START), 0u);
}

TEST_F(KernelHalfTest, starts_that_come_inside_a_statement_join_it)
{
  auto locker = cluster().connect();
  locker.exec("SELECT pg_advisory_lock(9), pg_advisory_lock(10)");
  auto session = cluster().connect();
  auto other = cluster().connect();
  Kernel kernel(cluster(), Level::statement, {}, {}, /* every_start */ false);
  const auto waits_for = [&](int lock) {
    return eventually([&] {
      return other.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = " +
                         std::to_string(lock)) == "1";
    });
  };
  session.send_async("DO $$ BEGIN PERFORM pg_advisory_lock(9); PERFORM count(*) FROM pg_class; "
                     "PERFORM pg_advisory_lock(10); END $$");
  ASSERT_TRUE(waits_for(9));
  ASSERT_TRUE(kernel.probes().attach_starts(session.backend_pid()));
  locker.exec("SELECT pg_advisory_unlock(9)");
  ASSERT_TRUE(waits_for(10));
  EXPECT_TRUE(kernel.take(session).in_statement);
  EXPECT_TRUE(kernel.take(session).current_query.starts_with("DO $$ BEGIN"))
      << kernel.take(session).current_query;
  EXPECT_EQ(kernel.take(session).statements, 1u);
  // Starts of others are of no concern to it.
  ASSERT_TRUE(kernel.probes().attach_starts(other.backend_pid()));
  locker.exec("SELECT pg_advisory_unlock(10)");
  EXPECT_TRUE(session.finish());
  settle(kernel, session, 1);
  session.exec("SELECT 1; SELECT 2");
  settle(kernel, session, 2);
  EXPECT_EQ(kernel.take(session).statements, 3u);
}

TEST_F(KernelHalfTest, a_statement_stays_what_it_is_when_starts_come_to_others)
{
  auto locker = cluster().connect();
  locker.exec("SELECT pg_advisory_lock(9), pg_advisory_lock(10)");
  auto session = cluster().connect();
  auto other = cluster().connect();
  Kernel kernel(cluster(), Level::statement, {}, {}, /* every_start */ false);
  ASSERT_TRUE(kernel.probes().attach_starts(session.backend_pid()));
  session.send_async("SELECT 'before'; DO $$ BEGIN PERFORM pg_advisory_lock(9); "
                     "PERFORM count(*) FROM pg_class; PERFORM pg_advisory_lock(10); END $$");
  const auto names_it = [&] { return kernel.take(session).current_query.starts_with("DO $$"); };
  ASSERT_TRUE(eventually(names_it)) << kernel.take(session).current_query;
  ASSERT_TRUE(kernel.probes().attach_starts(other.backend_pid()));
  const auto starts = kernel.hits(session, PGMT_PROBE_START);
  locker.exec("SELECT pg_advisory_unlock(9)");
  ASSERT_TRUE(eventually([&] { return kernel.hits(session, PGMT_PROBE_START) >= starts + 2; }));
  EXPECT_TRUE(names_it()) << kernel.take(session).current_query;
  EXPECT_EQ(kernel.take(session).statements, 2u);
  locker.exec("SELECT pg_advisory_unlock(10)");
  EXPECT_TRUE(session.finish());
}

// ---- what it says of a process that runs -------------------------------------------

TEST_F(KernelHalfTest, shows_the_statement_that_runs)
{
  auto session = cluster().connect();
  auto locker = cluster().connect();
  Kernel kernel(cluster(), Level::statement);
  locker.exec("SELECT pg_advisory_lock(7)");
  session.send_async("SELECT 'before'; SELECT pg_advisory_lock(7) AS waits_here");
  EXPECT_TRUE(eventually([&] {
    return kernel.take(session).current_query == "SELECT pg_advisory_lock(7) AS waits_here";
  })) << kernel.take(session).current_query;
  EXPECT_TRUE(kernel.take(session).in_statement);
  EXPECT_GT(kernel.take(session).busy.count(), 0);
  locker.exec("SELECT pg_advisory_unlock(7)");
  EXPECT_TRUE(session.finish());
  settle(kernel, session, 1);
  EXPECT_FALSE(kernel.take(session).in_statement);
}

// The usual case at night: a function has been running for an hour, and somebody attaches.
TEST_F(KernelHalfTest, joins_a_statement_that_was_running_before)
{
  auto session = cluster().connect();
  auto other = cluster().connect();
  session.send_async("DO $$ BEGIN FOR i IN 1..10000 LOOP PERFORM pg_sleep(0.01); "
                     "IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory') "
                     "THEN EXIT; END IF; END LOOP; END $$");
  const auto is_running =
      "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid = " +
      std::to_string(session.backend_pid());
  ASSERT_TRUE(eventually([&] { return other.value(is_running) == "1"; }));
  Kernel kernel(cluster(), Level::statement);
  EXPECT_TRUE(eventually([&] {
    return kernel.take(session).current_query.starts_with("DO $$ BEGIN") &&
           kernel.hits(session, PGMT_PROBE_START) > 4;
  })) << kernel.take(session).current_query;
  EXPECT_EQ(kernel.take(session).statements, 1u);
  other.exec("SELECT pg_advisory_lock(1)");
  EXPECT_TRUE(session.finish());
  settle(kernel, session, 1);
  EXPECT_FALSE(kernel.take(session).in_statement);
  session.exec("SELECT 1");
  settle(kernel, session, 2);
  EXPECT_EQ(kernel.take(session).statements, 2u);
}

// ---- what grew ------------------------------------------------------------------------

// Prepares statements, which nobody deallocates, until what was seen of it is enough.
std::vector<QueryGrowth>
prepare_until(Kernel &kernel, Session &session,
              const std::function<bool(const std::vector<QueryGrowth> &)> &enough)
{
  session.exec("SELECT 1");
  settle(kernel, session, 1);
  kernel.take(session);
  std::vector<QueryGrowth> growth;
  int statement = 0;
  EXPECT_TRUE(eventually([&] {
    session.exec("PREPARE grows_" + std::to_string(statement++) +
                 " AS SELECT relname FROM pg_class");
    for (auto &one : kernel.take(session).growth)
      growth.push_back(std::move(one));
    return enough(growth);
  }));
  return growth;
}

TEST_F(KernelHalfTest, names_the_query_across_which_long_lived_contexts_grew)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement);
  const auto growth = prepare_until(
      kernel, session, [](const std::vector<QueryGrowth> &seen) { return seen.size() >= 3; });
  std::uint64_t contexts = 0;
  for (const auto &one : growth) {
    EXPECT_GT(one.bytes, 0u);
    contexts += one.new_contexts;
  }
  EXPECT_THAT(growth.back().query, HasSubstr("PREPARE grows_"));
  EXPECT_EQ(growth.back().phase, Phase::utility);
  EXPECT_GT(contexts, 0u); // each leaves a CachedPlanSource below CacheMemoryContext
}

TEST_F(KernelHalfTest, names_the_query_at_level_request_too)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::request);
  prepare_until(kernel, session, [](const std::vector<QueryGrowth> &seen) {
    return !seen.empty() && seen.back().query.find("PREPARE grows_") == 0;
  });
}

TEST_F(KernelHalfTest, a_transaction_is_no_growth)
{
  auto session = cluster().connect();
  // Up to 13 a hash table for statistics is made anew after each report, twice a second (pgstat.c).
  session.exec("SET track_counts = off");
  session.exec("CREATE TEMP TABLE steady AS SELECT 1 AS id");
  const auto work = [&] {
    for (const char *sql : {"BEGIN", "UPDATE steady SET id = 1", "SELECT count(*) FROM steady",
                            "SELECT count(*) FROM steady", "COMMIT"})
      session.exec(sql);
  };
  for (int i = 0; i < 50; ++i)
    work(); // warm
  for (Level level : {Level::request, Level::statement}) {
    Kernel kernel(cluster(), level);
    work();
    settle(kernel, session, 5);
    kernel.take(session);
    for (int i = 0; i < 50; ++i)
      work();
    settle(kernel, session, 255);
    for (const auto &one : kernel.take(session).growth)
      ADD_FAILURE() << one.bytes << " bytes, " << one.new_contexts << " contexts: " << one.query;
  }
}

// Between two looks of a busy session anybody may have been it: then nobody is named.
TEST_F(KernelHalfTest, blames_nobody_for_what_was_found_late)
{
  auto session = cluster().connect();
  // One round trip each, in one go: far less than the 10 ms between two close looks.
  const auto pipeline = [&](const std::vector<std::string> &statements) {
    PGconn *c = session.get();
    ASSERT_EQ(PQenterPipelineMode(c), 1);
    for (const auto &sql : statements) {
      PQsendQueryParams(c, sql.c_str(), 0, nullptr, nullptr, nullptr, nullptr, 0);
      PQpipelineSync(c);
    }
    for (std::size_t i = 0; i < statements.size(); ++i) {
      while (PGresult *result = PQgetResult(c))
        PQclear(result);
      PQclear(PQgetResult(c)); // the Sync
    }
    PQexitPipelineMode(c);
  };
  std::vector<std::string> statements(400, "SELECT 'innocent'");
  for (std::size_t i = 0; i < statements.size(); i += 100)
    statements[i] = "LISTEN grows_" + std::to_string(i); // a list cell in TopMemoryContext
  // The first innocent one does fill the session's caches.  On a slow machine it is seen to.
  pipeline({"SELECT 'innocent'", "LISTEN warm", "SELECT 'innocent'"});
  Kernel kernel(cluster(), Level::statement);
  std::uint64_t bytes = 0;
  for (int round = 0; round < 20; ++round) {
    pipeline(statements);
    for (const auto &one : kernel.take(session).growth) {
      EXPECT_THAT(one.query, testing::Not(HasSubstr("innocent"))) << one.bytes << " bytes";
      bytes += one.bytes;
    }
    for (auto &sql : statements)
      if (sql.starts_with("LISTEN"))
        sql += "_";
  }
  EXPECT_GT(bytes, 0u) << "nothing grew: nothing was tested";
}

TEST_F(KernelHalfTest, a_session_that_repeats_itself_reports_no_growth)
{
  auto session = cluster().connect();
  session.exec("CREATE TEMP TABLE steady (id int)");
  // Up to 14, the session drops a context with each report of its counters and makes it anew
  // (PGSTAT_STAT_INTERVAL, 500 ms): longer than that.
  const auto work = [&] {
    std::uint64_t statements = 0;
    for (const auto end = monotonic_ns() + 700'000'000; monotonic_ns() < end; ++statements)
      session.exec("SELECT count(*) FROM steady WHERE id = 1");
    return statements;
  };
  work(); // warm: its first time, that context stands behind others of a session's beginning
  Kernel kernel(cluster(), Level::statement);
  const auto before = work();
  settle(kernel, session, before);
  kernel.take(session);
  settle(kernel, session, before + work());
  for (const auto &one : kernel.take(session).growth)
    ADD_FAILURE() << one.bytes << " bytes and " << one.new_contexts << " contexts across "
                  << one.query;
}

// A child context that takes the place of a deleted one: as pgStatTabHash does twice a second up to
// 14.  A second one beside it is growth.
TEST_F(KernelHalfTest, a_context_that_comes_and_goes_is_no_growth)
{
  auto session = cluster().connect();
  for (const char *sql : {"PREPARE comes AS SELECT 1", "DEALLOCATE comes", "SELECT 1"})
    session.exec(sql); // warm
  Kernel kernel(cluster(), Level::statement);
  session.exec("PREPARE comes AS SELECT 1");
  session.exec("DEALLOCATE comes");
  settle(kernel, session, 2);
  kernel.take(session);
  for (int i = 0; i < 20; ++i) {
    session.exec("PREPARE comes AS SELECT 1");
    session.exec("DEALLOCATE comes");
  }
  settle(kernel, session, 42);
  // Handed over, or held back for the next event.
  const auto new_contexts = [&] {
    std::uint64_t contexts = 0;
    for (const auto &one : kernel.take(session).growth)
      contexts += one.new_contexts;
    return contexts + kernel.slot(session)->new_children;
  };
  EXPECT_EQ(new_contexts(), 0u);
  for (int i = 0; i < 20; ++i)
    session.exec("PREPARE stays_" + std::to_string(i) + " AS SELECT 1");
  settle(kernel, session, 62);
  EXPECT_GE(new_contexts(), 19u); // one may take the place of the last that went
}

// Repeats what holds much for a while until a walk, which is not taken each time, has seen it.
std::optional<StatementPeak> peak_of(Kernel &kernel, Session &session,
                                     const std::vector<std::string> &statements)
{
  std::optional<StatementPeak> peak;
  EXPECT_TRUE(eventually([&] {
    for (const auto &sql : statements)
      session.exec(sql);
    if (auto seen = kernel.take(session).peak)
      peak = seen;
    return peak.has_value();
  })) << statements.back();
  return peak;
}

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

TEST_F(KernelHalfTest, tells_what_a_statement_held)
{
  auto session = cluster().connect();
  session.exec("SET work_mem = '200MB'");
  for (const bool samples : {true, false}) { // by the clock; at the ends of statements
    Kernel kernel(cluster(), Level::statement, {}, {.samples = samples}, /* every_start */ false);
    const auto peak =
        peak_of(kernel, session,
                {"SELECT count(*) FROM (SELECT g FROM generate_series(1, 500000) g ORDER BY g DESC "
                 "OFFSET 0) s"});
    ASSERT_TRUE(peak);
    EXPECT_GT(peak->bytes, 8 * kMiB);
    EXPECT_LT(peak->bytes, 200 * kMiB);
    EXPECT_THAT(peak->query, HasSubstr("ORDER BY g DESC"));
    EXPECT_GT(peak->context_bytes, 4 * kMiB);
    EXPECT_NE(peak->context, "");
    EXPECT_EQ(kernel.lost(PGMT_LOSS_READ_WALK), 0u);
    EXPECT_EQ(kernel.lost(PGMT_LOSS_WALK_BOUND), 0u);
  }
}

// Its variables are no executor's: they lie below the transaction, and are gone when it returns.
TEST_F(KernelHalfTest, tells_what_a_function_held_while_it_ran)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement, {}, {.samples = false});
  const auto peak = peak_of(kernel, session,
                            {"DO $$ DECLARE a int[] := array_fill(0, ARRAY[6000000]); "
                             "BEGIN PERFORM count(*) FROM pg_class; a[1] := 1; END $$"});
  ASSERT_TRUE(peak);
  EXPECT_GT(peak->bytes, 20 * kMiB);
  EXPECT_THAT(peak->query, HasSubstr("array_fill"));
}

// What a cursor holds lies below its own portal, and not below that of the statement that closes
// it.
TEST_F(KernelHalfTest, tells_what_a_cursor_held_when_it_is_closed)
{
  auto session = cluster().connect();
  session.exec("SET work_mem = '200MB'");
  Kernel kernel(cluster(), Level::statement, {}, {.samples = false});
  const auto peak = peak_of(
      kernel, session,
      {"BEGIN", "DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 500000) g ORDER BY g",
       "FETCH 1 FROM c", "CLOSE c", "COMMIT"});
  ASSERT_TRUE(peak);
  EXPECT_GT(peak->bytes, 8 * kMiB);
  EXPECT_EQ(peak->query, "CLOSE c");
}

// Several statements in one round trip: each has its own text.
TEST_F(KernelHalfTest, names_the_one_of_several_statements_that_held_much)
{
  auto session = cluster().connect();
  session.exec("SET work_mem = '200MB'");
  Kernel kernel(cluster(), Level::statement, {}, {.samples = false});
  const std::string sorts = "SELECT count(*) FROM (SELECT g FROM generate_series(1, 500000) g "
                            "ORDER BY g OFFSET 0) s";
  const auto peak = peak_of(kernel, session, {"PREPARE p AS SELECT 1; DEALLOCATE p; " + sorts});
  ASSERT_TRUE(peak);
  EXPECT_EQ(peak->query, sorts);
}

TEST_F(KernelHalfTest, what_a_session_keeps_is_no_peak)
{
  auto session = cluster().connect();
  load_c_functions(cluster(), session, "nested_contexts",
                   {"nest_contexts(int, int, bigint)", "drop_nested(int)"});
  session.exec("SELECT nest_contexts(1, 1, 100 << 20)");
  session.exec("SELECT nest_contexts(20000, 1, 0)"); // more than a walk has steps
  Kernel kernel(cluster(), Level::statement);
  EXPECT_TRUE(eventually([&] {
    session.exec("SELECT count(*) FROM pg_class");
    return kernel.slot(session)->walks > 3;
  }));
  EXPECT_EQ(kernel.lost(PGMT_LOSS_WALK_BOUND), 0u) << "only the statement's contexts are walked";
  EXPECT_LT(kernel.slot(session)->walk.contexts, 100u);
  const auto peak = kernel.take(session).peak;
  EXPECT_FALSE(peak) << peak->bytes << " bytes: " << peak->query;
}

// Each of many sessions that wait would take its share of the same second.
TEST_F(KernelHalfTest, a_session_that_mostly_waits_is_seldom_walked)
{
  auto session = cluster().connect();
  Kernel kernel(cluster(), Level::statement);
  const auto began = monotonic_ns();
  EXPECT_TRUE(eventually([&] {
    for (int i = 0; i < 100; ++i)
      session.exec("SELECT pg_sleep(0.01)");
    const auto *slot = kernel.slot(session);
    return slot && slot->walks > 2;
  }));
  // It would take 1/1000 of the time, at each chance that it has.
  EXPECT_LT(kernel.slot(session)->walk_total_ns, (monotonic_ns() - began) / 3000);
}

// ---- who was asked for --------------------------------------------------------------------

// Its first statement may be the one: the kernel half cannot wait until the daemon knows it.
TEST_F(KernelHalfTest, a_new_process_of_a_selected_server_is_seen_from_its_first_round_trip)
{
  Kernel kernel(cluster(), Level::statement, {}, {.select_only = true});
  ASSERT_TRUE(kernel.maps().select(cluster().postmaster_pid(), /* with_children */ true));
  auto session = cluster().connect();
  session.exec("SELECT 1");
  settle(kernel, session, 2); // what a new connection says first, and the SELECT
  EXPECT_EQ(kernel.take(session).statements, 1u);
}

TEST_F(KernelHalfTest, others_are_not_counted_when_one_process_was_selected)
{
  Kernel kernel(cluster(), Level::statement, {}, {.select_only = true});
  auto session = cluster().connect();
  auto other = cluster().connect();
  ASSERT_TRUE(kernel.maps().select(session.backend_pid(), false));
  ASSERT_TRUE(kernel.maps().select(cluster().postmaster_pid(), false));
  other.exec("SELECT 1");
  session.exec("SELECT 1");
  settle(kernel, session, 1);
  EXPECT_EQ(kernel.slot(other), nullptr);
}

// ---- who comes and goes -----------------------------------------------------------------

TEST_F(KernelHalfTest, reports_who_comes_and_goes)
{
  Kernel kernel(cluster(), Level::statement);
  auto session = std::make_unique<Session>(cluster().connect());
  const auto pid = session->backend_pid();
  session->exec("SELECT 1");
  EXPECT_TRUE(eventually([&] {
    kernel.reader().drain();
    for (pid_t newcomer : kernel.reader().take_new_processes())
      if (newcomer == pid)
        return true;
    return false;
  }));
  session.reset();
  EXPECT_TRUE(eventually([&] {
    const auto *slot = kernel.reader().slot(pid);
    return slot && slot->exited;
  }));
  kernel.reader().forget(pid);
  EXPECT_EQ(kernel.reader().slot(pid), nullptr);
}

TEST_F(KernelHalfTest, transactions_of_processes_that_never_settle_are_counted_by_pid)
{
  auto session = cluster().connect();
  auto other = cluster().connect();
  Kernel kernel(cluster(), Level::request);
  ASSERT_TRUE(kernel.probes().attach_transactions(session.backend_pid()));
  for (int i = 0; i < 3; ++i) {
    session.exec("SELECT 1");
    other.exec("SELECT 1");
  }
  settle(kernel, session, 3);
  settle(kernel, other, 3);
  EXPECT_EQ(kernel.take(session).transactions, 3u);
  EXPECT_EQ(kernel.take(other).transactions, 0u);
}

// ---- no room ------------------------------------------------------------------------------

TEST_F(KernelHalfTest, processes_beyond_the_slots_are_counted_as_lost)
{
  Kernel kernel(cluster(), Level::request, {.processes = 16});
  std::vector<Session> sessions;
  for (int i = 0; i < 20; ++i) {
    sessions.push_back(cluster().connect());
    sessions.back().exec("SELECT 1");
  }
  EXPECT_TRUE(eventually([&] { return kernel.lost(PGMT_LOSS_SLOTS_FULL) > 0; }));
  // Somebody else who had a slot, an autovacuum worker say, may be gone: then one of ours gets it.
  EXPECT_TRUE(eventually([&] {
    for (auto &session : sessions)
      session.exec("SELECT 1");
    kernel.reader().drain();
    kernel.reader().tidy();
    EXPECT_LE(kernel.reader().slots_used(), 16u);
    return kernel.reader().slots_used() == 16;
  }));
}

TEST_F(KernelHalfTest, a_slot_that_is_given_back_is_used_again)
{
  Kernel kernel(cluster(), Level::request, {.processes = 16});
  for (int i = 0; i < 40; ++i) {
    auto session = cluster().connect();
    session.exec("SELECT 1");
    settle(kernel, session, 1);
    const auto pid = session.backend_pid();
    session.close();
    EXPECT_TRUE(eventually([&] { return kill(pid, 0) != 0; }));
    kernel.reader().forget(pid);
  }
  EXPECT_EQ(kernel.lost(PGMT_LOSS_SLOTS_FULL), 0u);
}

TEST_F(KernelHalfTest, events_that_find_no_room_are_counted_as_lost)
{
  Kernel kernel(cluster(), Level::request, {.ring_bytes = 4096});
  // Nobody reads: one page holds 128 events of new processes at most.
  for (int i = 0; i < 200 && kernel.lost(PGMT_LOSS_RING_FULL) == 0; ++i)
    cluster().connect().exec("SELECT 1");
  EXPECT_GT(kernel.lost(PGMT_LOSS_RING_FULL), 0u);
}

} // namespace
} // namespace pgmemtrace::test
