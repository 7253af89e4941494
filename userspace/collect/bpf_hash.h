// SPDX-License-Identifier: BSD-2-Clause
// bpf_hash.h - all of a BPF hash map, in few system calls.
#pragma once

#include <cerrno>
#include <cstdint>
#include <vector>

#include <bpf/bpf.h>

namespace pgmemtrace::bpf_hash {

// All entries of a hash map, in batches: `each(key, value)`.  What processes add meanwhile may be
// missed; the next look finds it.  A bucket that does not fit into a batch ends it with ENOSPC.
template <typename Key, typename Value, typename Each> void for_each(int map, Each each)
{
  constexpr std::uint32_t kBatch = 512;
  constexpr std::uint32_t kLargestBatch = 1 << 16;
  std::vector<Key> keys(kBatch);
  std::vector<Value> values(kBatch);
  std::uint32_t token = 0;
  bool first = true;
  for (;;) {
    auto count = static_cast<std::uint32_t>(keys.size());
    const int err = bpf_map_lookup_batch(map, first ? nullptr : &token, &token, keys.data(),
                                         values.data(), &count, nullptr);
    if (err == -ENOSPC && keys.size() < kLargestBatch) {
      keys.resize(keys.size() * 2);
      values.resize(keys.size());
      continue;
    }
    if (err != 0 && err != -ENOENT) // ENOENT: these were the last
      return;
    for (std::uint32_t i = 0; i < count; ++i)
      each(keys[i], values[i]);
    if (err != 0)
      return;
    first = false;
  }
}

// How many of them were there.
template <typename Key> std::size_t erase(int map, const std::vector<Key> &keys)
{
  std::size_t erased = 0;
  for (const Key &key : keys)
    erased += bpf_map_delete_elem(map, &key) == 0;
  return erased;
}

} // namespace pgmemtrace::bpf_hash
