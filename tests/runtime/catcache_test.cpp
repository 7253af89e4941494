// SPDX-License-Identifier: BSD-2-Clause
// catcache_test.cpp - `pgmemtrace catcache` against backends whose caches we fill ourselves.
//
// No SQL shows these caches.  But what one statement puts there is known, and so is the
// memory that it takes: pg_backend_memory_contexts shows the context that they share.
#include <csignal>
#include <string>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <sys/syscall.h>

#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

CommandResult catcache_of(pid_t pid, const std::vector<std::string> &more = {})
{
  std::vector<std::string> argv{pgmemtrace_binary(), "catcache", "--pid", std::to_string(pid)};
  argv.insert(argv.end(), more.begin(), more.end());
  return run_command(argv);
}

std::int64_t number(const json &object, const char *key)
{
  return object[key].is_number() ? object[key].get<std::int64_t>() : -1;
}

// What must hold whatever the process does.
void check_sums(const json &caches)
{
  for (const char *key : {"tuples", "negative", "lists"}) {
    std::int64_t sum = 0;
    for (const auto &cache : caches["caches"])
      sum += number(cache, key);
    EXPECT_EQ(number(caches, key), sum) << key;
  }
  for (const auto &cache : caches["caches"]) {
    EXPECT_LE(number(cache, "negative"), number(cache, "tuples")) << cache;
    if (!cache["added"].is_null()) {
      EXPECT_EQ(number(cache, "delta_tuples"), number(cache, "added") - number(cache, "removed"))
          << cache;
    }
  }
}

json json_of(pid_t pid, const std::vector<std::string> &more = {})
{
  std::vector<std::string> args{"--format", "json"};
  args.insert(args.end(), more.begin(), more.end());
  const auto result = catcache_of(pid, args);
  EXPECT_EQ(result.status, 0) << result.err;
  auto parsed = json::parse(result.out, nullptr, false);
  EXPECT_TRUE(parsed.is_object()) << result.out;
  if (parsed.is_object() && parsed["complete"] == true)
    check_sums(parsed);
  return parsed;
}

// pg_class by name and schema: RELNAMENSP of every major.
constexpr std::uint32_t kClassNameIndex = 2663;
constexpr std::uint32_t kProcNameIndex = 2691;
constexpr std::uint32_t kTypeOidIndex = 2703;

json cache_by(const json &caches, std::uint32_t index)
{
  for (const auto &cache : caches["caches"])
    if (cache["index_oid"] == index)
      return cache;
  ADD_FAILURE() << "no cache with index " << index;
  return {};
}

struct CatcacheTest : RuntimeTest {
  static void SetUpTestSuite() { use_cluster({.conf = {"autovacuum = off"}}); }

  // A session whose caches change by what it is told to do only: not by other sessions' work,
  // and the statement's own needs are there already.
  static Session warm(const std::string &statement)
  {
    auto session = cluster().connect();
    session.exec(statement);
    session.exec(statement);
    return session;
  }
};

TEST_F(CatcacheTest, each_relation_that_is_touched_is_counted_once)
{
  constexpr int kTables = 40;
  auto admin = cluster().connect();
  for (int i = 0; i <= kTables; ++i)
    admin.exec("CREATE TABLE touched_" + std::to_string(i) + " (a int)");
  auto session = warm("SELECT a FROM public.touched_0");
  const json before = json_of(session.backend_pid());
  for (int i = 1; i <= kTables; ++i)
    session.exec("SELECT a FROM public.touched_" + std::to_string(i));
  const json after = json_of(session.backend_pid());
  EXPECT_EQ(number(after, "relations"), number(before, "relations") + kTables);
  const json names = cache_by(after, kClassNameIndex);
  EXPECT_EQ(number(names, "tuples"), number(cache_by(before, kClassNameIndex), "tuples") + kTables);
  EXPECT_EQ(number(names, "negative"), number(cache_by(before, kClassNameIndex), "negative"));
  EXPECT_EQ(names["catalog"], "pg_class") << "the backend knows it, no connection is needed";
  EXPECT_TRUE(names["index"].is_null());
}

TEST_F(CatcacheTest, names_that_do_not_exist_are_negative)
{
  constexpr int kNames = 300;
  auto session = warm("SELECT to_regclass('public.nothing')");
  const json before = json_of(session.backend_pid());
  session.exec("SELECT to_regclass('public.nothing_' || i) FROM generate_series(1, " +
               std::to_string(kNames) + ") i");
  const json after = json_of(session.backend_pid());
  const json old_names = cache_by(before, kClassNameIndex);
  const json names = cache_by(after, kClassNameIndex);
  EXPECT_EQ(number(names, "negative"), number(old_names, "negative") + kNames);
  EXPECT_EQ(number(names, "tuples"), number(old_names, "tuples") + kNames);
  EXPECT_GT(number(names, "buckets"), number(old_names, "buckets"));
}

TEST_F(CatcacheTest, searches_by_a_part_of_the_key_leave_lists)
{
  auto session = warm("SELECT abs(-1)");
  const json before = cache_by(json_of(session.backend_pid()), kProcNameIndex);
  session.exec("SELECT sqrt(4.0), upper('x'), length('x')");
  const json after = cache_by(json_of(session.backend_pid()), kProcNameIndex);
  EXPECT_EQ(number(after, "lists"), number(before, "lists") + 3);
}

// Bytes are an estimate: of tuples it is what palloc() takes.
TEST_F(CatcacheTest, bytes_are_those_that_the_context_gains)
{
  const std::string used = "SELECT used_bytes FROM pg_backend_memory_contexts "
                           "WHERE name = 'CacheMemoryContext'";
  const auto look_up = [](int first, int last) { // types by OID: base types of the catalog
    return "SELECT count(format_type(o, NULL)) FROM (SELECT oid AS o FROM pg_type WHERE typtype = "
           "'b' ORDER BY oid OFFSET " +
           std::to_string(first) + " LIMIT " + std::to_string(last - first) + ") AS types";
  };
  auto session = warm(used);
  session.exec(look_up(0, 2));
  session.exec(look_up(0, 2));
  const auto context_before = std::stoll(session.value(used));
  const json before = json_of(session.backend_pid());
  session.exec(look_up(2, 60));
  const json after = json_of(session.backend_pid());
  const auto context_after = std::stoll(session.value(used));
  ASSERT_GE(number(cache_by(after, kTypeOidIndex), "tuples"), 58);
  const auto estimated = number(after, "estimated_bytes") - number(before, "estimated_bytes");
  EXPECT_NEAR(static_cast<double>(estimated), static_cast<double>(context_after - context_before),
              static_cast<double>(estimated) / 20);
}

TEST_F(CatcacheTest, statements_plans_and_portals_are_counted)
{
  auto session = warm("SELECT 1");
  const json none = json_of(session.backend_pid());
  EXPECT_EQ(number(none, "prepared_statements"), 0);
  EXPECT_EQ(number(none, "saved_plans"), 0);
  EXPECT_EQ(number(none, "portals"), 0);

  for (int i = 0; i < 12; ++i)
    session.exec("PREPARE p" + std::to_string(i) + " AS SELECT " + std::to_string(i));
  session.exec("EXECUTE p3"); // no parameters: a generic plan at once
  session.exec("BEGIN");
  for (int i = 0; i < 7; ++i)
    session.exec("DECLARE c" + std::to_string(i) + " CURSOR FOR SELECT 1");
  const json some = json_of(session.backend_pid());
  EXPECT_EQ(number(some, "prepared_statements"), 12);
  EXPECT_EQ(number(some, "saved_plans"), 12);
  EXPECT_EQ(number(some, "generic_plans"), 1);
  EXPECT_EQ(number(some, "portals"), 7);

  session.exec("COMMIT");
  session.exec("DISCARD PLANS");
  EXPECT_EQ(number(json_of(session.backend_pid()), "invalid_plans"), 12);
  session.exec("DEALLOCATE ALL");
  const json after = json_of(session.backend_pid());
  EXPECT_EQ(number(after, "prepared_statements"), 0);
  EXPECT_EQ(number(after, "saved_plans"), 0);
  EXPECT_EQ(number(after, "portals"), 0);
}

TEST_F(CatcacheTest, growth_is_what_happened_between_two_looks)
{
  auto session = warm("SELECT 1");
  const json idle = json_of(session.backend_pid(), {"--interval", "1ms"});
  EXPECT_GT(idle["interval_seconds"].get<double>(), 0.0);
  for (const auto &cache : idle["caches"]) {
    EXPECT_EQ(number(cache, "added"), 0) << cache;
    EXPECT_EQ(number(cache, "removed"), 0) << cache;
  }
  EXPECT_TRUE(json_of(session.backend_pid())["caches"][0]["added"].is_null());

  // Not as fast as it can: millions of entries are more than a look reads to its end.
  session.send_async("DO $$BEGIN FOR i IN 1..100000000 LOOP "
                     "PERFORM to_regclass('public.nothing_' || i); PERFORM pg_sleep(0.0005); "
                     "END LOOP; END$$");
  EXPECT_TRUE(eventually([&] {
    const json busy = json_of(session.backend_pid(), {"--interval", "50ms"});
    return number(cache_by(busy, kClassNameIndex), "added") > 0 &&
           number(cache_by(busy, kClassNameIndex), "delta_tuples") > 0;
  }));
  cluster().connect().exec("SELECT pg_terminate_backend(" + std::to_string(session.backend_pid()) +
                           ")");
}

// Tables come and go, and so do entries all the time.
std::string tables_come_and_go(const std::string &between)
{
  return "DO $$BEGIN FOR i IN 1..1000000 LOOP "
         "CREATE TEMP TABLE busy (a int PRIMARY KEY, b text); DROP TABLE busy; COMMIT; " +
         between + "END LOOP; END$$";
}

// True if it was read whole; if not, it says so.
bool read_while_busy(const Session &session)
{
  const auto result = catcache_of(session.backend_pid(), {"--format", "json"});
  EXPECT_EQ(result.status, 0) << result.err;
  const auto caches = json::parse(result.out, nullptr, false);
  if (!caches.is_object()) {
    ADD_FAILURE() << result.out;
    return false;
  }
  if (caches["complete"] == true)
    check_sums(caches);
  else
    EXPECT_THAT(result.err, HasSubstr("warning: the numbers are not exact"));
  return caches["complete"] == true;
}

// Whether a look falls between two changes is chance.
TEST_F(CatcacheTest, a_busy_backend_is_read_or_says_that_it_moved)
{
  auto session = cluster().connect();
  session.send_async(tables_come_and_go(""));
  for (int i = 0; i < 5; ++i)
    read_while_busy(session);
  EXPECT_TRUE(session.busy());
  cluster().connect().exec("SELECT pg_terminate_backend(" + std::to_string(session.backend_pid()) +
                           ")");
}

// As long as it waits now and then, some look does.
TEST_F(CatcacheTest, a_busy_backend_that_waits_at_times_is_read)
{
  auto session = cluster().connect();
  session.send_async(tables_come_and_go("PERFORM pg_sleep(0.02); "));
  EXPECT_TRUE(eventually([&] { return read_while_busy(session); }));
  EXPECT_TRUE(session.busy());
  cluster().connect().exec("SELECT pg_terminate_backend(" + std::to_string(session.backend_pid()) +
                           ")");
}

TEST_F(CatcacheTest, a_stopped_backend_is_read)
{
  auto session = warm("SELECT 1");
  ASSERT_EQ(kill(session.backend_pid(), SIGSTOP), 0);
  const auto result = catcache_of(session.backend_pid());
  ASSERT_EQ(kill(session.backend_pid(), SIGCONT), 0);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(session.value("SELECT 1"), "1");
}

TEST_F(CatcacheTest, text_is_for_people_and_names_come_from_a_connection)
{
  auto session = warm("SELECT abs(-1)");
  session.exec("PREPARE one AS SELECT 1");
  const auto plain = catcache_of(session.backend_pid());
  EXPECT_EQ(plain.status, 0) << plain.err;
  EXPECT_TRUE(plain.err.empty()) << plain.err;
  EXPECT_THAT(plain.out, StartsWith("process " + std::to_string(session.backend_pid()) +
                                    ": client backend, database postgres"));
  EXPECT_THAT(plain.out, HasSubstr("pg_proc by 2691\n"));
  EXPECT_THAT(plain.out, HasSubstr("\ntotal: "));
  EXPECT_THAT(plain.out, HasSubstr("; prepared statements: 1; portals: 0\n"));

  const auto named = catcache_of(session.backend_pid(), {"--dsn", cluster().conninfo()});
  EXPECT_EQ(named.status, 0) << named.err;
  EXPECT_THAT(named.out, HasSubstr("pg_proc by pg_proc_proname_args_nsp_index\n"));
  for (const auto &cache :
       json_of(session.backend_pid(), {"--dsn", cluster().conninfo()})["caches"]) {
    EXPECT_TRUE(cache["catalog"].is_string()) << cache;
    EXPECT_TRUE(cache["index"].is_string()) << cache;
  }

  const auto unnamed =
      catcache_of(session.backend_pid(), {"--dsn", "host=/nonexistent", "--format", "json"});
  EXPECT_EQ(unnamed.status, 0);
  EXPECT_TRUE(json::parse(unnamed.out, nullptr, false).is_object()) << unnamed.out;
  EXPECT_THAT(unnamed.err, StartsWith("warning: no names"));
}

TEST_F(CatcacheTest, what_has_no_catalog_caches_is_an_error)
{
  const auto postmaster = catcache_of(cluster().postmaster_pid());
  EXPECT_EQ(postmaster.status, 3);
  EXPECT_TRUE(postmaster.out.empty());
  EXPECT_THAT(postmaster.err, HasSubstr("it has none"));
  EXPECT_THAT(postmaster.err, HasSubstr("\nhint: "));

  auto other = ChildProcess::spawn({"/bin/sleep", "600"});
  ASSERT_TRUE(other);
  const auto no_server = catcache_of(other->pid());
  EXPECT_EQ(no_server.status, 3);
  EXPECT_THAT(no_server.err, StartsWith("error: "));
}

TEST_F(CatcacheTest, a_backend_that_ends_between_two_looks_is_an_error)
{
  auto session = warm("SELECT 1");
  auto daemon = Daemon::start({"catcache", "--pid", std::to_string(session.backend_pid()),
                               "--interval", "5s", "--format", "json"});
  ASSERT_TRUE(daemon);
  const std::string sleeps = std::to_string(SYS_clock_nanosleep) + " ";
  const std::string file = "/proc/" + std::to_string((*daemon)->pid()) + "/syscall";
  ASSERT_TRUE(eventually([&] { return read_text(file).starts_with(sleeps); }));
  session.close();
  EXPECT_EQ((*daemon)->wait(), 3);
  EXPECT_THAT((*daemon)->err(), StartsWith("error: "));
  EXPECT_THAT((*daemon)->err(), HasSubstr("No such process"));
  EXPECT_TRUE((*daemon)->out().empty()) << (*daemon)->out();
}

TEST_F(CatcacheTest, bad_usage_is_told)
{
  EXPECT_EQ(catcache_of(1, {"--interval", "soon"}).status, 2);
  EXPECT_EQ(catcache_of(1, {"--interval", "0s"}).status, 2);
  EXPECT_EQ(catcache_of(1, {"--format", "xml"}).status, 2);
  EXPECT_EQ(run_command({pgmemtrace_binary(), "catcache"}).status, 2);
}

} // namespace
} // namespace pgmemtrace::test
