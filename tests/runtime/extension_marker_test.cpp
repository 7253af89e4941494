// SPDX-License-Identifier: BSD-2-Clause
// extension_marker_test.cpp - the extension's marker under a real uprobe: the kernel counts the
// probe in every process of the server, and only then the marker is called.
//
// The probe is a perf event: it ends with its descriptor, and counts its hits.  What the SQL tests
// cannot show (sql/test plays the kernel's part).
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "attach/elf_file.h"
#include "support/process.h"
#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

// sql/ as a library in a folder of its own.
class BuiltExtension {
public:
  explicit BuiltExtension(const Major &major)
  {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    std::filesystem::permissions(folder_, std::filesystem::perms(0755));
    std::vector<std::string> command{"gcc", "-O2", "-shared", "-fPIC",
                                     "-I" + major.server_headers().string()};
    for (const auto &entry : std::filesystem::directory_iterator(PGMT_SOURCE_DIR "/sql"))
      if (entry.path().extension() == ".c")
        command.push_back(entry.path());
    command.insert(command.end(), {"-o", library()});
    const auto built = run_command(command);
    EXPECT_EQ(built.status, 0) << built.err;
  }
  ~BuiltExtension() { std::filesystem::remove_all(folder_); }
  BuiltExtension(const BuiltExtension &) = delete;
  BuiltExtension &operator=(const BuiltExtension &) = delete;

  const std::string &folder() const { return folder_; }
  std::string library() const { return folder_ + "/pgmemtrace.so"; }

private:
  std::string folder_ = "/tmp/pgmt-marker.XXXXXX";
};

// As the daemon has to find them: by name, as offsets in the file.
struct Marker {
  std::uint64_t function = 0;
  std::uint64_t watchers = 0;
};

Marker find_marker(const std::string &library)
{
  const auto elf = ElfFile::open(library);
  if (!elf)
    return {};
  const auto function = elf->function("pgmemtrace_request");
  const auto watchers = elf->object("pgmemtrace_watchers");
  if (!function || !watchers)
    return {};
  return {elf->file_offset(function->address).value_or(0),
          elf->file_offset(watchers->address).value_or(0)};
}

// On every processor, for all processes.
class CountingProbe {
public:
  CountingProbe(const std::string &library, const Marker &marker)
  {
    std::ifstream type("/sys/bus/event_source/devices/uprobe/type");
    perf_event_attr attr{};
    attr.size = sizeof(attr);
    type >> attr.type;
    attr.config = marker.watchers << 32; // format/ref_ctr_offset: config:32-63
    attr.uprobe_path = reinterpret_cast<std::uint64_t>(library.c_str());
    attr.probe_offset = marker.function;
    for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); ++cpu) {
      const auto fd =
          static_cast<int>(syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC));
      EXPECT_GE(fd, 0) << std::strerror(errno);
      fds_.push_back(fd);
    }
  }
  ~CountingProbe()
  {
    for (const int fd : fds_)
      close(fd);
  }
  CountingProbe(const CountingProbe &) = delete;
  CountingProbe &operator=(const CountingProbe &) = delete;

  std::uint64_t hits() const
  {
    return std::accumulate(fds_.begin(), fds_.end(), std::uint64_t{0},
                           [](std::uint64_t sum, int fd) {
                             std::uint64_t count = 0;
                             EXPECT_EQ(read(fd, &count, sizeof(count)), sizeof(count));
                             return sum + count;
                           });
  }

private:
  std::vector<int> fds_;
};

class ExtensionMarkerTest : public RuntimeTest {
protected:
  static constexpr auto kWatched = "SELECT watched()";
  static constexpr auto kAsk = "SELECT request_contexts(1)";
};

TEST_F(ExtensionMarkerTest, is_called_where_a_probe_counts_itself_and_nowhere_else)
{
  const auto major = major_under_test();
  ASSERT_TRUE(major);
  const BuiltExtension extension(*major);
  const auto server = PostgresCluster::start(
      {.conf = {"dynamic_library_path = '" + extension.folder() + ":$libdir'",
                "shared_preload_libraries = 'pgmemtrace'", "pgmemtrace.ack_timeout = 50"}});
  ASSERT_TRUE(server) << server.error().what << server.error().hint;
  const Marker marker = find_marker(extension.library());
  ASSERT_NE(marker.function, 0U);
  ASSERT_NE(marker.watchers, 0U);

  auto session = (*server)->connect();
  session.exec("CREATE FUNCTION watched() RETURNS boolean AS 'pgmemtrace', 'pgmt_watched' "
               "LANGUAGE C; "
               "CREATE FUNCTION request_contexts(int) RETURNS jsonb AS 'pgmemtrace', "
               "'pgmt_request_contexts' LANGUAGE C");
  EXPECT_EQ(session.value(kWatched), "f");
  const auto unwatched = session.try_exec(kAsk);
  ASSERT_FALSE(unwatched);
  EXPECT_NE(unwatched.error().hint.find("no pgmemtrace daemon watches"), std::string::npos);

  {
    const CountingProbe probe(extension.library(), marker);
    EXPECT_EQ(session.value(kWatched), "t") << "a session that was there before";
    EXPECT_EQ((*server)->connect().value(kWatched), "t") << "one that came later";
    EXPECT_EQ(probe.hits(), 0U);
    const auto unanswered = session.try_exec(kAsk);
    ASSERT_FALSE(unanswered);
    EXPECT_NE(unanswered.error().hint.find("did not answer"), std::string::npos)
        << unanswered.error().hint;
    EXPECT_EQ(probe.hits(), 1U);
  }
  EXPECT_TRUE(eventually([&] { return session.value(kWatched) == "f"; }));
}

} // namespace
} // namespace pgmemtrace::test
