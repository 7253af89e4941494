// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/format.h"

#include <chrono>
#include <ctime>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "util/text.h"

namespace pgmemtrace {
namespace {

constexpr std::size_t kMaxNameBytes = 63; // NAMEDATALEN - 1
constexpr std::size_t kMaxPathBytes = 160;

std::tm utc(Clock::time_point time)
{
  const std::time_t seconds = Clock::to_time_t(std::chrono::floor<std::chrono::seconds>(time));
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return parts;
}

} // namespace

std::string rfc3339(Clock::time_point time)
{
  const auto fraction = time - std::chrono::floor<std::chrono::seconds>(time);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(fraction);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", utc(time), ms.count());
}

std::string clock_time(Clock::time_point time)
{
  return fmt::format("{:%Y-%m-%d %H:%M:%S}Z", utc(time));
}

std::string describe(const ProcessIdentity &process)
{
  std::string out = fmt::format("pid {}", process.id.pid);
  if (process.server_pid != 0 && process.server_pid != process.id.pid)
    out += fmt::format(" (server pid {})", process.server_pid);
  if (!process.backend_type.empty())
    out += ' ' + one_line(process.backend_type, kMaxNameBytes);
  const std::string user = one_line(process.user, kMaxNameBytes);
  const std::string database = one_line(process.database, kMaxNameBytes);
  if (!user.empty() || !database.empty())
    out += fmt::format(" {}{}{}", user, database.empty() ? "" : "@", database);
  return out;
}

std::string instance_of(const ProcessIdentity &process)
{
  const std::string instance = one_line(process.instance, kMaxPathBytes);
  return instance.empty() ? fmt::format("postmaster {}", process.postmaster) : instance;
}

std::string short_path(std::string_view path)
{
  std::size_t start = path.size();
  for (int names = 0; names < 3 && start != 0; ++names) {
    const std::size_t slash = path.rfind('/', start - 1);
    start = slash == std::string_view::npos ? 0 : slash;
  }
  return start == 0 ? one_line(path, kMaxPathBytes)
                    : "..." + one_line(path.substr(start), kMaxPathBytes);
}

std::string describe_growth(const Violation &violation)
{
  return fmt::format("{} -> {} ({})", human_bytes(violation.before_bytes),
                     human_bytes(violation.after_bytes), human_delta(violation.delta_bytes));
}

std::string percent(double ratio) { return fmt::format("{:.1f}%", ratio * 100); }

} // namespace pgmemtrace
