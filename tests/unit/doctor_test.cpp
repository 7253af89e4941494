// SPDX-License-Identifier: BSD-2-Clause
// doctor_test - what the report says, for machines that this one is not.
#include "cli/doctor.h"

#include <cerrno>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

DoctorReport good()
{
  DoctorReport out;
  out.selection = "all";
  out.kernel.release = "6.18.44";
  out.kernel.btf = out.kernel.uprobes = out.kernel.uprobe_multi = true;
  out.kernel.bpf_loop = out.kernel.task_storage = true;
  out.kernel.capabilities = {true, true, true, true, true};
  out.servers = {{.pid = 4711,
                  .major = 15,
                  .version = "15.20 (Debian 15.20-0+deb12u1)",
                  .instance = "main",
                  .data_directory = "/var/lib/postgresql/15/main",
                  .binary = "/usr/lib/postgresql/15/bin/postgres",
                  .build_id = "0123456789abcdef0123",
                  .processes = 9}};
  DoctorReport::Binary binary{
      "/usr/lib/postgresql/15/bin/postgres", "15.20", "0123456789abcdef0123", {}, {512, 0}};
  binary.plan.sites = {
      {.probe = PGMT_PROBE_SETTLE,
       .function = "ReadyForQuery",
       .address = 0x479124,
       .file_offset = 0x479124,
       .displacement = 4,
       .instruction = "push rbp",
       .emulated = true,
       .callers = 1},
      {.probe = PGMT_PROBE_EXIT, .function = "proc_exit", .instruction = "endbr64", .callers = 60}};
  binary.plan.unplaced = {
      {PGMT_PROBE_START, "standard_ExecutorStart", "nothing in the binary calls it"}};
  out.binaries = {binary};
  out.calibration = Calibration{0.45e-6, 17e-6};
  return out;
}

std::string text(const DoctorReport &report)
{
  std::ostringstream out;
  print_text(report, out);
  return out.str();
}

json object(const DoctorReport &report)
{
  std::ostringstream out;
  print_json(report, out);
  EXPECT_THAT(out.str(), EndsWith("}\n"));
  EXPECT_EQ(out.str().find('\n'), out.str().size() - 1) << "one line";
  return json::parse(out.str());
}

TEST(Doctor, says_yes_in_the_last_line)
{
  EXPECT_FALSE(obstacle(good()));
  EXPECT_THAT(text(good()), EndsWith("\npgmemtrace --pid all would work: yes\n"));
}

TEST(Doctor, names_the_reason_in_the_last_line)
{
  auto report = good();
  report.missing = {{"load BPF programs (CAP_BPF)", EPERM, "run with sudo"},
                    {"probe other processes (CAP_PERFMON)", EPERM, "run with sudo"}};
  EXPECT_THAT(text(report), EndsWith("would work: no (load BPF programs (CAP_BPF): Operation not "
                                     "permitted, and 1 more)\n"));
}

TEST(Doctor, says_an_equal_hint_once)
{
  auto report = good();
  report.missing = {{"one", EPERM, "run with sudo"}, {"two", EPERM, "run with sudo"}};
  const std::string out = text(report);
  EXPECT_EQ(out.find("hint: run with sudo"), out.rfind("hint: run with sudo"));
  EXPECT_THAT(out, HasSubstr("  two: Operation not permitted\n    hint: run with sudo\n"));
}

TEST(Doctor, needs_a_server)
{
  auto report = good();
  report.servers.clear();
  EXPECT_EQ(obstacle(report), "no PostgreSQL server is running");
  report.refused = {{"read server 4711: PostgreSQL 12 is not supported", 0, {}}};
  EXPECT_EQ(obstacle(report), "read server 4711: PostgreSQL 12 is not supported");
  report.search_failed = Error{"find process 99", ESRCH, {}};
  EXPECT_EQ(obstacle(report), "find process 99: No such process");
}

TEST(Doctor, works_beside_a_server_that_is_refused)
{
  auto report = good();
  report.refused = {{"read server 4712: PostgreSQL 12 is not supported", 0, {}}};
  EXPECT_FALSE(obstacle(report));
  EXPECT_THAT(text(report), HasSubstr("\nrefused\n  read server 4712"));
}

TEST(Doctor, aligns_the_plan_and_marks_what_is_dear)
{
  EXPECT_THAT(
      text(good()),
      HasSubstr("  probe   from level  site               instruction  kernel              callers "
                " per hit\n"
                "  settle  request     ReadyForQuery+0x4  push rbp     emulates            1       "
                " 0.90 us\n"
                "  exit    request     proc_exit+0x0      endbr64      single-steps, dear  60      "
                " 34.00 us\n"
                "  not placed: start at standard_ExecutorStart: nothing in the binary calls it\n"));
}

// Where kernel and build let us, ReadyForQuery itself is not probed.
TEST(Doctor, says_that_settle_needs_no_trap)
{
  auto report = good();
  report.calibration->send_seconds = 0.04e-6;
  const auto settle = [&] { return object(report)["binaries"][0]["probes"][0]; };
  EXPECT_EQ(settle()["tracepoint"], nullptr);
  EXPECT_DOUBLE_EQ(settle()["seconds_per_hit"], 0.9e-6);
  report.binaries[0].tells_answers = true;
  EXPECT_EQ(settle()["tracepoint"], "sock_send_length");
  EXPECT_DOUBLE_EQ(settle()["seconds_per_hit"], 0.08e-6);
  EXPECT_THAT(text(report), HasSubstr("  settle  request     the answer's send  -            "
                                      "tracepoint, no trap  -        0.08 us\n"));
  report.calibration->send_seconds = 0; // an older kernel
  EXPECT_EQ(settle()["tracepoint"], nullptr);
}

TEST(Doctor, says_whether_peaks_are_sampled)
{
  auto report = good();
  report.calibration->send_seconds = 0.04e-6;
  EXPECT_THAT(text(report), HasSubstr("  peaks: at the end of every statement"));
  EXPECT_EQ(object(report)["binaries"][0]["samples"], false);
  report.binaries[0].tells_statements = true;
  EXPECT_THAT(text(report), HasSubstr("  peaks: sampled"));
  EXPECT_EQ(object(report)["binaries"][0]["samples"], true);
  report.calibration->send_seconds = 0; // an older kernel
  EXPECT_EQ(object(report)["binaries"][0]["samples"], false);
}

TEST(Doctor, says_how_sweeps_read)
{
  auto report = good();
  EXPECT_THAT(text(report), HasSubstr("direct reads (sweep)       yes"));
  EXPECT_EQ(object(report)["kernel"]["direct_reads"], true);
  report.no_direct_reads = Error{"read page tables", ENOTSUP, {}};
  EXPECT_THAT(text(report), HasSubstr("no, by process_vm_readv: read page tables"));
  EXPECT_EQ(object(report)["kernel"]["direct_reads"], false);
}

TEST(Doctor, prints_the_plan_of_one_build_once)
{
  auto report = good();
  report.binaries.push_back(report.binaries[0]);
  report.binaries[1].path = "/container/postgres";
  const std::string out = text(report);
  EXPECT_THAT(out, HasSubstr("plan for /container/postgres 15.20, build-id 0123456789ab\n"
                             "  as for /usr/lib/postgresql/15/bin/postgres: the same build\n"));
  EXPECT_EQ(out.find("ReadyForQuery+"), out.rfind("ReadyForQuery+"));
}

TEST(Doctor, says_that_a_server_runs_a_file_that_was_replaced)
{
  auto report = good();
  EXPECT_THAT(text(report), Not(HasSubstr("was replaced")));
  EXPECT_EQ(object(report)["servers"][0]["binary_replaced"], false);
  report.servers[0].binary_replaced = true;
  EXPECT_THAT(text(report), HasSubstr("/bin/postgres was replaced since process 4711 began"));
  EXPECT_EQ(object(report)["servers"][0]["binary_replaced"], true);
  EXPECT_FALSE(obstacle(report)) << "it is watched all the same";
}

TEST(Doctor, says_whose_code_keeps_no_frame_pointers)
{
  auto report = good();
  EXPECT_THAT(text(report), HasSubstr("frame pointers: no (0 of 512 functions"));
  EXPECT_EQ(object(report)["binaries"][0]["frame_pointers"], false);
  report.binaries[0].frame_pointers = {.functions = 469, .keeping = 423};
  report.servers[0].without_frame_pointers = {"libc.so.6", "libxml2.so.2"};
  EXPECT_THAT(text(report), HasSubstr("frame pointers: yes (423 of 469 functions"));
  EXPECT_THAT(text(report), HasSubstr("main: 2 of its libraries keep no frame pointers"));
  EXPECT_EQ(object(report)["binaries"][0]["frame_pointers"], true);
  EXPECT_EQ(object(report)["servers"][0]["without_frame_pointers"][1], "libxml2.so.2");
  report.binaries[0].frame_pointers = {};
  EXPECT_TRUE(object(report)["binaries"][0]["frame_pointers"].is_null());
}

TEST(Doctor, does_not_invent_a_cost)
{
  auto report = good();
  report.calibration.reset();
  report.calibration_failed = Error{"probe our own function", EPERM, {}};
  EXPECT_THAT(text(report), HasSubstr("not measured"));
  EXPECT_EQ(obstacle(report), "probe our own function: Operation not permitted");
  EXPECT_TRUE(object(report)["calibration"].is_null());
  EXPECT_TRUE(object(report)["binaries"][0]["probes"][0]["seconds_per_hit"].is_null());
}

TEST(Doctor, prints_one_object)
{
  const json out = object(good());
  EXPECT_EQ(out["type"], "doctor");
  EXPECT_EQ(out["works"], true);
  EXPECT_TRUE(out["reason"].is_null());
  EXPECT_EQ(out["servers"][0]["processes"], 9);
  EXPECT_EQ(out["capabilities"]["CAP_BPF"], true);
  EXPECT_EQ(out["kernel"]["uprobe_multi"], true);
  EXPECT_TRUE(out["kernel"]["yama_ptrace_scope"].is_null());
  const json &probes = out["binaries"][0]["probes"];
  ASSERT_EQ(probes.size(), 3U);
  EXPECT_EQ(probes[0]["displacement"], 4);
  EXPECT_DOUBLE_EQ(probes[0]["seconds_per_hit"], 0.9e-6);
  EXPECT_EQ(probes[2]["placed"], false);
  EXPECT_EQ(probes[2]["reason"], "nothing in the binary calls it");
}

TEST(Doctor, survives_names_that_are_not_utf8)
{
  auto report = good();
  report.servers[0].instance = "bad\xff\xfe";
  EXPECT_THAT(object(report)["servers"][0]["instance"].get<std::string>(), Not(""));
}

} // namespace
} // namespace pgmemtrace::test
