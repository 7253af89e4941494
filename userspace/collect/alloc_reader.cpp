// SPDX-License-Identifier: BSD-2-Clause
#include "collect/alloc_reader.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "collect/bpf_hash.h"

namespace pgmemtrace {

namespace {

pid_t pid_of(std::uint64_t tgid) { return static_cast<pid_t>(tgid); }

bool nearly_full(std::size_t used, std::uint32_t most) { return used > std::size_t{most} / 4 * 3; }

// Is what belongs to this generation of a context still there?
bool is_current(const std::unordered_map<std::uint64_t, pgmt_held> &helds, std::uint64_t context,
                std::uint64_t generation)
{
  const auto held = helds.find(context);
  return held != helds.end() && held->second.generation == generation;
}

} // namespace

// Contexts last: what is read of a generation that ends meanwhile is old then, and counts no more.
void AllocReader::refresh()
{
  processes_.clear();
  calls_used_ = 0;
  lives_used_ = 0;
  bpf_hash::for_each<pgmt_call_key, pgmt_calls>(
      maps_.callers_fd(), [&](const pgmt_call_key &key, const pgmt_calls &calls) {
        processes_[pid_of(key.tgid)].calls.emplace_back(key, calls);
        ++calls_used_;
      });
  bpf_hash::for_each<pgmt_life_key, pgmt_life>(
      maps_.lives_fd(), [&](const pgmt_life_key &key, const pgmt_life &life) {
        processes_[pid_of(key.tgid)].lives.emplace_back(key, life);
        ++lives_used_;
      });
  bpf_hash::for_each<pgmt_context_key, pgmt_held>(
      maps_.helds_fd(), [&](const pgmt_context_key &key, const pgmt_held &held) {
        processes_[pid_of(key.tgid)].helds.emplace(key.address, held);
      });
}

std::vector<AllocCalls> AllocReader::calls(pid_t pid)
{
  std::vector<AllocCalls> all;
  const auto found = processes_.find(pid);
  if (found == processes_.end())
    return all;
  const Process &process = found->second;
  using Asker = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>; // name, caller, query
  std::map<Asker, Live> live;
  for (const auto &[key, life] : process.lives)
    if (is_current(process.helds, key.context, life.generation)) {
      auto &sum = live[{life.name, key.asker.caller, key.asker.query}];
      sum.bytes += life.bytes;
      sum.chunks += life.chunks;
    }
  all.reserve(process.calls.size());
  for (const auto &[key, calls] : process.calls) {
    const auto &left = live[{key.name, key.asker.caller, key.asker.query}];
    all.push_back({.name = name(pid, key.name),
                   .caller = key.asker.caller,
                   .query = key.asker.query,
                   .allocs = calls.count[PGMT_METHOD_ALLOC],
                   .frees = calls.count[PGMT_METHOD_FREE],
                   .reallocs = calls.count[PGMT_METHOD_REALLOC],
                   .resets = calls.count[PGMT_METHOD_RESET],
                   .deletes = calls.count[PGMT_METHOD_DELETE],
                   .asked = calls.asked,
                   .reasked = calls.reasked,
                   .taken = calls.taken,
                   .raised = calls.raised,
                   .live_bytes = left.bytes,
                   .live_chunks = left.chunks});
  }
  return all;
}

std::vector<AllocCalls> AllocReader::holders(pid_t pid)
{
  auto all = calls(pid);
  std::erase_if(all, [](const AllocCalls &one) { return one.live_chunks == 0; });
  return all;
}

const std::string &AllocReader::name(pid_t pid, std::uint64_t address)
{
  auto [name, unknown] = names_[pid].try_emplace(address);
  if (unknown)
    name->second = name_at_(pid, address);
  return name->second;
}

std::vector<pid_t> AllocReader::processes() const
{
  std::vector<pid_t> pids;
  for (const auto &[pid, process] : processes_)
    pids.push_back(pid);
  return pids;
}

void AllocReader::drop(pid_t pid, const Process &process) const
{
  std::vector<pgmt_call_key> calls;
  for (const auto &[key, counted] : process.calls)
    calls.push_back(key);
  bpf_hash::erase(maps_.callers_fd(), calls);
  std::vector<pgmt_life_key> lives;
  for (const auto &[key, life] : process.lives)
    lives.push_back(key);
  bpf_hash::erase(maps_.lives_fd(), lives);
  std::vector<pgmt_context_key> helds;
  for (const auto &[context, held] : process.helds)
    helds.push_back({static_cast<std::uint64_t>(pid), context});
  bpf_hash::erase(maps_.helds_fd(), helds);
}

// Its chunks go with the next tidy().
void AllocReader::forget(pid_t pid)
{
  if (const auto process = processes_.find(pid); process != processes_.end()) {
    drop(pid, process->second);
    processes_.erase(process);
  }
  names_.erase(pid);
}

void AllocReader::tidy_chunks(const std::function<bool(pid_t)> &alive)
{
  // What ended is overwritten when its place is used again, and left alone as long as there is
  // room: a process may be using it again right now.
  if (nearly_full(lives_used_, maps_.options().lives)) {
    std::vector<pgmt_life_key> ended;
    for (const auto &[pid, process] : processes_)
      for (const auto &[key, life] : process.lives)
        if (!is_current(process.helds, key.context, life.generation))
          ended.push_back(key);
    lives_used_ -= bpf_hash::erase(maps_.lives_fd(), ended);
  }

  std::unordered_map<pid_t, bool> lives; // asked once: chunks are many
  const auto is_alive = [&](pid_t pid) {
    const auto [known, unknown] = lives.try_emplace(pid);
    if (unknown)
      known->second = alive(pid);
    return known->second;
  };
  std::vector<pgmt_context_key> of_the_dead, gone;
  chunks_used_ = 0;
  bpf_hash::for_each<pgmt_context_key, pgmt_chunk>(
      maps_.chunks_fd(), [&](const pgmt_context_key &key, const pgmt_chunk &chunk) {
        ++chunks_used_;
        const auto process = processes_.find(pid_of(key.tgid));
        if (!is_alive(pid_of(key.tgid)))
          of_the_dead.push_back(key);
        else if (process != processes_.end() &&
                 !is_current(process->second.helds, chunk.context, chunk.generation))
          gone.push_back(key);
      });
  if (nearly_full(chunks_used_, maps_.options().chunks))
    of_the_dead.insert(of_the_dead.end(), gone.begin(), gone.end());
  chunks_used_ -= bpf_hash::erase(maps_.chunks_fd(), of_the_dead);
}

void AllocReader::tidy(const std::function<bool(pid_t)> &alive)
{
  refresh();
  for (const pid_t pid : processes())
    if (!alive(pid))
      forget(pid);
  std::erase_if(names_, [&](const auto &entry) { return !alive(entry.first); });
  tidy_chunks(alive);

  std::vector<std::pair<pgmt_call_key, std::uint64_t>> calls;
  for (const auto &[pid, process] : processes_)
    for (const auto &[key, counted] : process.calls)
      calls.emplace_back(key, counted.last_ns);
  if (!nearly_full(calls.size(), maps_.options().calls))
    return;
  const auto middle = calls.begin() + static_cast<std::ptrdiff_t>(calls.size() / 2);
  std::ranges::nth_element(calls, middle, {}, [](const auto &one) { return one.second; });
  std::vector<pgmt_call_key> oldest;
  for (auto one = calls.begin(); one != middle; ++one)
    oldest.push_back(one->first);
  calls_used_ -= bpf_hash::erase(maps_.callers_fd(), oldest);
}

} // namespace pgmemtrace
