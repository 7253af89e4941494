// SPDX-License-Identifier: BSD-2-Clause
// daemon.h - the real pgmemtrace binary, run by a test as a user would.
//
// What it prints goes to files, so that it never waits for the test to read.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "process.h"

namespace pgmemtrace::test {

class Daemon final {
public:
  enum class Stream { out, err };
  using Predicate = std::function<bool(const std::string &line)>;

  // `args` as on the command line: {"--pid", "all", "--listen", "127.0.0.1:0"}.
  static Result<std::unique_ptr<Daemon>> start(const std::vector<std::string> &args);
  ~Daemon(); // SIGKILL if it still runs; shows its stderr when the test has failed
  Daemon(const Daemon &) = delete;
  Daemon &operator=(const Daemon &) = delete;

  pid_t pid() const { return process_->pid(); }
  bool running() { return process_->running(); }

  std::string out() const { return read_text(dir_ / "out"); }
  std::string err() const { return read_text(dir_ / "err"); }
  std::vector<std::string> lines(Stream stream = Stream::out) const; // complete ones
  // stdout as JSON lines; fails the test where a line is none.
  std::vector<nlohmann::json> json_lines() const;

  // The first line that `wanted` accepts, printed already or yet to come; nothing when
  // `limit` passes or the daemon ends without it.
  std::optional<std::string> wait_for_line(const Predicate &wanted,
                                           std::chrono::seconds limit = std::chrono::seconds(30),
                                           Stream stream = Stream::out);
  std::optional<nlohmann::json>
  wait_for_json(const std::function<bool(const nlohmann::json &object)> &wanted,
                std::chrono::seconds limit = std::chrono::seconds(30));

  // The port in "metrics on http://127.0.0.1:PORT/metrics", which the daemon prints on stderr
  // once it serves; 0 if it never does.
  int listen_port(std::chrono::seconds limit = std::chrono::seconds(30));

  // The exit status; 128 + signal if the signal ended it.  Nothing if it still runs after
  // `limit`.
  std::optional<int> wait(std::chrono::seconds limit = std::chrono::seconds(30));
  std::optional<int> stop(int signal = 2 /* SIGINT */,
                          std::chrono::seconds limit = std::chrono::seconds(30));
  void kill9(); // returns when it is gone

private:
  explicit Daemon(std::filesystem::path dir) : dir_(std::move(dir)) {}

  std::filesystem::path dir_; // out, err
  std::optional<ChildProcess> process_;
};

// The binary under test.
std::string pgmemtrace_binary();

} // namespace pgmemtrace::test
