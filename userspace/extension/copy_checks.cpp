// SPDX-License-Identifier: BSD-2-Clause
#include "extension/copy_checks.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <sstream>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

namespace pgmemtrace {

namespace {

constexpr std::size_t kLongestLine = 8;
constexpr std::size_t kLongestAnswer = 64ULL << 20; // what answer() of the extension takes
constexpr auto kTimeToTidyUp = std::chrono::seconds(30);

std::string text_of(const UniqueFd &fd)
{
  std::string text;
  std::string piece(64 << 10, '\0');
  for (ssize_t got = 0;
       text.size() < kLongestAnswer &&
       (got = pread(fd.get(), piece.data(), piece.size(), static_cast<off_t>(text.size()))) > 0;)
    text.append(piece, 0, static_cast<std::size_t>(got));
  return text;
}

UniqueFd file_of(const std::string &text)
{
  UniqueFd file(memfd_create("workload", MFD_CLOEXEC));
  for (std::size_t done = 0; file && done < text.size();) {
    const auto written = write(file.get(), text.data() + done, text.size() - done);
    if (written <= 0)
      return {};
    done += static_cast<std::size_t>(written);
  }
  (void)lseek(file.get(), 0, SEEK_SET);
  return file;
}

Answer empty_answer(const Request &request)
{
  return {.backend_pid = request.backend_pid, .request_id = request.id, .json = {}, .error = {}};
}

} // namespace

Answer answer_of_check(const Request &request, const std::string &out, const std::string &err)
{
  Answer answer = empty_answer(request);
  const auto parsed = nlohmann::ordered_json::parse(out, nullptr, false);
  if (parsed.is_object() && parsed.contains("checks") && parsed["checks"].is_array() &&
      !parsed["checks"].empty()) {
    answer.json = parsed["checks"].front().dump();
    return answer;
  }
  std::istringstream lines(err);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("error: "))
      answer.error = line.substr(line.find(' ') + 1);
    else if (line.starts_with("hint: "))
      answer.error += fmt::format(" ({})", line);
  }
  if (answer.error.empty())
    answer.error = "the check ended before its time";
  return answer;
}

CopyChecks::~CopyChecks()
{
  for (auto &[postmaster, running] : running_)
    end(std::move(running));
  const auto until = Child::Time::now() + kTimeToTidyUp;
  for (Running &running : ending_)
    (void)running.child.wait(-1, until);
}

Result<CopyChecks::Running> CopyChecks::start(pid_t postmaster, const Asked &asked) const
{
  const CheckOnCopy &check = asked.request.check;
  UniqueFd workload = file_of(check.workload);
  UniqueFd out(memfd_create("out", MFD_CLOEXEC)), err(memfd_create("err", MFD_CLOEXEC));
  std::array<int, 2> ends{-1, -1};
  (void)pipe2(ends.data(), O_CLOEXEC);
  const UniqueFd to_hold(ends[0]);
  UniqueFd lifeline(ends[1]);
  if (!workload || !out || !err || !lifeline)
    return Error{"keep what is to be checked", errno, {}};
  Program program{.arguments = {"/proc/self/exe", "check", "--" + check.option,
                                fmt::format("--pid={}", postmaster),
                                // In one word each: a role may be called like an option.
                                "--database=" + check.database, "--user=" + check.user,
                                fmt::format("--iterations={}", check.iterations), "--file=-",
                                "--format=json", fmt::format("--lifeline={}", to_hold.get())},
                  // Not as an argument, which everybody sees: it may have a password.
                  .environment = {"PGMEMTRACE_DSN=" + options_.dsn},
                  .input = workload.get(),
                  .output = out.get(),
                  .errors = err.get(),
                  .inherited = {to_hold.get()},
                  .keeps_capabilities = true};
  if (const char *directory = std::getenv("TMPDIR"))
    program.environment.push_back(fmt::format("TMPDIR={}", directory));
  if (!options_.directory.empty())
    program.arguments.push_back("--copy-dir=" + options_.directory);
  auto child = Child::start(program);
  if (!child)
    return child.error();
  return Running{asked, std::move(*child), std::move(out), std::move(err), std::move(lifeline)};
}

Result<> CopyChecks::ask(pid_t postmaster, const ProcessId &asker, const Request &request)
{
  auto &line = line_[postmaster];
  if (line.size() >= kLongestLine)
    return Error{fmt::format("{} checks of this server wait already", line.size()), 0, {}};
  line.push_back({asker, request});
  return Ok{};
}

void CopyChecks::start_next(pid_t postmaster, std::vector<Ended> &ended)
{
  auto &line = line_[postmaster];
  while (!line.empty() && !running_.contains(postmaster)) {
    const Asked asked = std::move(line.front());
    line.pop_front();
    auto running = start(postmaster, asked);
    if (!running) {
      ended.push_back({postmaster, empty_answer(asked.request)});
      ended.back().answer.error = to_string(running.error());
      continue;
    }
    events_.add(running->child.ended_fd());
    running_.emplace(postmaster, std::move(*running));
  }
}

std::vector<CopyChecks::Ended> CopyChecks::take()
{
  std::vector<Ended> ended;
  std::erase_if(ending_, [](Running &running) { return !running.child.running(); });
  for (auto it = running_.begin(); it != running_.end();) {
    auto &[postmaster, running] = *it;
    if (running.child.running()) {
      ++it;
      continue;
    }
    ended.push_back({postmaster, answer_of_check(running.asked.request, text_of(running.out),
                                                 text_of(running.err))});
    it = running_.erase(it);
  }
  for (const auto &[postmaster, line] : line_)
    start_next(postmaster, ended);
  std::erase_if(line_, [](const auto &entry) { return entry.second.empty(); });
  return ended;
}

// It removes its copy, which may take a moment.
void CopyChecks::end(Running running)
{
  running.lifeline = UniqueFd();
  ending_.push_back(std::move(running));
}

void CopyChecks::forget(const ProcessId &asker)
{
  for (auto &[postmaster, line] : line_)
    std::erase_if(line, [&](const Asked &asked) { return asked.asker == asker; });
  const auto found = std::ranges::find_if(
      running_, [&](const auto &entry) { return entry.second.asked.asker == asker; });
  if (found == running_.end())
    return;
  end(std::move(found->second));
  running_.erase(found);
}

void CopyChecks::forget(pid_t postmaster)
{
  line_.erase(postmaster);
  if (auto found = running_.extract(postmaster))
    end(std::move(found.mapped()));
}

} // namespace pgmemtrace
