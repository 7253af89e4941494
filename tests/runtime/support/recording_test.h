// SPDX-License-Identifier: BSD-2-Clause
// recording_test.h - for tests that record a live server and report on it.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <sys/mount.h>

#include "runtime_test.h"

namespace pgmemtrace::test {

// A folder for one recording and what belongs to it.
class Recordings {
public:
  Recordings()
  {
    std::string folder = "/tmp/pgmt-record.XXXXXX";
    folder_ = mkdtemp(folder.data());
  }
  ~Recordings()
  {
    (void)umount2(folder_.c_str(), MNT_DETACH); // where a test mounted something
    std::filesystem::remove_all(folder_);
  }
  Recordings(const Recordings &) = delete;
  Recordings &operator=(const Recordings &) = delete;

  std::string file() const { return folder_ / "recording"; }

  // Records `pid`, until told to stop or for a time.
  std::unique_ptr<Daemon> record(pid_t pid, std::vector<std::string> more = {}) const
  {
    std::vector<std::string> args{"record", "--pid", std::to_string(pid), "-o", file()};
    args.insert(args.end(), more.begin(), more.end());
    auto daemon = Daemon::start(args);
    EXPECT_TRUE(daemon) << to_string(daemon.error());
    if (!daemon)
      return nullptr;
    EXPECT_TRUE((*daemon)->wait_for_line(
        [](const std::string &line) { return line.starts_with("recording"); },
        std::chrono::seconds(30), Daemon::Stream::err));
    return std::move(*daemon);
  }

  CommandResult report(std::vector<std::string> more = {}) const
  {
    std::vector<std::string> args{pgmemtrace_binary(), "report", file()};
    args.insert(args.end(), more.begin(), more.end());
    return run_command(args);
  }

  nlohmann::json report_as_json(std::vector<std::string> more = {}) const
  {
    more.insert(more.end(), {"--format", "json"});
    const auto result = report(std::move(more));
    EXPECT_EQ(result.status, 0) << result.err;
    return nlohmann::json::parse(result.out, nullptr, false);
  }

  std::ptrdiff_t files() const
  {
    return std::distance(std::filesystem::directory_iterator(folder_), {});
  }

protected:
  std::filesystem::path folder_;
};

class RecordingTest : public RuntimeTest, protected Recordings {};

// Names of an allocation's stack in a report, innermost first.
inline std::vector<std::string> functions(const nlohmann::json &allocation)
{
  std::vector<std::string> out;
  for (const auto &frame : allocation["stack"])
    out.push_back(frame["function"]);
  return out;
}

} // namespace pgmemtrace::test
