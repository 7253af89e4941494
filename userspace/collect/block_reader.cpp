// SPDX-License-Identifier: BSD-2-Clause
#include "collect/block_reader.h"

#include <algorithm>
#include <set>
#include <utility>

#include <bpf/bpf.h>

#include "collect/bpf_hash.h"

namespace pgmemtrace {

void BlockReader::refresh()
{
  grown_.clear();
  growths_used_ = 0;
  bpf_hash::for_each<pgmt_growth_key, pgmt_growth>(
      maps_.growths_fd(), [&](const pgmt_growth_key &key, const pgmt_growth &growth) {
        grown_[static_cast<pid_t>(key.stack.tgid)].push_back({key, growth});
        ++growths_used_;
      });
}

std::vector<BlockGrowth> BlockReader::growth(pid_t pid)
{
  std::vector<BlockGrowth> all;
  const auto grown = grown_.find(pid);
  if (grown == grown_.end())
    return all;
  all.reserve(grown->second.size());
  for (const auto &[key, growth] : grown->second)
    all.push_back({.context = key.context > PGMT_CONTEXTS_ALL ? key.context : 0,
                   .made = key.context == PGMT_CONTEXTS_MADE,
                   .name = name(pid, key.name),
                   .bytes = growth.bytes,
                   .raised = growth.raised,
                   .blocks = growth.blocks,
                   .stack = key.stack.hash,
                   .query = key.query});
  return all;
}

const std::string &BlockReader::name(pid_t pid, std::uint64_t address)
{
  auto [name, unknown] = names_[pid].try_emplace(address);
  if (unknown)
    name->second = name_at_(pid, address);
  return name->second;
}

void BlockReader::refresh_names()
{
  totals_.clear();
  bpf_hash::for_each<pgmt_context_key, pgmt_name>(
      maps_.names_fd(), [&](const pgmt_context_key &key, const pgmt_name &name) {
        totals_[static_cast<pid_t>(key.tgid)].emplace_back(key.address, name);
      });
}

std::vector<NameTotals> BlockReader::names(pid_t pid)
{
  std::vector<NameTotals> all;
  const auto totals = totals_.find(pid);
  if (totals == totals_.end())
    return all;
  for (const auto &[address, counted] : totals->second)
    all.push_back({.name = name(pid, address),
                   .made = counted.made,
                   .gained = counted.gained,
                   .returned = counted.returned,
                   .peak = counted.peak,
                   .blocks = counted.blocks});
  return all;
}

std::vector<pid_t> BlockReader::processes() const
{
  std::vector<pid_t> pids;
  for (const auto &[pid, totals] : totals_)
    pids.push_back(pid);
  return pids;
}

void BlockReader::forget(pid_t pid)
{
  if (const auto grown = grown_.find(pid); grown != grown_.end()) {
    std::vector<pgmt_growth_key> growths;
    std::vector<pgmt_stack_key> stacks;
    for (const Grown &one : grown->second) {
      growths.push_back(one.key);
      stacks.push_back(one.key.stack);
      stacks.push_back({one.key.stack.tgid, one.key.stack.hash | PGMT_HASH_UNWOUND});
    }
    bpf_hash::erase(maps_.growths_fd(), growths);
    bpf_hash::erase(maps_.stacks_fd(), stacks);
    grown_.erase(grown);
  }
  if (const auto totals = totals_.find(pid); totals != totals_.end()) {
    std::vector<pgmt_context_key> keys;
    for (const auto &[address, counted] : totals->second)
      keys.push_back({static_cast<std::uint64_t>(pid), address});
    bpf_hash::erase(maps_.names_fd(), keys);
    totals_.erase(totals);
  }
  names_.erase(pid);
}

void BlockReader::tidy(const std::function<bool(pid_t)> &alive)
{
  const auto lives = [&](std::uint64_t tgid) { return alive(static_cast<pid_t>(tgid)); };
  refresh();
  std::erase_if(names_, [&](const auto &entry) { return !alive(entry.first); });

  std::vector<Grown> kept;
  std::vector<pgmt_growth_key> gone;
  for (auto &[pid, grown] : grown_)
    for (const Grown &one : grown)
      if (lives(one.key.stack.tgid))
        kept.push_back(one);
      else
        gone.push_back(one.key);
  if (const std::size_t most = std::size_t{maps_.options().growths} / 4 * 3; kept.size() > most) {
    const auto middle = kept.begin() + static_cast<std::ptrdiff_t>(kept.size() / 2);
    std::ranges::nth_element(kept, middle, {}, [](const Grown &g) { return g.growth.last_ns; });
    std::for_each(kept.begin(), middle, [&](const Grown &g) { gone.push_back(g.key); });
    kept.erase(kept.begin(), middle);
  }
  growths_used_ -= bpf_hash::erase(maps_.growths_fd(), gone);

  std::set<std::pair<std::uint64_t, std::uint64_t>> needed;
  for (const Grown &one : kept)
    for (const auto hash : {one.key.stack.hash, one.key.stack.hash | PGMT_HASH_UNWOUND})
      needed.emplace(one.key.stack.tgid, hash);
  std::vector<pgmt_stack_key> unneeded;
  stacks_used_ = 0;
  bpf_hash::for_each<pgmt_stack_key, pgmt_stack>(
      maps_.stacks_fd(), [&](const pgmt_stack_key &key, const pgmt_stack &) {
        ++stacks_used_;
        if (!needed.contains({key.tgid, key.hash}))
          unneeded.push_back(key);
      });
  stacks_used_ -= bpf_hash::erase(maps_.stacks_fd(), unneeded);

  std::vector<pgmt_context_key> nameless;
  bpf_hash::for_each<pgmt_context_key, pgmt_name>(
      maps_.names_fd(), [&](const pgmt_context_key &key, const pgmt_name &) {
        if (!lives(key.tgid))
          nameless.push_back(key);
      });
  bpf_hash::erase(maps_.names_fd(), nameless);
}

} // namespace pgmemtrace
