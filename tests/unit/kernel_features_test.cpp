// SPDX-License-Identifier: BSD-2-Clause
// kernel_features_test - what is missing, in words that say what to do.
#include "attach/kernel_features.h"

#include <cerrno>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pgmemtrace::test {
namespace {

using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

KernelFeatures good()
{
  KernelFeatures out;
  out.release = "6.18.44";
  out.btf = out.uprobes = out.uprobe_multi = out.bpf_loop = out.task_storage = true;
  out.capabilities = {true, true, true, true, true};
  return out;
}

auto what(const char *part) { return Field(&Error::what, HasSubstr(part)); }

TEST(KernelFeatures, miss_nothing_on_a_good_machine) { EXPECT_THAT(missing(good()), IsEmpty()); }

TEST(KernelFeatures, need_no_sys_admin_when_uprobe_multi_is_there)
{
  auto features = good();
  features.capabilities.sys_admin = false;
  EXPECT_THAT(missing(features), IsEmpty());
}

TEST(KernelFeatures, take_sys_admin_for_bpf_and_perfmon_only)
{
  auto features = good();
  features.capabilities = {.sys_admin = true};
  EXPECT_THAT(missing(features), ElementsAre(what("CAP_SYS_PTRACE"), what("CAP_DAC_READ_SEARCH")));
}

TEST(KernelFeatures, name_each_missing_capability_and_how_to_grant_it)
{
  auto features = good();
  features.capabilities = {};
  features.load_error = EPERM;
  const auto errors = missing(features);
  ASSERT_THAT(errors, ElementsAre(what("CAP_BPF"), what("CAP_PERFMON"), what("CAP_SYS_PTRACE"),
                                  what("CAP_DAC_READ_SEARCH")));
  for (const Error &error : errors) {
    EXPECT_EQ(error.err, EPERM);
    EXPECT_THAT(error.hint, HasSubstr("sudo"));
    EXPECT_THAT(error.hint, HasSubstr("AmbientCapabilities="));
    EXPECT_THAT(error.hint, HasSubstr("setcap"));
  }
}

TEST(KernelFeatures, tell_a_container_from_a_missing_capability)
{
  auto features = good();
  features.load_error = EPERM;
  features.uprobe_multi = features.bpf_loop = features.task_storage = false;
  const auto errors = missing(features);
  ASSERT_THAT(errors, ElementsAre(what("though the capabilities are there")));
  EXPECT_THAT(errors.front().hint, HasSubstr("container"));
}

TEST(KernelFeatures, say_when_the_kernel_has_no_bpf)
{
  auto features = good();
  features.load_error = ENOSYS;
  features.uprobe_multi = features.bpf_loop = features.task_storage = false;
  const auto errors = missing(features);
  ASSERT_THAT(errors, ElementsAre(what("load BPF programs")));
  EXPECT_THAT(errors.front().hint, HasSubstr("CONFIG_BPF_SYSCALL"));
}

TEST(KernelFeatures, fall_back_to_perf_events_only_with_sys_admin)
{
  auto features = good();
  features.uprobe_multi = false;
  EXPECT_THAT(missing(features), IsEmpty());
  features.capabilities.sys_admin = false;
  EXPECT_THAT(missing(features), ElementsAre(what("uprobe_multi")));
}

TEST(KernelFeatures, need_types_helpers_and_uprobes)
{
  auto features = good();
  features.btf = features.uprobes = features.bpf_loop = features.task_storage = false;
  EXPECT_THAT(missing(features),
              ElementsAre(what("bpf_loop"), what("task storage"), what("btf"), what("uprobes")));
}

TEST(KernelFeatures, refuse_yama_scope_3_only)
{
  auto features = good();
  for (int scope : {-1, 0, 1, 2}) {
    features.yama_ptrace_scope = scope;
    EXPECT_THAT(missing(features), IsEmpty()) << scope;
  }
  features.yama_ptrace_scope = 3;
  const auto errors = missing(features);
  ASSERT_THAT(errors, ElementsAre(what("ptrace_scope")));
  EXPECT_THAT(errors.front().hint, HasSubstr("reboot"));
}

class Roots : public ::testing::Test {
protected:
  Roots() { std::filesystem::create_directories(root_); }
  ~Roots() override { std::filesystem::remove_all(root_); }
  void write(const std::string &path, const char *text)
  {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::filesystem::path root_ =
      std::filesystem::path(::testing::TempDir()) / ("kernel_features_" + std::to_string(getpid()));
};

TEST_F(Roots, are_where_the_kernel_is_asked)
{
  write("proc/sys/kernel/osrelease", "6.6.99-test\n");
  write("proc/sys/kernel/unprivileged_bpf_disabled", "2\n");
  write("proc/sys/kernel/yama/ptrace_scope", "1\n");
  write("sys/kernel/btf/vmlinux", "");
  const auto features = detect_kernel_features(root_ / "proc", root_ / "sys");
  EXPECT_EQ(features.release, "6.6.99-test");
  EXPECT_EQ(features.unprivileged_bpf_disabled, 2);
  EXPECT_EQ(features.yama_ptrace_scope, 1);
  EXPECT_TRUE(features.btf);
  EXPECT_FALSE(features.uprobes);
}

TEST_F(Roots, may_be_empty)
{
  const auto features = detect_kernel_features(root_ / "proc", root_ / "sys");
  EXPECT_EQ(features.release, "");
  EXPECT_EQ(features.yama_ptrace_scope, -1);
  EXPECT_FALSE(features.btf);
}

} // namespace
} // namespace pgmemtrace::test
