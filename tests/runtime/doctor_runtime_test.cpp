// SPDX-License-Identifier: BSD-2-Clause
// doctor_runtime_test.cpp - what the doctor says about a server that runs, and without rights.
#include <map>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::EndsWith;
using testing::HasSubstr;

class DoctorRuntimeTest : public RuntimeTest {
protected:
  static CommandResult doctor(std::vector<std::string> args, std::vector<std::string> before = {})
  {
    before.insert(before.end(), {PGMT_BINARY, "doctor"});
    before.insert(before.end(), args.begin(), args.end());
    return run_command(before);
  }
  static std::string postmaster() { return std::to_string(cluster().postmaster_pid()); }
};

TEST_F(DoctorRuntimeTest, says_yes_for_a_server_that_runs)
{
  const auto result = doctor({"--pid", postmaster()});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, EndsWith("\npgmemtrace --pid " + postmaster() + " would work: yes\n"));
  EXPECT_EQ(result.err, "");
}

TEST_F(DoctorRuntimeTest, places_all_probes_on_instructions_that_the_kernel_emulates)
{
  const auto result = doctor({"--pid", postmaster(), "--format", "json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const json report = json::parse(result.out);
  ASSERT_EQ(report["servers"].size(), 1U);
  EXPECT_EQ(report["servers"][0]["pid"], cluster().postmaster_pid());
  EXPECT_EQ(report["servers"][0]["major"], 15);
  EXPECT_GT(report["servers"][0]["processes"], 3); // postmaster, checkpointer, writers
  ASSERT_EQ(report["binaries"].size(), 1U);
  std::map<std::string, json> probes;
  for (const json &probe : report["binaries"][0]["probes"])
    probes[probe["probe"]] = probe;
  for (const char *name : {"start", "end", "utility", "settle", "xact", "exit"}) {
    const json &probe = probes[name];
    ASSERT_TRUE(probe.is_object()) << name;
    EXPECT_EQ(probe["placed"], true) << probe;
    EXPECT_EQ(probe["emulated"], true) << probe;
    EXPECT_GT(probe["callers"], 0) << probe;
    EXPECT_GT(probe["seconds_per_hit"], 0.0) << probe;
  }
  EXPECT_EQ(probes["settle"]["tracepoint"], "sock_send_length");
  EXPECT_EQ(report["binaries"][0]["frame_pointers"], true); // as Debian and Ubuntu build it
  EXPECT_GT(report["calibration"]["emulated_seconds"], 0.0);
  EXPECT_GT(report["calibration"]["stepped_seconds"], 0.0);
}

TEST_F(DoctorRuntimeTest, names_every_capability_that_is_missing)
{
  const auto result = doctor({}, {"/usr/bin/setpriv", "--inh-caps=-all", "--bounding-set=-all"});
  EXPECT_EQ(result.status, 3) << result.err;
  for (const char *name : {"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"})
    EXPECT_THAT(result.out, HasSubstr(std::string("(") + name + "): Operation not permitted"));
  EXPECT_THAT(result.out, HasSubstr("hint: run with sudo, or grant it"));
  EXPECT_THAT(result.out, HasSubstr("would work: no ("));
}

// What the kernel asks for is less than root.
TEST_F(DoctorRuntimeTest, needs_no_more_than_the_four_capabilities)
{
  const std::string four = "-all,+bpf,+perfmon,+sys_ptrace,+dac_read_search";
  const auto result = doctor({"--pid", postmaster()},
                             {"/usr/bin/setpriv", "--inh-caps=" + four, "--bounding-set=" + four});
  EXPECT_EQ(result.status, 0) << result.out << result.err;
}

TEST_F(DoctorRuntimeTest, says_no_for_a_process_that_is_not_there)
{
  const auto result = doctor({"--pid", "4194305"}); // beyond the largest pid there can be
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.out, HasSubstr("would work: no ("));
  EXPECT_THAT(result.out, HasSubstr("No such process"));
}

TEST_F(DoctorRuntimeTest, refuses_what_is_no_list_of_processes)
{
  const auto result = doctor({"--pid", "everything"});
  EXPECT_EQ(result.status, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("hint: "));
}

} // namespace
} // namespace pgmemtrace::test
