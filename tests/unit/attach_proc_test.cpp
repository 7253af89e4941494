// SPDX-License-Identifier: BSD-2-Clause
// attach_proc_test.cpp - Proc on a tree of files that holds what kernels write, and worse.
#include "attach/proc.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <elf.h>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pgmemtrace::test {

namespace {

namespace fs = std::filesystem;

class ProcTest : public testing::Test {
protected:
  ProcTest()
  {
    std::string name = (fs::temp_directory_path() / "pgmt_proc_XXXXXX").string();
    root_ = mkdtemp(name.data());
    proc_ = Proc(root_);
  }
  ~ProcTest() override { fs::remove_all(root_); }

  void write(const std::string &path, const std::string &bytes)
  {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path, std::ios::binary) << bytes;
  }
  void link(const std::string &path, const std::string &target)
  {
    fs::create_directories((root_ / path).parent_path());
    fs::create_symlink(target, root_ / path);
  }

  fs::path root_;
  Proc proc_;
};

const std::string kFieldsFromState =
    " S 4 70 70 0 -1 4194560 800 900 0 0 31 12 50 7 20 0 1 0 123456 230000000 3000\n";

} // namespace

TEST_F(ProcTest, stat_survives_any_command_name)
{
  write("70/stat", "70 (postgres: ) R 1 x) 2 (" + std::string(1, '\0') + ")" + kFieldsFromState);
  const auto stat = proc_.stat(70);
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->state, 'S');
  EXPECT_EQ(stat->ppid, 4);
  EXPECT_EQ(stat->start, 123456u);
  EXPECT_EQ(stat->cpu_ticks, 43u);
  EXPECT_EQ(stat->children_ticks, 57u);
}

TEST_F(ProcTest, what_is_missing_or_cut_is_no_answer)
{
  EXPECT_FALSE(proc_.stat(70));
  EXPECT_FALSE(proc_.memory(70));
  EXPECT_FALSE(proc_.maps(70));
  EXPECT_FALSE(proc_.namespace_pid(70));
  EXPECT_FALSE(proc_.exe(70));
  EXPECT_FALSE(proc_.children(70));
  EXPECT_FALSE(proc_.entry_address(70));
  EXPECT_EQ(proc_.executable(70).error().err, ENOENT);
  for (const char *cut : {"", "70", "70 (postgres", "70 (postgres)", "70 (postgres) S 4 70"}) {
    write("70/stat", cut);
    EXPECT_FALSE(proc_.stat(70)) << cut;
  }
}

TEST_F(ProcTest, lists_processes_only)
{
  for (const char *name : {"1/stat", "70/stat", "self/stat", "7x/stat", "-3/stat", "sys/x"})
    write(name, "");
  auto pids = proc_.pids();
  std::sort(pids.begin(), pids.end());
  EXPECT_EQ(pids, (std::vector<pid_t>{1, 70}));
}

TEST_F(ProcTest, memory_is_in_bytes)
{
  write("70/status", "Name:\tpostgres\nNSpid:\t70\nVmRSS:\t   9999 kB\nRssAnon:\t     800 kB\n"
                     "VmSwap:\t      12 kB\n");
  ASSERT_TRUE(proc_.memory(70));
  EXPECT_EQ(proc_.memory(70)->anon_bytes, 800u * 1024);
  EXPECT_EQ(proc_.memory(70)->swap_bytes, 12u * 1024);
  write("70/status", "Name:\tpostgres\nState:\tZ (zombie)\n");
  EXPECT_FALSE(proc_.memory(70));
}

TEST_F(ProcTest, namespace_pid_is_the_innermost)
{
  write("70/status", "Name:\tpostgres\nNSpid:\t70\t12\t3\n");
  EXPECT_EQ(proc_.namespace_pid(70), 3);
  write("71/status", "Name:\tpostgres\nNSpid:\t71\n");
  EXPECT_EQ(proc_.namespace_pid(71), 71);
}

TEST_F(ProcTest, maps_keep_paths_with_spaces)
{
  write("70/maps",
        "55d0c0000000-55d0c00cd000 r--p 00000000 fe:01 1316                       /opt/my pg/bin/"
        "postgres (deleted)\n"
        "55d0c00cd000-55d0c0600000 r-xp 000cd000 fe:01 1316                       /opt/my pg/bin/"
        "postgres (deleted)\n"
        "garbage\n"
        "7ffc0000-7ffd0000 rw-p 00000000 00:00 0\n");
  const auto maps = proc_.maps(70);
  ASSERT_TRUE(maps);
  ASSERT_EQ(maps->size(), 3u);
  EXPECT_EQ((*maps)[0].path, "/opt/my pg/bin/postgres");
  EXPECT_EQ((*maps)[0].start, 0x55d0c0000000u);
  EXPECT_EQ((*maps)[0].inode, 1316u);
  EXPECT_FALSE((*maps)[0].executable);
  EXPECT_TRUE((*maps)[1].executable);
  EXPECT_EQ((*maps)[1].offset, 0xcd000u);
  EXPECT_EQ((*maps)[2].path, "");
}

TEST_F(ProcTest, executables_are_told_apart_by_file_not_by_path)
{
  write("bin/postgres", "old");
  link("70/exe", (root_ / "bin/postgres").string());
  const auto before = proc_.executable(70);
  ASSERT_TRUE(before);
  EXPECT_EQ(proc_.exe(70), (root_ / "bin/postgres").string());
  fs::rename(root_ / "bin/postgres", root_ / "bin/postgres.old"); // an upgrade
  write("bin/postgres", "new one");
  const auto after = proc_.executable(70);
  ASSERT_TRUE(after);
  EXPECT_NE(*before, *after);
}

TEST_F(ProcTest, reads_children_command_line_and_settings)
{
  write("70/task/70/children", "71 72 x 73 ");
  write("70/cmdline", std::string("postgres\0-D\0/data\0", 18));
  write("sys/kernel/yama/ptrace_scope", "1\n");
  EXPECT_EQ(proc_.children(70), (std::vector<pid_t>{71, 72, 73}));
  EXPECT_EQ(proc_.cmdline(70), "postgres -D /data");
  EXPECT_EQ(proc_.setting("kernel/yama/ptrace_scope"), "1");
}

TEST_F(ProcTest, reads_the_entry_address)
{
  const std::array<Elf64_auxv_t, 3> vector{
      {{AT_PHDR, {0x40}}, {AT_ENTRY, {0x5500}}, {AT_NULL, {}}}};
  write("70/auxv", {reinterpret_cast<const char *>(vector.data()), sizeof vector});
  EXPECT_EQ(proc_.entry_address(70), 0x5500u);
  write("70/auxv", {reinterpret_cast<const char *>(vector.data()), sizeof(Elf64_auxv_t) + 5});
  EXPECT_FALSE(proc_.entry_address(70));
}

TEST_F(ProcTest, files_of_a_data_directory_are_not_trusted)
{
  write("data/PG_VERSION", "15\n");
  link("70/cwd", (root_ / "data").string());
  EXPECT_EQ(proc_.text(70, "cwd/PG_VERSION"), "15\n");
  EXPECT_EQ(proc_.cwd(70), (root_ / "data").string());
  fs::remove(root_ / "data/PG_VERSION");
  link("data/PG_VERSION", "/etc/passwd");
  EXPECT_FALSE(proc_.text(70, "cwd/PG_VERSION")) << "a link would lead out of its container";
  ASSERT_EQ(mkfifo((root_ / "data/postmaster.pid").c_str(), 0600), 0);
  EXPECT_EQ(proc_.text(70, "cwd/postmaster.pid").value_or(""), "") << "and does not wait";
  write("data/endless", std::string(1 << 20, 'x'));
  EXPECT_LE(proc_.text(70, "cwd/endless")->size(), 65536u);
}

TEST_F(ProcTest, files_below_a_root_are_found_below_it_whatever_their_links_say)
{
  write("outside/hostname", "ours\n");
  write("container/etc/hostname", "theirs\n");
  link("70/root", (root_ / "container").string());
  EXPECT_EQ(proc_.text_in_root(70, "etc/hostname"), "theirs\n");
  fs::remove_all(root_ / "container/etc");
  link("container/etc", (root_ / "outside").string());
  EXPECT_FALSE(proc_.text_in_root(70, "etc/hostname")) << "absolute: out of its container";
  fs::remove(root_ / "container/etc");
  link("container/etc", "../outside");
  EXPECT_FALSE(proc_.text_in_root(70, "etc/hostname")) << "relative: out of its container";
  write("container/real/hostname", "linked\n");
  fs::remove(root_ / "container/etc");
  link("container/etc", "/real");
  EXPECT_EQ(proc_.text_in_root(70, "etc/hostname"), "linked\n");
  fs::remove(root_ / "container/real/hostname");
  ASSERT_EQ(mkfifo((root_ / "container/real/hostname").c_str(), 0600), 0);
  EXPECT_EQ(proc_.text_in_root(70, "etc/hostname").value_or(""), "") << "and does not wait";
  EXPECT_FALSE(proc_.text_in_root(71, "etc/hostname"));
}

TEST(Proc, knows_this_process)
{
  const Proc proc;
  const auto stat = proc.stat(getpid());
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->ppid, getppid());
  EXPECT_GT(stat->start, 0u);
  EXPECT_TRUE(proc.memory(getpid()));
  EXPECT_FALSE(proc.maps(getpid())->empty());
}

} // namespace pgmemtrace::test
