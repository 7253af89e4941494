// SPDX-License-Identifier: BSD-2-Clause
#include "collect/heap_reader.h"

#include <map>

#include "collect/bpf_hash.h"

namespace pgmemtrace {

namespace {

template <typename Chunk> void erase_of(int map, const std::set<std::uint64_t> &processes)
{
  std::vector<pgmt_context_key> keys;
  bpf_hash::for_each<pgmt_context_key, Chunk>(map, [&](const pgmt_context_key &key, const Chunk &) {
    if (processes.contains(key.tgid))
      keys.push_back(key);
  });
  bpf_hash::erase(map, keys);
}

} // namespace

void HeapReader::read()
{
  drop_chunks();
  sums_.clear();
  bpf_hash::for_each<pgmt_heap_key, pgmt_heap_sum>(
      maps_.sums_fd(), [&](const pgmt_heap_key &key, const pgmt_heap_sum &sum) {
        sums_[static_cast<pid_t>(key.stack.tgid)].push_back({key, sum});
      });
  unmatched_.clear();
  bpf_hash::for_each<std::uint64_t, pgmt_heap>(
      maps_.heaps_fd(), [&](std::uint64_t tgid, const pgmt_heap &heap) {
        unmatched_[static_cast<pid_t>(tgid)] = heap.unmatched;
      });
}

std::vector<pid_t> HeapReader::processes() const
{
  std::vector<pid_t> pids;
  for (const auto &[pid, sums] : sums_)
    pids.push_back(pid);
  return pids;
}

std::vector<BlockGrowth> HeapReader::growth(pid_t pid)
{
  std::vector<BlockGrowth> all;
  if (const auto sums = sums_.find(pid); sums != sums_.end())
    for (const auto &[key, sum] : sums->second) {
      const auto stack = stack_of_(pid, key.stack.hash);
      all.push_back({.name = asker_of_(pid, stack),
                     .bytes = sum.gained,
                     .raised = sum.raised,
                     .blocks = sum.chunks,
                     .stack = stack,
                     .query = key.query,
                     .returned = sum.returned});
    }
  return all;
}

std::vector<NameTotals> HeapReader::names(pid_t pid)
{
  std::map<std::string, NameTotals> by_name;
  if (const auto sums = sums_.find(pid); sums != sums_.end())
    for (const auto &[key, sum] : sums->second) {
      auto &totals = by_name[asker_of_(pid, stack_of_(pid, key.stack.hash))];
      totals.gained += sum.gained;
      totals.returned += sum.returned;
      totals.peak += sum.raised;
      totals.blocks += static_cast<std::int64_t>(sum.chunks - sum.chunks_returned);
    }
  std::vector<NameTotals> all;
  for (auto &[name, totals] : by_name) {
    totals.name = name;
    all.push_back(std::move(totals));
  }
  return all;
}

void HeapReader::forget(pid_t pid)
{
  if (const auto heap = unmatched_.extract(pid))
    unmatched_gone_ += heap.mapped();
  const auto tgid = static_cast<std::uint64_t>(pid);
  bpf_hash::erase(maps_.heaps_fd(), std::vector{tgid});
  gone_.insert(tgid);
  const auto sums = sums_.extract(pid);
  if (!sums)
    return;
  std::vector<pgmt_heap_key> keys;
  std::vector<pgmt_stack_key> stacks;
  for (const auto &one : sums.mapped()) {
    keys.push_back(one.key);
    const auto hash = stack_of_(pid, one.key.stack.hash);
    stacks.push_back({tgid, hash});
    stacks.push_back({tgid, hash | PGMT_HASH_UNWOUND});
  }
  bpf_hash::erase(maps_.sums_fd(), keys);
  bpf_hash::erase(maps_.stacks_fd(), stacks);
}

// Of all who went since the last read: it means looking at every chunk and mapping there is.
void HeapReader::drop_chunks()
{
  if (gone_.empty())
    return;
  erase_of<pgmt_heap_chunk>(maps_.heap_chunks_fd(), gone_);
  erase_of<pgmt_mapping>(maps_.mappings_fd(), gone_);
  gone_.clear();
}

std::uint64_t HeapReader::unmatched() const
{
  auto all = unmatched_gone_;
  for (const auto &[pid, count] : unmatched_)
    all += count;
  return all;
}

} // namespace pgmemtrace
