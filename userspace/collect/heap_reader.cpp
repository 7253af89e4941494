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
    for (const auto &[key, sum] : sums->second)
      all.push_back({.name = asker_of_(pid, key.stack.hash),
                     .bytes = sum.gained,
                     .raised = sum.raised,
                     .blocks = sum.chunks,
                     .stack = key.stack.hash,
                     .query = key.query,
                     .returned = sum.returned});
  return all;
}

std::vector<NameTotals> HeapReader::names(pid_t pid)
{
  std::map<std::string, NameTotals> by_name;
  if (const auto sums = sums_.find(pid); sums != sums_.end())
    for (const auto &[key, sum] : sums->second) {
      auto &totals = by_name[asker_of_(pid, key.stack.hash)];
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

// That the caller is right needs no proof; what frame pointers say above it gets none, as yet.
pgmt_stack HeapReader::stack(pid_t pid, std::uint64_t id) const
{
  const pgmt_stack_key key{static_cast<std::uint64_t>(pid), id};
  pgmt_stack stack{};
  if (id == 0 || bpf_map_lookup_elem(maps_.stacks_fd(), &key, &stack))
    return {};
  stack.state = PGMT_STACK_UNWOUND;
  return stack;
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
    stacks.push_back(one.key.stack);
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
