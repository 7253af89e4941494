// SPDX-License-Identifier: BSD-2-Clause
// scenario_test.cpp - pgmemtrace.run_scenario() on a live server: each scenario finds what it is
// for, and nothing in ordinary work; any SQL is a workload; what goes wrong beside it is said.
#include <csignal>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "support/container.h"
#include "support/copy_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::AnyOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::string quoted(const std::string &text) { return "$q$" + text + "$q$"; }

std::string call(const std::string &scenario, int iterations, const std::string &workload,
                 const std::string &options = "NULL")
{
  return "pgmemtrace.run_scenario(" + quoted(scenario) + ", " + std::to_string(iterations) + ", " +
         quoted(workload) + ", '', " + options + ")";
}

class ScenarioTest : public CopyTest {
protected:
  // The row as JSON.
  static json run(Session &session, const std::string &scenario, int iterations,
                  const std::string &workload, const std::string &options = "NULL")
  {
    const auto text = session.value("SELECT to_jsonb(s) FROM " +
                                    call(scenario, iterations, workload, options) + " AS s");
    return json::parse(text, nullptr, false);
  }

  static std::string error_of(Session &session, const std::string &sql)
  {
    const auto done = session.try_exec(sql);
    return done ? "no error" : done.error().what + " " + done.error().hint;
  }

  // "rule context" of each violation.
  static std::vector<std::string> names(const json &result)
  {
    std::vector<std::string> out;
    for (const auto &violation : result["violations"])
      out.push_back(
          violation["rule"].get<std::string>() + " " +
          (violation["context"].is_string() ? violation["context"].get<std::string>() : ""));
    return out;
  }

  static bool none_runs(Session &session)
  {
    return eventually([&] {
      return session.value("SELECT count(*) FROM pg_stat_activity "
                           "WHERE backend_type = 'pgmemtrace workload'") == "0";
    });
  }
};

// ---- what each is for -------------------------------------------------------------

TEST_F(ScenarioTest, growth_benchmark_tells_how_it_grows)
{
  const auto daemon = watch();
  auto session = connect();
  const auto linear = run(session, "growth_benchmark", 100, "SELECT leak_context(500)");
  ASSERT_THAT(names(linear), testing::ElementsAre("context_leak buggy leak"));
  EXPECT_EQ(linear["violations"][0]["shape"], "linear");
  EXPECT_EQ(linear["violations"][0]["occurrences"], 100);
  EXPECT_EQ(linear["violations"][0]["query"], "SELECT leak_context(500)");
  EXPECT_EQ(linear["executed"], 110);
  EXPECT_EQ(linear["failed"], 0);
  EXPECT_EQ(linear["findings"], 1);

  session.exec("CREATE SEQUENCE more");
  const auto superlinear =
      run(session, "growth_benchmark", 100, "SELECT leak_context((nextval('more') * 40)::int)");
  ASSERT_THAT(names(superlinear), testing::ElementsAre("context_leak buggy leak"));
  EXPECT_EQ(superlinear["violations"][0]["shape"], "superlinear");

  // Once, when the window is open already.
  session.exec("CREATE SEQUENCE once");
  const auto filled = run(session, "growth_benchmark", 100,
                          "SELECT leak_context(100000) FROM nextval('once') AS n WHERE n = 12");
  EXPECT_THAT(names(filled), IsEmpty());
  EXPECT_EQ(filled["findings"], 0);
}

TEST_F(ScenarioTest, tx_abort_loop_finds_what_an_abort_does_not_free)
{
  const auto daemon = watch();
  auto session = connect();
  session.exec("CREATE TABLE aborted (n int)");
  const auto found =
      run(session, "tx_abort_loop", 50, "INSERT INTO aborted VALUES (1); SELECT leak_context(500)");
  EXPECT_THAT(names(found), testing::ElementsAre("context_leak buggy leak"));
  EXPECT_EQ(session.value("SELECT count(*) FROM aborted"), "0");
}

TEST_F(ScenarioTest, wrong_context_probe_finds_some_bytes_each_time_and_nothing_else)
{
  const auto daemon = watch();
  auto session = connect();
  EXPECT_THAT(names(run(session, "wrong_context_probe", 100, "SELECT leak_in_top(200)")),
              testing::ElementsAre("wrong_ctx_alloc TopMemoryContext"));
  EXPECT_THAT(names(run(session, "wrong_context_probe", 100, "SELECT leak_context(500)")),
              IsEmpty());
}

TEST_F(ScenarioTest, context_reset_storm_finds_what_the_transaction_would_free)
{
  const auto daemon = watch();
  auto session = connect();
  const std::string workload = "CREATE TEMP TABLE passing (n int); DROP TABLE passing";
  EXPECT_THAT(names(run(session, "context_reset_storm", 100, workload)),
              Contains("ctx_bloat TopTransactionContext"));
  EXPECT_THAT(names(run(session, "growth_benchmark", 100, workload)), IsEmpty());

  const auto failed = run(session, "context_reset_storm", 100, "SELECT 1/0");
  EXPECT_EQ(failed["executed"], 1);
  EXPECT_EQ(failed["failed"], 1);
  EXPECT_TRUE(failed["findings"].is_null());
}

TEST_F(ScenarioTest, cursor_leak_reads_one_row_of_each_query)
{
  const auto daemon = watch();
  auto session = connect();
  const auto found =
      run(session, "cursor_leak", 100, "SELECT leak_context(500) FROM generate_series(1, 50)");
  ASSERT_THAT(names(found), testing::ElementsAre("context_leak buggy leak"));
  EXPECT_EQ(found["violations"][0]["occurrences"], 100); // of 5,000 rows
}

TEST_F(ScenarioTest, cold_warm_cold_finds_what_grows_warm_and_what_makes_sessions_ever_colder)
{
  const auto daemon = watch();
  auto session = connect();
  EXPECT_THAT(names(run(session, "cold_warm_cold", 90, "SELECT leak_context(500)")),
              testing::ElementsAre("context_leak buggy leak"));
  // Each session looks at all tables that those before have made.
  session.exec("CREATE SEQUENCE tables");
  const auto colder = run(session, "cold_warm_cold", 60, R"(
    DO $d$
    DECLARE t text;
    BEGIN
      EXECUTE format('CREATE TABLE ever_more_%s (n int)', nextval('tables'));
      FOR t IN SELECT relname FROM pg_class WHERE relname LIKE 'ever_more%' LOOP
        EXECUTE 'SELECT FROM ' || t;
      END LOOP;
    END $d$)");
  EXPECT_THAT(names(colder), Contains("ctx_bloat a new session"));
  EXPECT_EQ(colder["measured"].size(), 2U);
}

TEST_F(ScenarioTest, concurrent_backends_run_at_the_same_time)
{
  const auto daemon = watch();
  auto session = connect();
  // Each waits until all have arrived: one after the other they would wait for ever.
  session.exec("CREATE SEQUENCE arrivals");
  session.exec(R"(CREATE FUNCTION wait_for_all(n int) RETURNS void LANGUAGE plpgsql AS $f$
    BEGIN
      IF current_setting('scenario.arrived', true) IS NULL THEN
        PERFORM nextval('arrivals'), set_config('scenario.arrived', 'yes', false);
      END IF;
      WHILE (SELECT last_value FROM arrivals) < n LOOP
        PERFORM pg_sleep(0.01);
      END LOOP;
    END $f$)");
  session.exec("SET statement_timeout = '60s'");
  const auto found = run(session, "concurrent_backends", 20,
                         "SELECT wait_for_all(3), leak_context(2000)", R"('{"sessions": 3}')");
  EXPECT_THAT(names(found),
              UnorderedElementsAre("context_leak buggy leak", "context_leak buggy leak",
                                   "context_leak buggy leak"));
  EXPECT_NE(found["violations"][0]["server_pid"], found["violations"][1]["server_pid"]);
  EXPECT_EQ(found["executed"], 3 * (10 + 20));

  const auto ended =
      run(session, "concurrent_backends", 20,
          "SELECT pg_sleep(0.01); SELECT pg_terminate_backend(pid) FROM (SELECT min(pid) AS pid "
          "FROM pg_stat_activity "
          "WHERE backend_type = 'pgmemtrace workload') AS s WHERE pid = pg_backend_pid() "
          "AND (SELECT count(*) FROM pg_stat_activity WHERE backend_type = "
          "'pgmemtrace workload') = 3",
          R"('{"sessions": 3}')");
  EXPECT_THAT(names(ended), Contains("concurrent_backends "));
}

TEST_F(ScenarioTest, shmem_sentinel_probe_guards_what_it_can_for_as_long_as_it_runs)
{
  const auto daemon = watch();
  auto session = connect();
  const std::string overrun = R"(SELECT write_to_segment('buggy first', 1000, '\x2a'))";
  const auto found = run(session, "shmem_sentinel_probe", 10, overrun);
  ASSERT_THAT(names(found), testing::ElementsAre("shmem_overrun buggy first"));
  EXPECT_THAT(found["violations"][0]["detail"].get<std::string>(), HasSubstr(": " + overrun));
  EXPECT_EQ(found["violations"][0]["module"], "pgmemtrace_buggy.so");
  EXPECT_EQ(found["violations"][0]["stack"][0]["function"], "buggy_write_to_segment");
  EXPECT_EQ(session.value("SELECT count(*) FROM pgmemtrace.check_shmem_sentinels()"), "0");
  session.exec(R"(SELECT write_to_segment('buggy first', 1000, '\x00'))");

  EXPECT_THAT(names(run(session, "shmem_sentinel_probe", 10, "SELECT count(*) FROM pg_class")),
              IsEmpty());

  // Guards that somebody has set up stay.
  session.exec("SELECT pgmemtrace.register_shmem_probe('buggy first')");
  EXPECT_THAT(names(run(session, "shmem_sentinel_probe", 10,
                        R"(SELECT write_to_segment('buggy first', 1001, '\x2a'))")),
              testing::ElementsAre("shmem_overrun buggy first"));
  EXPECT_EQ(session.value("SELECT count(*) FROM pgmemtrace.check_shmem_sentinels() "
                          "WHERE below = 'buggy first'"),
            "1");
  session.exec(R"(SELECT write_to_segment('buggy first', 1001, '\x00'))");
  session.exec("SELECT pgmemtrace.clear_shmem_registry()");
}

TEST_F(ScenarioTest, dsm_lifecycle_check_finds_what_stays)
{
  const auto daemon = watch();
  auto session = connect();
  const auto found = run(session, "dsm_lifecycle_check", 3, "SELECT make_dsm(70000, false)");
  EXPECT_THAT(names(found), Contains("dsm_leak "));
  EXPECT_THAT(names(run(session, "dsm_lifecycle_check", 3, "SELECT leak_context(90000)")),
              IsEmpty());
  session.exec("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET "
               "min_parallel_table_scan_size = 0");
  EXPECT_THAT(names(run(session, "dsm_lifecycle_check", 3, "SELECT count(*) FROM pg_class")),
              IsEmpty());
}

// ---- ordinary work ----------------------------------------------------------------

TEST_F(ScenarioTest, ordinary_work_is_no_finding_in_any_scenario)
{
  const auto daemon = watch();
  auto session = connect();
  session.exec("CREATE TABLE ordinary (n int PRIMARY KEY, t text); "
               "INSERT INTO ordinary SELECT n, repeat('x', 100) FROM generate_series(1, 500) AS n");
  session.exec(R"(CREATE FUNCTION ordinary() RETURNS bigint LANGUAGE plpgsql AS $f$
    DECLARE s bigint := 0; r record;
    BEGIN
      FOR r IN SELECT * FROM ordinary LOOP s := s + r.n; END LOOP;
      BEGIN
        PERFORM 1 / 0;
      EXCEPTION WHEN division_by_zero THEN NULL;
      END;
      RETURN s;
    END $f$)");
  for (const auto &row : session.exec("SELECT name FROM pgmemtrace.scenario_plans() "
                                      "WHERE manner <> 'on a copy'"))
    for (const std::string workload :
         {"SELECT count(*) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid",
          "SELECT ordinary()",
          "UPDATE ordinary SET t = t || 'y' WHERE n < 5; SELECT t FROM ordinary ORDER BY t LIMIT "
          "3"}) {
      const auto result = run(session, row[0], 40, workload,
                              row[0] == "concurrent_backends" ? R"('{"sessions": 2}')" : "NULL");
      EXPECT_EQ(result["findings"], 0)
          << row[0] << ": " << workload << ": " << result["violations"];
    }
}

// ---- any workload -----------------------------------------------------------------

TEST_F(ScenarioTest, whatever_a_client_can_send_is_a_workload)
{
  const auto daemon = watch();
  auto session = connect();
  session.exec("CREATE TABLE done (n int)");
  session.exec(
      "CREATE PROCEDURE commits() LANGUAGE plpgsql AS "
      "$p$ BEGIN INSERT INTO done VALUES (1); COMMIT; INSERT INTO done VALUES (2); END $p$");
  EXPECT_EQ(run(session, "growth_benchmark", 10, "CALL commits()")["failed"], 0);
  EXPECT_EQ(session.value("SELECT count(*) FROM done"), "40"); // 10 to warm up

  for (const std::string workload :
       {"VACUUM done", "CREATE INDEX CONCURRENTLY i ON done (n); DROP INDEX i",
        "BEGIN; DELETE FROM done; ROLLBACK", "BEGIN; INSERT INTO done VALUES (3)",
        "CREATE TABLE passing (n int); DROP TABLE passing", "EXPLAIN SELECT 1", "SHOW work_mem"}) {
    const auto result = run(session, "growth_benchmark", 5, workload);
    // What PostgreSQL itself refuses in a string of several statements.
    const bool refused = workload.starts_with("CREATE INDEX CONCURRENTLY");
    EXPECT_EQ(result["failed"], refused ? 10 : 0) << workload << result["first_error"];
  }
  EXPECT_EQ(session.value("SELECT count(*) FROM done"), "40");
}

TEST_F(ScenarioTest, an_error_ends_one_execution_and_is_counted)
{
  const auto daemon = watch();
  auto session = connect();
  session.exec("CREATE SEQUENCE tries");
  const auto some = run(session, "growth_benchmark", 30, "SELECT 1 / (nextval('tries') % 4)");
  EXPECT_EQ(some["executed"], 40);
  EXPECT_EQ(some["failed"], 10);
  EXPECT_THAT(some["first_error"].get<std::string>(), HasSubstr("22012"));
  EXPECT_EQ(some["findings"], 0);
  const auto all = run(session, "growth_benchmark", 5, "SELECT no_such_function()");
  EXPECT_EQ(all["failed"], 10);
  EXPECT_TRUE(all["findings"].is_null()); // none was seen to run
}

TEST_F(ScenarioTest, runs_as_the_caller_with_the_callers_settings_and_no_more_rights)
{
  const auto daemon = watch();
  auto session = connect();
  session.exec("CREATE ROLE tries_scenarios LOGIN IN ROLE pgmemtrace_reader");
  session.exec("GRANT EXECUTE ON FUNCTION pgmemtrace.run_scenario, pgmemtrace.run_workload "
               "TO tries_scenarios");
  session.exec("CREATE TABLE saw (who text, session_who text, what text); GRANT ALL ON saw TO "
               "tries_scenarios");
  session.exec("SET ROLE tries_scenarios; SET search_path = public; SET DateStyle = 'German, DMY'; "
               "SET work_mem = '777kB'");
  run(session, "growth_benchmark", 4,
      "INSERT INTO saw VALUES (current_user, session_user, current_setting('DateStyle') || ' ' || "
      "current_setting('work_mem'))");
  EXPECT_EQ(session.value("SELECT DISTINCT (who, session_who, what)::text FROM saw"),
            R"((tries_scenarios,tries_scenarios,"German, DMY 777kB"))");
  const auto stays = run(session, "growth_benchmark", 4,
                         "RESET ROLE; RESET SESSION AUTHORIZATION; SELECT FROM pg_authid");
  EXPECT_THAT(stays["first_error"].get<std::string>(), HasSubstr("permission denied"));
  EXPECT_EQ(stays["failed"], 8);

  session.exec("RESET ROLE; CREATE ROLE may_not LOGIN IN ROLE pgmemtrace_reader; SET ROLE may_not");
  EXPECT_THAT(error_of(session, "SELECT " + call("growth_benchmark", 4, "SELECT 1")),
              HasSubstr("permission denied"));
}

// ---- what goes wrong --------------------------------------------------------------

TEST_F(ScenarioTest, a_caller_that_gives_up_takes_its_sessions_along)
{
  const auto daemon = watch();
  auto session = connect();
  auto observer = connect();
  session.exec("SET statement_timeout = '1s'");
  EXPECT_THAT(error_of(session, "SELECT " + call("concurrent_backends", 1000, "SELECT pg_sleep(10)",
                                                 R"('{"sessions": 3}')")),
              HasSubstr("statement timeout"));
  EXPECT_TRUE(none_runs(observer));

  session.exec("SET statement_timeout = 0");
  session.send_async("SELECT " + call("growth_benchmark", 1000, "SELECT pg_sleep(10)"));
  ASSERT_TRUE(eventually([&] {
    return observer.value(
               "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(10)'") == "1";
  }));
  observer.exec("SELECT pg_terminate_backend(" + std::to_string(session.backend_pid()) + ")");
  EXPECT_FALSE(session.finish());
  EXPECT_TRUE(none_runs(observer));
}

TEST_F(ScenarioTest, a_daemon_or_a_session_that_ends_is_an_error)
{
  auto daemon = watch();
  auto session = connect();
  EXPECT_THAT(error_of(session, "SELECT " + call("growth_benchmark", 10,
                                                 "SELECT pg_terminate_backend(pg_backend_pid())")),
              HasSubstr("ended before it could report"));

  auto observer = connect();
  session.send_async("SELECT " + call("growth_benchmark", 40, "SELECT pg_sleep(0.05)"));
  ASSERT_TRUE(eventually([&] {
    return observer.value(
               "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(0.05)'") ==
           "1";
  }));
  daemon->kill9();
  const auto done = session.finish();
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().hint, AnyOf(HasSubstr("sudo pgmemtrace"), HasSubstr("ended meanwhile")));
  EXPECT_TRUE(none_runs(observer));
}

TEST_F(ScenarioTest, bad_options_are_found_by_the_session_and_raised_here)
{
  const auto daemon = watch();
  auto session = connect();
  EXPECT_THAT(
      error_of(session, "SELECT " + call("tx_abort_loop", 4, "SELECT 1", R"('{"no_such": 1}')")),
      HasSubstr("unknown option"));
  EXPECT_THAT(
      error_of(session,
               "SELECT pgmemtrace.run_scenario('tx_abort_loop', 4, 'SELECT 1', repeat('x', 64))"),
      HasSubstr("pattern"));
  EXPECT_EQ(run(session, "growth_benchmark", 20, "SELECT leak_context(2000)",
                R"('{"allowed_contexts": ["buggy leak"]}')")["findings"],
            0);
}

TEST_F(ScenarioTest, too_few_background_workers_are_an_error_with_a_hint)
{
  auto server = PostgresCluster::start(copy().options({"max_worker_processes = 3"}));
  ASSERT_TRUE(server) << to_string(server.error());
  PostgresCopy::create_tester(**server);
  const auto daemon = watch(**server);
  auto session = PostgresCopy::connect(**server);
  EXPECT_THAT(error_of(session, "SELECT " + call("concurrent_backends", 4, "SELECT 1")),
              HasSubstr("max_worker_processes"));
  EXPECT_TRUE(none_runs(session));
}

TEST_F(ScenarioTest, a_server_that_crashes_in_the_middle_serves_again)
{
  auto server = PostgresCluster::start(copy().options());
  ASSERT_TRUE(server) << to_string(server.error());
  PostgresCopy::create_tester(**server);
  const auto daemon = watch(**server);
  auto session = PostgresCopy::connect(**server);
  session.send_async("SELECT " + call("growth_benchmark", 1000, "SELECT pg_sleep(10)"));
  auto observer = PostgresCopy::connect(**server);
  std::string pid;
  ASSERT_TRUE(eventually([&] {
    pid = observer.value(
        "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(10)'");
    return pid != "0";
  }));
  const auto inside = static_cast<pid_t>(std::stol(pid));
  ASSERT_EQ(kill(host_pid((*server)->postmaster_pid(), inside).value_or(inside), SIGKILL), 0);
  EXPECT_FALSE(session.finish());
  EXPECT_TRUE(eventually([&] {
    auto again = Session::connect((*server)->conninfo() + " user=tester");
    if (!again)
      return false;
    const auto done =
        again->try_exec("SELECT findings FROM " + call("growth_benchmark", 4, "SELECT 1"));
    return done && done->front().front() == "0";
  }));
}

} // namespace
} // namespace pgmemtrace::test
