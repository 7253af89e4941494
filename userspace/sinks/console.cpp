// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/console.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fmt/format.h>

#include "sinks/format.h"
#include "util/redact.h"
#include "util/text.h"

namespace pgmemtrace {
namespace {

constexpr std::size_t kMaxQueryBytes = 120;
constexpr std::size_t kMaxNoteBytes = 400; // of detail and advice
constexpr std::size_t kMaxListed = 4;      // servers, loss reasons
constexpr std::size_t kMaxFrames = 6;
constexpr std::ptrdiff_t kMaxAllocatorFrames = 5;

constexpr std::string_view kRed = "\033[31m";
constexpr std::string_view kYellow = "\033[33m";
constexpr std::string_view kGreen = "\033[32m";
constexpr std::string_view kCyan = "\033[36m";
constexpr std::string_view kPlain = "";
constexpr std::string_view kReset = "\033[0m";

std::string_view color_of(const Violation &violation)
{
  if (violation.state == ViolationState::cleared)
    return kGreen;
  switch (violation.severity) {
  case Severity::error: return kRed;
  case Severity::warning: return kYellow;
  case Severity::info: break;
  }
  return kCyan;
}

std::string counted(std::size_t count, std::string_view one, std::string_view many)
{
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

std::string instance_of(const ServerStatus &server)
{
  ProcessIdentity identity;
  identity.instance = server.instance;
  identity.postmaster = server.postmaster;
  return pgmemtrace::instance_of(identity);
}

// The first few, then how many more: a status line must stay a line.
std::string joined(const std::vector<std::string> &items)
{
  const std::size_t shown = std::min(items.size(), kMaxListed);
  std::string out = fmt::format(
      "{}", fmt::join(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  if (items.size() > shown)
    out += fmt::format(" and {} more", items.size() - shown);
  return out;
}

std::string module_name(const Frame &frame)
{
  return frame.code.module.substr(frame.code.module.rfind('/') + 1); // npos + 1 is 0
}

std::string where(const Violation &violation)
{
  return violation.path.empty() ? "memory outside the contexts" : short_path(violation.path);
}

std::string headline(const Violation &violation, bool redacted)
{
  std::string out =
      fmt::format("{} {} {}: {} {}", violation.rule, instance_of(violation.process),
                  describe(violation.process), where(violation), describe_growth(violation));
  if (!violation.shape.empty())
    out += ", " + violation.shape;
  if (violation.occurrences > 1)
    out += fmt::format(", seen {} times", violation.occurrences);
  if (violation.phase && *violation.phase != Phase::idle)
    out += fmt::format(", in {}", to_string(*violation.phase));
  if (!violation.module.empty())
    out += ", from " + one_line(violation.module, kMaxQueryBytes);
  if (!violation.detail.empty())
    out += "; " + one_line(violation.detail, kMaxNoteBytes);
  if (!violation.query.empty())
    out += "; query: " +
           one_line(redacted ? redact(violation.query) : violation.query, kMaxQueryBytes);
  return out;
}

// "palloc+0x1f < exec_stmt_assign+0x40 < ...": the server's allocator at the top, and what is
// far from it, say nothing to most readers.
std::string code_of(const Violation &violation)
{
  constexpr std::string_view kAllocators[] = {
      "AllocSet",           "Generation",         "Slab", "Bump", "palloc", "repalloc",
      "MemoryContextAlloc", "MemoryContextCreate"};
  const auto is_allocator = [&](const Frame &frame) {
    return std::ranges::any_of(kAllocators,
                               [&](auto prefix) { return frame.function.starts_with(prefix); });
  };
  const auto &stack = violation.stack;
  const auto server = stack.front().code.module;
  // Static functions of a stripped server have no name: up to the last of its allocator.
  auto from = stack.begin();
  for (auto at = stack.begin(); at != stack.end() && at - stack.begin() < kMaxAllocatorFrames; ++at)
    if (is_allocator(*at) && at->code.module == server)
      from = at + 1;
  std::vector<std::string> frames;
  for (auto at = from; at != stack.end() && frames.size() < kMaxFrames; ++at)
    frames.push_back(to_string(*at) +
                     (at->code.module == server ? "" : " (" + module_name(*at) + ")"));
  return fmt::format("{}", fmt::join(frames, " < "));
}

// Of a violation that the reader has seen before.
std::string follow_up(const Violation &violation)
{
  const std::string subject =
      fmt::format("{} {} pid {}: {}", violation.rule, instance_of(violation.process),
                  violation.process.id.pid, where(violation));
  if (violation.state == ViolationState::cleared)
    return fmt::format("{} cleared, was {}", subject, human_bytes(violation.after_bytes));
  std::string out = fmt::format("{} still growing, {}", subject, describe_growth(violation));
  if (violation.occurrences > 1)
    out += fmt::format(", seen {} times", violation.occurrences);
  return out;
}

std::string level_change(const ServerStatus &server, Level from, double budget)
{
  std::string out = fmt::format("level of {}: {} -> {}", instance_of(server), to_string(from),
                                to_string(server.level));
  if (budget > 0)
    out += fmt::format(": estimated overhead {} {} {}", percent(server.overhead_ratio),
                       server.overhead_ratio > budget ? ">" : "<=", percent(budget));
  if (server.level < server.wanted_level)
    out += fmt::format(" (asked for {})", to_string(server.wanted_level));
  return out;
}

// One level for all if they agree, which they mostly do.
std::string levels_of(const Snapshot &snapshot)
{
  const auto &servers = snapshot.servers;
  if (std::ranges::all_of(servers, [&](const auto &s) { return s.level == servers[0].level; }))
    return fmt::format("level {}", to_string(servers[0].level));
  std::vector<std::string> levels;
  levels.reserve(servers.size());
  for (const ServerStatus &server : servers)
    levels.push_back(fmt::format("{} {}", instance_of(server), to_string(server.level)));
  return "levels " + joined(levels);
}

std::string overhead_of(const Snapshot &snapshot)
{
  double highest = 0;
  for (const ServerStatus &server : snapshot.servers)
    highest = std::max(highest, server.overhead_ratio);
  const double budget = snapshot.health.overhead_budget_ratio;
  return fmt::format("estimated overhead {}{}", percent(highest),
                     budget > 0 ? " of at most " + percent(budget) : "");
}

std::string losses_of(const Status &status)
{
  std::vector<std::string> losses;
  for (const auto &[reason, count] : status.new_losses)
    losses.push_back(fmt::format("{} {}", count, reason));
  return "NOT SEEN since the last status: " + joined(losses);
}

} // namespace

ConsoleSink::ConsoleSink(std::ostream &out, const ConsoleOptions &options)
    : out_(out), options_(options), status_(options.status_interval)
{
}

Result<> ConsoleSink::write(const Snapshot &snapshot, std::span<const Violation> changes,
                            std::span<const Violation> active)
{
  out_.clear(); // a disk that was full may have room again
  errno = 0;
  write_servers(snapshot);
  for (const Violation &violation : changes)
    write_violation(violation);
  if (const auto status = status_.due(snapshot))
    write_status(snapshot, *status, active.size());
  out_.flush();
  if (!out_)
    return Error{"write to the console", errno, "where does the standard output go?"};
  return Ok{};
}

void ConsoleSink::line(Clock::time_point time, std::string_view tag, std::string_view color,
                       std::string_view text)
{
  const bool colored = options_.color && !color.empty();
  out_ << fmt::format("{} {}{:<7}{} {}\n", clock_time(time), colored ? color : kPlain, tag,
                      colored ? kReset : kPlain, text);
}

void ConsoleSink::write_servers(const Snapshot &snapshot)
{
  std::map<pid_t, SeenServer> seen;
  for (const ServerStatus &server : snapshot.servers) {
    const auto before = servers_.find(server.postmaster);
    if (before == servers_.end())
      line(snapshot.taken_at, "server", kPlain,
           fmt::format("watching {}: PostgreSQL {}, {}, postmaster {}", instance_of(server),
                       one_line(server.version, kMaxQueryBytes),
                       one_line(server.data_directory, kMaxNoteBytes), server.postmaster));
    const Level from = before == servers_.end() ? server.wanted_level : before->second.level;
    if (from != server.level)
      line(snapshot.taken_at, "level", kYellow,
           level_change(server, from, snapshot.health.overhead_budget_ratio));
    seen[server.postmaster] = {instance_of(server), server.level};
  }
  for (const auto &[postmaster, server] : servers_)
    if (!seen.contains(postmaster))
      line(snapshot.taken_at, "server", kPlain,
           fmt::format("{} is gone (postmaster {})", server.instance, postmaster));
  servers_ = std::move(seen);
}

void ConsoleSink::write_violation(const Violation &violation)
{
  const bool cleared = violation.state == ViolationState::cleared;
  const std::string_view tag = cleared ? "ok" : to_string(violation.severity);
  if (violation.state != ViolationState::raised) {
    line(violation.time, tag, color_of(violation), follow_up(violation));
    write_code(violation);
    return;
  }
  line(violation.time, tag, color_of(violation), headline(violation, options_.redact));
  write_code(violation);
  if (!violation.advice.empty())
    out_ << "    advice: " << one_line(violation.advice, kMaxNoteBytes) << '\n';
}

void ConsoleSink::write_code(const Violation &violation)
{
  if (!violation.stack.empty())
    out_ << (violation.segments.empty() ? "    allocated by: " : "    made by: ")
         << one_line(code_of(violation), kMaxNoteBytes) << '\n';
}

void ConsoleSink::write_status(const Snapshot &snapshot, const Status &status, std::size_t active)
{
  if (snapshot.servers.empty()) {
    line(snapshot.taken_at, "status", kPlain, "no server to watch");
    return;
  }
  std::string text = fmt::format(
      "{}, {}, {} in {} (private memory {})", counted(snapshot.servers.size(), "server", "servers"),
      counted(snapshot.processes.size(), "process", "processes"), human_bytes(status.total_bytes),
      counted(status.contexts, "context", "contexts"), human_bytes(status.private_bytes));
  if (status.fastest)
    text += fmt::format("; grew most: {} +{}", describe(status.fastest->process),
                        human_bytes(status.fastest_bytes));
  else if (status.biggest)
    text += fmt::format("; biggest: {} {}", describe(status.biggest->process),
                        human_bytes(total_bytes(*status.biggest)));
  text += fmt::format("; {}, {}; {} active", levels_of(snapshot), overhead_of(snapshot),
                      counted(active, "violation", "violations"));
  if (status.dsm_segments > 0)
    text += fmt::format("; {} in {}", human_bytes(status.dsm_bytes),
                        counted(status.dsm_segments, "dsm segment", "dsm segments"));
  if (status.incomplete > 0)
    text += fmt::format("; {} not read whole", counted(status.incomplete, "process", "processes"));
  if (!status.new_losses.empty())
    text += "; " + losses_of(status);
  line(snapshot.taken_at, "status", kPlain, text);
}

} // namespace pgmemtrace
