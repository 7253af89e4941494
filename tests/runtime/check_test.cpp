// SPDX-License-Identifier: BSD-2-Clause
// check_test.cpp - `pgmemtrace check` on real servers: what it finds in a copy, what it does not,
// and that it leaves nothing behind.
#include <algorithm>
#include <csignal>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include "support/container.h"
#include "support/copy_test.h"

namespace pgmemtrace::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

// No md5(): from 14 on it is OpenSSL's, which does not recover from a failure while it is loaded.
constexpr const char *kOrdinary = R"sql(
BEGIN;
CREATE TABLE sales (id int PRIMARY KEY, customer int, amount numeric, note text, at date);
INSERT INTO sales SELECT g, g % 50, g * 1.5, repeat('note ' || g, 5), date '2026-01-01' + g % 300
  FROM generate_series(1, 3000) g;
CREATE INDEX ON sales (customer);
ANALYZE sales;
SELECT count(*), sum(amount), max(note) FROM sales JOIN (SELECT DISTINCT customer FROM sales) c USING (customer);
SELECT customer, sum(amount) FILTER (WHERE id % 2 = 0), string_agg(note, ',' ORDER BY id)
  FROM sales WHERE id < 100 GROUP BY customer ORDER BY 1;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_hashagg = off;
SELECT count(*) FROM sales a JOIN sales b ON a.id = b.id WHERE a.note LIKE '%7%';
SELECT id, rank() OVER (PARTITION BY customer ORDER BY amount DESC) FROM sales ORDER BY note, id LIMIT 20;
WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 100) SELECT sum(n) FROM r;
CREATE FUNCTION tried(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE t text; r record;
BEGIN
  FOR r IN SELECT id, note FROM sales WHERE id <= n ORDER BY id LOOP t := coalesce(t, '') || r.note; END LOOP;
  BEGIN PERFORM 1 / (n - n); EXCEPTION WHEN division_by_zero THEN t := t || ' caught'; END;
  BEGIN EXECUTE 'SELECT * FROM nowhere'; EXCEPTION WHEN undefined_table THEN t := t || ' again'; END;
  RETURN t;
END $$;
SELECT tried(20), tried(40);
SELECT jsonb_agg(to_jsonb(s) ORDER BY id) FROM sales s WHERE id < 5;
SELECT regexp_replace('a b c', '(\w) (\w)', '\2-\1', 'g'),
       to_tsvector('english', 'The quick foxes') @@ to_tsquery('fox'), '{1,2,3}'::int[] || 4;
UPDATE sales SET amount = amount + 1 WHERE customer = 3 RETURNING id, amount;
SAVEPOINT s; DELETE FROM sales WHERE id < 10; ROLLBACK TO s;
DECLARE c CURSOR FOR SELECT note FROM sales ORDER BY id; FETCH 3 FROM c; CLOSE c;
PREPARE p(int) AS SELECT amount FROM sales WHERE id = $1; EXECUTE p(7); EXECUTE p(8); DEALLOCATE p;
ALTER TABLE sales ADD COLUMN more int DEFAULT 5;
CREATE VIEW v AS SELECT customer, count(*) FROM sales GROUP BY 1;
SELECT * FROM v ORDER BY 1 LIMIT 3;
COPY (SELECT id FROM sales ORDER BY id LIMIT 3) TO STDOUT;
EXPLAIN (COSTS OFF) SELECT * FROM sales WHERE customer = 1;
ROLLBACK;
)sql";

class CheckTest : public CopyTest {
protected:
  void SetUp() override
  {
    CopyTest::SetUp();
    if (IsSkipped())
      return;
    const auto major = major_under_test();
    ASSERT_TRUE(major);
    std::string dir = major->root / "tmp/pgmt-checks.XXXXXX";
    ASSERT_NE(mkdtemp(dir.data()), nullptr);
    dir_ = dir;
    fs::permissions(dir_, fs::perms(01777));
  }

  void TearDown() override
  {
    CopyTest::TearDown();
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }

  // Below the directory of this test, as the server sees it.
  std::string inside(const std::string &directory) const
  {
    return "/" / dir_.lexically_relative(cluster().major().root) / directory;
  }

  std::vector<std::string> arguments(std::vector<std::string> more,
                                     const std::string &directory = "") const
  {
    std::vector<std::string> all{
        "check",           "--pid",    std::to_string(cluster().postmaster_pid()),
        "--user",          "tester",   "--copy-dir",
        inside(directory), "--format", "json"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  struct Checked {
    int status;
    json check; // the first
    std::string err;
    json violations() const { return check.value("violations", json::array()); }
  };
  Checked check(std::vector<std::string> more, const std::string &directory = "") const
  {
    auto argv = arguments(std::move(more), directory);
    argv.insert(argv.begin(), pgmemtrace_binary());
    const auto done = run_command(argv, {.limit = 300s, .user = {}, .env = {}});
    auto parsed = json::parse(done.out, nullptr, false);
    return {done.status, parsed.is_object() ? parsed["checks"].at(0) : json(json::value_t::object),
            done.err};
  }
  void expect_nothing(const Checked &checked) const
  {
    EXPECT_EQ(checked.status, 0) << checked.err;
    EXPECT_EQ(checked.violations(), json::array()) << checked.violations().dump(2);
    EXPECT_EQ(checked.check.value("failed", -1), 0) << checked.check.dump(2);
  }

  std::vector<fs::path> folders() const
  {
    return {fs::directory_iterator(dir_), fs::directory_iterator()};
  }
  // Of the copy, once it lets clients in; its workload may then run.
  pid_t wait_for_copy() const
  {
    pid_t pid = 0;
    EXPECT_TRUE(eventually([&] {
      for (const auto &folder : folders()) {
        const auto text = read_text(folder / "data/postmaster.pid");
        if (text.find("ready") != std::string::npos)
          pid = std::atoi(text.c_str());
      }
      return pid != 0;
    }));
    return pid;
  }

  fs::path dir_; // where copies are made
};

bool ended(pid_t pid) { return kill(pid, 0) != 0 && errno == ESRCH; }

// ---- use after reset ----------------------------------------------------------------

TEST_F(CheckTest, a_pointer_into_memory_that_was_reset_is_found)
{
  const auto found =
      check({"--use-after-reset", "--iterations", "5", "--sql", "SELECT hold_pointer()"});
  EXPECT_EQ(found.status, 1) << found.err;
  ASSERT_EQ(found.violations().size(), 1U) << found.check.dump(2);
  const auto violation = found.violations()[0];
  EXPECT_EQ(violation["rule"], "use_after_reset");
  EXPECT_EQ(violation["severity"], "ERROR");
  EXPECT_EQ(violation["module"], "pgmemtrace_buggy.so");
  EXPECT_EQ(violation["stack"][0]["function"], "buggy_hold_pointer");
  EXPECT_THAT(
      violation["detail"].get<std::string>(),
      AllOf(HasSubstr("signal 11"), HasSubstr("buggy_hold_pointer"), HasSubstr("run 2 of 5")));
  EXPECT_EQ(violation["query"], "SELECT hold_pointer()");
  EXPECT_EQ(found.check["scenario"], "use_after_reset");
  EXPECT_EQ(found.check["failed"], 0);
  EXPECT_THAT(folders(), IsEmpty());
}

TEST_F(CheckTest, pointers_to_what_lasts_are_no_finding)
{
  expect_nothing(check({"--use-after-reset", "--iterations", "5", "--sql",
                        "SELECT repaired.hold_pointer(), repaired.hold_text()"}));
}

TEST_F(CheckTest, results_that_change_are_found_and_shown)
{
  const auto found = check({"--use-after-reset", "--iterations", "5", "--sql",
                            "SELECT random(); SELECT hold_text(); SELECT now()"});
  EXPECT_EQ(found.status, 1) << found.err;
  ASSERT_EQ(found.violations().size(), 1U) << found.check.dump(2);
  const auto violation = found.violations()[0];
  EXPECT_EQ(violation["severity"], "WARNING");
  EXPECT_EQ(violation["occurrences"], 4); // all but the first call
  EXPECT_THAT(violation["detail"].get<std::string>(),
              AllOf(HasSubstr("statement 2"), HasSubstr("remembered"), HasSubstr("\\x7f")));
}

TEST_F(CheckTest, what_differs_by_itself_is_no_finding)
{
  const auto checked = check({"--use-after-reset", "--iterations", "3", "--sql",
                              "SELECT random(), clock_timestamp(), pg_backend_pid()"});
  expect_nothing(checked);
  EXPECT_THAT(checked.check["report"].get<std::string>(),
              HasSubstr("3 of 3 differed by themselves"));
}

TEST_F(CheckTest, ordinary_statements_live_with_wiped_memory)
{
  expect_nothing(check({"--use-after-reset", "--iterations", "5", "--sql", kOrdinary}));
  expect_nothing(
      check({"--use-after-reset", "--wipe-freed", "--iterations", "5", "--sql", kOrdinary}));
}

TEST_F(CheckTest, statements_that_end_transactions_run_too)
{
  for (const char *sql : {"VACUUM pg_class", "DO $$ BEGIN PERFORM 1; COMMIT; PERFORM 2; END $$"})
    expect_nothing(check({"--use-after-reset", "--iterations", "2", "--sql", sql}));
}

TEST_F(CheckTest, a_workload_without_end_is_cancelled_and_found)
{
  const auto found =
      check({"--use-after-reset", "--run-limit", "1", "--sql", "SELECT pg_sleep(600)"});
  EXPECT_EQ(found.status, 1) << found.err;
  ASSERT_EQ(found.violations().size(), 1U) << found.check.dump(2);
  EXPECT_THAT(found.violations()[0]["detail"].get<std::string>(), HasSubstr("did not end"));
}

// ---- out of memory ------------------------------------------------------------------

TEST_F(CheckTest, an_allocation_that_nobody_checks_is_found)
{
  const auto found = check({"--oom", "--sql", "SELECT unchecked_malloc(1000)"});
  EXPECT_EQ(found.status, 1) << found.err;
  ASSERT_EQ(found.violations().size(), 1U) << found.check.dump(2); // in all its ways
  const auto violation = found.violations()[0];
  EXPECT_EQ(violation["rule"], "oom_simulation");
  EXPECT_EQ(violation["severity"], "ERROR");
  EXPECT_EQ(violation["module"], "pgmemtrace_buggy.so");
  EXPECT_GE(violation["occurrences"], 2);
  EXPECT_THAT(violation["stack"].dump(), HasSubstr("\"buggy_unchecked_malloc\""));
  EXPECT_THAT(violation["detail"].get<std::string>(), HasSubstr("signal 11"));
  EXPECT_THAT(folders(), IsEmpty());
}

TEST_F(CheckTest, an_allocation_that_is_checked_is_no_finding)
{
  expect_nothing(check({"--oom", "--sql", "SELECT repaired.unchecked_malloc(1000)"}));
}

TEST_F(CheckTest, ordinary_statements_live_with_failing_allocations)
{
  expect_nothing(check({"--oom", "--iterations", "80", "--sql", kOrdinary}));
}

// ---- the copy, and what it was made of ----------------------------------------------

TEST_F(CheckTest, the_server_itself_is_left_alone)
{
  auto session = connect();
  const auto before = session.value("SELECT pg_postmaster_start_time()");
  expect_nothing(check({"--use-after-reset", "--iterations", "1", "--sql",
                        "CREATE TABLE IF NOT EXISTS made_in_the_copy(); SELECT pg_reload_conf()"}));
  EXPECT_EQ(session.value("SELECT pg_postmaster_start_time()"), before);
  EXPECT_EQ(session.value("SELECT to_regclass('made_in_the_copy') IS NULL"), "t");
  EXPECT_TRUE(eventually([&] {
    return session.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type IN "
                         "('client backend', 'walsender') AND pid <> pg_backend_pid()") == "0";
  }));
  EXPECT_EQ(session.value("SELECT count(*) FROM pg_replication_slots"), "0");
}

TEST_F(CheckTest, workers_of_libraries_do_not_run_in_the_copy)
{
  auto session = connect();
  const std::string workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE "
                              "'pgmemtrace%' OR backend_type LIKE 'logical%'";
  ASSERT_NE(session.value(workers), "0");
  expect_nothing(check({"--use-after-reset", "--iterations", "1", "--sql",
                        "DO $$ BEGIN ASSERT (" + workers + ") = 0; END $$"}));
}

TEST_F(CheckTest, tablespaces_are_copied_beside_the_copy)
{
  auto session = connect();
  const auto place = dir_ / "space";
  fs::create_directory(place);
  fs::permissions(place, fs::perms(0777)); // the server makes a folder in it
  const auto owner = find_user("postgres", cluster().major().root);
  ASSERT_TRUE(owner && chown(place.c_str(), owner->uid, owner->gid) == 0);
  const std::string inside = "/" / place.lexically_relative(cluster().major().root);
  session.exec("CREATE TABLESPACE elsewhere LOCATION '" + inside + "'");
  session.exec("CREATE TABLE kept TABLESPACE elsewhere AS SELECT 7 AS seven");
  expect_nothing(check({"--use-after-reset", "--iterations", "1", "--sql",
                        "DO $$ BEGIN ASSERT (SELECT seven FROM kept) = 7; "
                        "ASSERT (SELECT pg_tablespace_location(oid) FROM pg_tablespace "
                        "WHERE spcname = 'elsewhere') <> '" +
                            inside + "'; END $$"}));
  EXPECT_EQ(session.value("SELECT seven FROM kept"), "7");
  session.exec("DROP TABLE kept");
  session.exec("DROP TABLESPACE elsewhere");
}

TEST_F(CheckTest, a_daemon_of_all_servers_leaves_copies_out)
{
  auto running = start_daemon(arguments({"--use-after-reset", "--sql", "SELECT pg_sleep(600)"}));
  ASSERT_TRUE(running);
  const pid_t copy = wait_for_copy();
  const auto daemon = start_daemon({"--pid", "all", "--level", "sweep", "--format", "json",
                                    "--listen", "off", "--interval", "1s"});
  ASSERT_TRUE(daemon);
  const auto status =
      daemon->wait_for_json([](const json &line) { return line["type"] == "status"; });
  ASSERT_TRUE(status);
  std::vector<pid_t> watched;
  for (const auto &server : (*status)["servers"])
    watched.push_back(server["postmaster"]);
  EXPECT_THAT(watched, testing::Contains(cluster().postmaster_pid()));
  EXPECT_THAT(watched, testing::Not(testing::Contains(copy)));
  EXPECT_EQ(running->stop(SIGINT), 3);
}

TEST_F(CheckTest, an_interrupted_check_removes_its_copy)
{
  auto running = start_daemon(arguments({"--use-after-reset", "--sql", "SELECT pg_sleep(600)"}));
  ASSERT_TRUE(running);
  const pid_t copy = wait_for_copy();
  EXPECT_EQ(running->stop(SIGTERM), 3);
  EXPECT_THAT(running->err(), HasSubstr("interrupted"));
  EXPECT_TRUE(ended(copy));
  EXPECT_THAT(folders(), IsEmpty());
}

TEST_F(CheckTest, what_a_killed_check_leaves_goes_with_the_next_one)
{
  auto running = start_daemon(arguments({"--use-after-reset", "--sql", "SELECT pg_sleep(600)"}));
  ASSERT_TRUE(running);
  const pid_t copy = wait_for_copy();
  auto beside = start_daemon(arguments({"--use-after-reset", "--sql", "SELECT pg_sleep(600)"}));
  ASSERT_TRUE(beside);
  ASSERT_TRUE(eventually([&] { return folders().size() == 2; }));
  running->kill9();
  EXPECT_TRUE(eventually([&] { return ended(copy); })); // it does not outlive us
  EXPECT_EQ(folders().size(), 2U);
  expect_nothing(check({"--use-after-reset", "--iterations", "1", "--sql", "SELECT 1"}));
  EXPECT_EQ(folders().size(), 1U); // that of the one that lives
  EXPECT_EQ(beside->stop(SIGINT), 3);
  EXPECT_THAT(folders(), IsEmpty());
}

TEST_F(CheckTest, a_server_in_a_container_has_its_copy_in_there)
{
  if (cluster().major().root != "/")
    GTEST_SKIP() << "containers here are of the host's image";
  const auto container = Container::create();
  ASSERT_TRUE(container) << to_string(container.error());
  auto server = (*container)->start_server(copy().options());
  ASSERT_TRUE(server) << to_string(server.error()) << server.error().hint;
  auto session = PostgresCopy::create_tester(**server);
  const auto in_there = [&] {
    int copies = 0;
    for (const auto &entry : fs::directory_iterator((*container)->root() / "tmp"))
      copies += entry.path().filename().string().starts_with("pgmemtrace-copy.") ? 1 : 0;
    return copies;
  };
  std::vector<std::string> argv{pgmemtrace_binary(),
                                "check",
                                "--use-after-reset",
                                "--pid",
                                std::to_string((*server)->postmaster_pid()),
                                "--user",
                                "tester",
                                "--sql",
                                "SELECT hold_pointer()",
                                "--copy-dir",
                                "/tmp",
                                "--format",
                                "json"};
  const auto found = run_command(argv, {.limit = 120s, .user = {}, .env = {}});
  EXPECT_EQ(found.status, 1) << found.err;
  EXPECT_THAT(found.out,
              AllOf(HasSubstr("\"buggy_hold_pointer\""), HasSubstr("pgmemtrace_buggy.so")));
  EXPECT_EQ(in_there(), 0);

  argv[8] = "SELECT pg_sleep(600)";
  auto running = start_daemon({argv.begin() + 1, argv.end()});
  ASSERT_TRUE(running);
  EXPECT_TRUE(eventually([&] { return in_there() == 1; }));
  EXPECT_EQ(running->stop(SIGTERM), 3);
  EXPECT_EQ(in_there(), 0);
  server->reset();
}

// ---- for those who ask in SQL ------------------------------------------------------------

TEST_F(CheckTest, sessions_get_what_a_check_finds)
{
  const auto daemon = watch({"--copy-dir", inside("")});
  ASSERT_TRUE(daemon);
  auto session = connect();
  const auto run = [&](const char *scenario, const char *workload) {
    return json::parse(
        session.value(std::string("SELECT to_jsonb(s) FROM pgmemtrace.run_scenario('") + scenario +
                      "', 4, '" + workload + "') AS s"),
        nullptr, false);
  };
  const auto stale = run("use_after_reset", "SELECT hold_pointer()");
  ASSERT_EQ(stale["violations"].size(), 1U) << stale.dump(2);
  EXPECT_EQ(stale["violations"][0]["rule"], "use_after_reset");
  EXPECT_EQ(stale["violations"][0]["module"], "pgmemtrace_buggy.so");
  EXPECT_THAT(stale["violations"][0]["detail"].get<std::string>(), HasSubstr("buggy_hold_pointer"));
  EXPECT_EQ(run("oom_simulation", "SELECT repaired.unchecked_malloc(10)")["violations"],
            json::array());
  EXPECT_EQ(session.value("SELECT hold_pointer()"), "42"); // this session lives
  EXPECT_THAT(folders(), IsEmpty());

  const auto failed = session.try_exec(
      "SELECT * FROM pgmemtrace.check_on_copy('use_after_reset', 1, repeat('no SQL ', 3))");
  EXPECT_TRUE(failed); // an answer: how often it failed
}

TEST_F(CheckTest, a_check_that_nobody_waits_for_ends)
{
  const auto daemon = watch({"--copy-dir", inside("")});
  ASSERT_TRUE(daemon);
  auto session = connect();
  const auto begin = [&] {
    session = connect();
    session.send_async(
        "SELECT pgmemtrace.run_scenario('use_after_reset', 1, 'SELECT pg_sleep(600)')");
    return wait_for_copy();
  };
  const pid_t first = begin();
  session.close(); // it is looked after its latch by then
  auto other = connect();
  other.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE "
             "'SELECT pgmemtrace.run%' AND pid <> pg_backend_pid()");
  EXPECT_TRUE(eventually([&] { return ended(first) && folders().empty(); }));

  const pid_t second = begin();
  EXPECT_EQ(daemon->stop(SIGTERM), 0);
  EXPECT_TRUE(ended(second));
  EXPECT_THAT(folders(), IsEmpty());
}

TEST_F(CheckTest, a_killed_daemon_leaves_no_server_behind)
{
  const auto daemon = watch({"--copy-dir", inside("")});
  ASSERT_TRUE(daemon);
  auto session = connect();
  session.send_async(
      "SELECT pgmemtrace.run_scenario('use_after_reset', 1, 'SELECT pg_sleep(600)')");
  const pid_t copy = wait_for_copy();
  daemon->kill9();
  EXPECT_TRUE(eventually([&] { return ended(copy) && folders().empty(); }));
}

// ---- what cannot be done --------------------------------------------------------------

TEST_F(CheckTest, a_full_disk_is_seen_before_anything_is_copied)
{
  const auto small = dir_ / "small";
  fs::create_directory(small);
  // Where the server sees it: containers have given this test a mount namespace of its own.
  const auto in_its_namespace = [&](std::vector<std::string> command) {
    const auto target = "--target=" + std::to_string(cluster().postmaster_pid());
    command.insert(command.begin(), {"nsenter", target, "--mount", "--"});
    return run_command(command);
  };
  const auto mounted = in_its_namespace(
      {"mount", "-t", "tmpfs", "-o", "size=16m,mode=1777", "tmpfs", small.string()});
  ASSERT_EQ(mounted.status, 0) << mounted.err;
  const auto refused = check({"--oom", "--sql", "SELECT 1"}, "small");
  EXPECT_EQ(refused.status, 3);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("16.0 MiB left"), HasSubstr("--copy-dir")));
  EXPECT_EQ(in_its_namespace({"ls", "-A", small.string()}).out, "");
  EXPECT_EQ(in_its_namespace({"umount", small.string()}).status, 0);
}

TEST_F(CheckTest, a_server_that_refuses_replication_says_so)
{
  auto session = connect();
  const fs::path hba =
      cluster().major().root / fs::path(session.value("SHOW hba_file")).relative_path();
  const auto text = read_text(hba);
  std::ofstream(hba) << "local all tester trust\nlocal all all peer\n" << std::flush;
  session.exec("SELECT pg_reload_conf()");
  // The postmaster reads it when it comes to it.
  const auto refused = [&] {
    const auto done = check({"--oom", "--iterations", "1", "--sql", "SELECT 1"});
    return done.status == 3 ? done.err : std::string();
  };
  std::string err;
  EXPECT_TRUE(eventually([&] { return !(err = refused()).empty(); }));
  EXPECT_THAT(err, AllOf(HasSubstr("pg_basebackup"), HasSubstr("pg_hba.conf"),
                         HasSubstr("local replication all")));
  EXPECT_THAT(folders(), IsEmpty());
  std::ofstream(hba) << text << std::flush;
  session.exec("SELECT pg_reload_conf()");
  EXPECT_TRUE(eventually([&] { return refused().empty(); }));
}

TEST_F(CheckTest, bad_input_is_said)
{
  const auto status = [](std::vector<std::string> argv) {
    argv.insert(argv.begin(), {pgmemtrace_binary(), "check"});
    return run_command(argv).status;
  };
  EXPECT_EQ(status({"--sql", "SELECT 1"}), 2); // neither of the two
  EXPECT_EQ(status({"--oom"}), 2);
  EXPECT_EQ(status({"--oom", "--sql", "SELECT 1", "--file", "/etc/hostname"}), 2);
  EXPECT_EQ(status({"--oom", "--file", "/nowhere"}), 2);
  EXPECT_EQ(status({"--oom", "--sql", "SELECT 1", "--iterations", "0"}), 2);
  EXPECT_EQ(status({"--oom", "--sql", "SELECT 1", "--dsn", "nonsense"}), 2);
  EXPECT_EQ(status({"--oom", "--sql", "SELECT 1", "--pid", "1"}), 3); // no PostgreSQL
  EXPECT_EQ(status({"--oom", "--sql", "SELECT 1", "--pgdata", "/nowhere"}), 3);

  const auto nowhere = check({"--oom", "--sql", "SELECT 1", "--database", "nowhere"});
  EXPECT_EQ(nowhere.status, 3);
  EXPECT_THAT(nowhere.err, HasSubstr("nowhere"));
  const auto no_folder = check({"--oom", "--sql", "SELECT 1"}, "not/there");
  EXPECT_EQ(no_folder.status, 3);
  EXPECT_THAT(no_folder.err, HasSubstr("--copy-dir"));
  const auto no_library = check({"--oom", "--sql", "SELECT 1", "--faults-library", "/nowhere"});
  EXPECT_EQ(no_library.status, 3);
  EXPECT_THAT(folders(), IsEmpty());
}

TEST_F(CheckTest, a_workload_that_fails_by_itself_is_told_apart)
{
  const auto checked = check({"--use-after-reset", "--iterations", "2", "--sql", "SELECT 1 / 0"});
  EXPECT_EQ(checked.violations(), json::array());
  EXPECT_EQ(checked.check["failed"], 4);
  EXPECT_THAT(checked.check["first_error"].get<std::string>(), HasSubstr("division by zero"));
  EXPECT_EQ(checked.status, 3); // nothing was checked
}

} // namespace
} // namespace pgmemtrace::test
