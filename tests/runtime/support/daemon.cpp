// SPDX-License-Identifier: BSD-2-Clause
// daemon.cpp - see daemon.h.
#include "daemon.h"

#include <cerrno>
#include <csignal>
#include <regex>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace pgmemtrace::test {
namespace {

using namespace std::chrono_literals;

int create_file(const std::filesystem::path &path)
{
  return open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

} // namespace

std::string pgmemtrace_binary()
{
  // So that installed or other builds can be put to the same tests.
  const char *other = std::getenv("PGMEMTRACE_BINARY");
  return other ? other : PGMT_BINARY;
}

Result<std::unique_ptr<Daemon>> Daemon::start(const std::vector<std::string> &args)
{
  std::string dir = "/tmp/pgmt-daemon.XXXXXX";
  if (!mkdtemp(dir.data()))
    return Error{"make a folder like " + dir, errno, {}};
  std::unique_ptr<Daemon> daemon(new Daemon(dir));

  std::vector<std::string> argv{pgmemtrace_binary()};
  argv.insert(argv.end(), args.begin(), args.end());
  SpawnOptions spawn;
  spawn.out = create_file(daemon->dir_ / "out");
  spawn.err = create_file(daemon->dir_ / "err");
  auto process = ChildProcess::spawn(argv, spawn);
  close(spawn.out);
  close(spawn.err);
  if (!process)
    return process.error();
  daemon->process_.emplace(std::move(*process));
  return daemon;
}

Daemon::~Daemon()
{
  if (testing::Test::HasFailure())
    std::cerr << "--- pgmemtrace's stderr\n" << err() << "---\n";
  process_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

std::vector<std::string> Daemon::lines(Stream stream) const
{
  auto text = stream == Stream::out ? out() : err();
  std::vector<std::string> result;
  size_t start = 0;
  for (size_t end; (end = text.find('\n', start)) != std::string::npos; start = end + 1)
    result.push_back(text.substr(start, end - start));
  return result;
}

std::vector<nlohmann::json> Daemon::json_lines() const
{
  std::vector<nlohmann::json> result;
  for (const auto &line : lines()) {
    auto object = nlohmann::json::parse(line, nullptr, false);
    if (object.is_discarded())
      ADD_FAILURE() << "not JSON on stdout: " << line;
    else
      result.push_back(std::move(object));
  }
  return result;
}

std::optional<std::string> Daemon::wait_for_line(const Predicate &wanted,
                                                 std::chrono::seconds limit, Stream stream)
{
  auto deadline = std::chrono::steady_clock::now() + limit;
  size_t seen = 0;
  for (;;) {
    // Asked before reading: what it printed last is then read as well.
    bool last_look = !running() || std::chrono::steady_clock::now() > deadline;
    auto all = lines(stream);
    for (; seen < all.size(); ++seen)
      if (wanted(all[seen]))
        return all[seen];
    if (last_look)
      return std::nullopt;
    std::this_thread::sleep_for(20ms);
  }
}

std::optional<nlohmann::json>
Daemon::wait_for_json(const std::function<bool(const nlohmann::json &)> &wanted,
                      std::chrono::seconds limit)
{
  std::optional<nlohmann::json> found;
  wait_for_line(
      [&](const std::string &line) {
        auto object = nlohmann::json::parse(line, nullptr, false);
        if (object.is_discarded() || !wanted(object))
          return false;
        found = std::move(object);
        return true;
      },
      limit);
  return found;
}

int Daemon::listen_port(std::chrono::seconds limit)
{
  static const std::regex address(R"(metrics on http://[^/]*:(\d{1,5})/metrics)");
  std::smatch match;
  auto line = wait_for_line(
      [](const std::string &text) { return std::regex_search(text, address); }, limit, Stream::err);
  if (!line || !std::regex_search(*line, match, address))
    return 0;
  return std::stoi(match[1]);
}

std::optional<int> Daemon::wait(std::chrono::seconds limit) { return process_->wait(limit); }

std::optional<int> Daemon::stop(int signal, std::chrono::seconds limit)
{
  process_->signal(signal);
  return wait(limit);
}

void Daemon::kill9() { stop(SIGKILL); }

} // namespace pgmemtrace::test
