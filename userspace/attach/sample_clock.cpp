// SPDX-License-Identifier: BSD-2-Clause
#include "attach/sample_clock.h"

#include <charconv>
#include <fstream>

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pgmemtrace {

namespace {

constexpr int kMaxCpus = 8192; // CONFIG_NR_CPUS, at most

std::optional<int> take_cpu(std::string_view &text)
{
  int cpu = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), cpu);
  if (error != std::errc{} || cpu < 0 || cpu >= kMaxCpus)
    return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return cpu;
}

bool take(std::string_view &text, char sign)
{
  if (!text.starts_with(sign))
    return false;
  text.remove_prefix(1);
  return true;
}

} // namespace

std::optional<std::vector<int>> parse_cpu_list(std::string_view text)
{
  std::vector<int> cpus;
  if (text.empty())
    return cpus;
  do {
    const auto first = take_cpu(text);
    const auto last = take(text, '-') ? take_cpu(text) : first;
    if (!first || !last || *last < *first || (!cpus.empty() && *first <= cpus.back()))
      return std::nullopt;
    for (int cpu = *first; cpu <= *last; ++cpu)
      cpus.push_back(cpu);
  } while (take(text, ','));
  return text.empty() ? std::optional(cpus) : std::nullopt;
}

std::optional<std::vector<int>> cpus_in(const std::string &file)
{
  std::ifstream in(file);
  std::string line;
  if (!std::getline(in, line))
    return std::nullopt;
  return parse_cpu_list(line);
}

UniqueFd open_sample_clock(int cpu)
{
  constexpr std::uint64_t kPeriodNs = 10'100'000; // not in step with what is done every 10 ms
  perf_event_attr clock{};
  clock.size = sizeof(clock);
  clock.type = PERF_TYPE_SOFTWARE;
  clock.config = PERF_COUNT_SW_CPU_CLOCK;
  clock.sample_period = kPeriodNs;
  clock.exclude_idle = 1;
  return UniqueFd(
      static_cast<int>(syscall(SYS_perf_event_open, &clock, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)));
}

} // namespace pgmemtrace
