// SPDX-License-Identifier: BSD-2-Clause
#include "attach/kernel_maps.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "pgmemtrace.skel.h"

namespace pgmemtrace {

namespace {

std::size_t page_rounded(std::size_t bytes)
{
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

// Array maps pad each value to 8 bytes (kernel/bpf/arraymap.c).
static_assert(sizeof(pgmt_process) % 8 == 0);

} // namespace

std::array<bpf_map *, KernelMaps::kMaps> KernelMaps::maps_of(pgmemtrace_bpf &object)
{
  auto &m = object.maps;
  return {
      m.processes, m.free_slots,  m.contexts,     m.events,       m.selection, m.selection_epoch,
      m.losses,    m.tasks,       m.names,        m.growths,      m.stacks,    m.queries,
      m.heaps,     m.heap_chunks, m.mappings,     m.sums,         m.callers,   m.helds,
      m.lives,     m.chunks,      m.stack_copies, m.known_stacks, m.pieces};
}

KernelMaps::~KernelMaps()
{
  if (processes_)
    munmap(processes_, page_rounded(options_.processes * sizeof(pgmt_process)));
  if (epoch_)
    munmap(epoch_, page_rounded(sizeof(std::uint64_t)));
  if (losses_)
    munmap(const_cast<std::uint64_t *>(losses_), page_rounded(PGMT_LOSSES * sizeof(std::uint64_t)));
  for (int fd : fds_)
    if (fd >= 0)
      close(fd);
}

Result<> KernelMaps::prepare(pgmemtrace_bpf &object)
{
  const auto maps = maps_of(object);
  for (std::size_t i = 0; created() && i < kMaps; ++i)
    if (int err = bpf_map__reuse_fd(maps[i], fds_[i]))
      return Error{std::string("share map ") + bpf_map__name(maps[i]), -err};
  if (created())
    return Ok{};
  int err = bpf_map__set_max_entries(object.maps.processes, options_.processes);
  err = err ? err : bpf_map__set_max_entries(object.maps.free_slots, options_.processes);
  err = err ? err : bpf_map__set_max_entries(object.maps.contexts, options_.contexts);
  err = err ? err : bpf_map__set_max_entries(object.maps.events, options_.ring_bytes);
  err = err ? err : bpf_map__set_max_entries(object.maps.growths, options_.growths);
  const auto pieces = options_.takes_stacks ? options_.processes : 1;
  err = err ? err : bpf_map__set_max_entries(object.maps.pieces, pieces);
  err = err ? err : bpf_map__set_max_entries(object.maps.stacks, options_.stacks);
  err = err ? err : bpf_map__set_max_entries(object.maps.heap_chunks, options_.heap_chunks);
  err = err ? err : bpf_map__set_max_entries(object.maps.mappings, options_.mappings);
  const auto sums = std::min(options_.heap_chunks, options_.growths);
  err = err ? err : bpf_map__set_max_entries(object.maps.sums, sums);
  err = err ? err : bpf_map__set_max_entries(object.maps.callers, options_.calls);
  err = err ? err : bpf_map__set_max_entries(object.maps.helds, options_.contexts);
  err = err ? err : bpf_map__set_max_entries(object.maps.lives, options_.lives);
  err = err ? err : bpf_map__set_max_entries(object.maps.chunks, options_.chunks);
  err = err ? err : bpf_map__set_max_entries(object.maps.known_stacks, options_.stacks);
  err = err ? err : bpf_map__set_max_entries(object.maps.stack_copies, options_.copies_bytes);
  if (err)
    return Error{"size the BPF maps", -err};
  return Ok{};
}

Result<> KernelMaps::adopt(pgmemtrace_bpf &object)
{
  if (created())
    return Ok{};
  const auto maps = maps_of(object);
  for (std::size_t i = 0; i < kMaps; ++i) {
    fds_[i] = fcntl(bpf_map__fd(maps[i]), F_DUPFD_CLOEXEC, 3);
    if (fds_[i] < 0)
      return Error{std::string("keep map ") + bpf_map__name(maps[i]), errno};
  }
  const auto map = [&](Map which, std::size_t bytes, int protection) {
    return mmap(nullptr, page_rounded(bytes), protection, MAP_SHARED, fds_[which], 0);
  };
  void *processes =
      map(kProcesses, options_.processes * sizeof(pgmt_process), PROT_READ | PROT_WRITE);
  void *epoch = map(kEpoch, sizeof(std::uint64_t), PROT_READ | PROT_WRITE);
  void *losses = map(kLosses, PGMT_LOSSES * sizeof(std::uint64_t), PROT_READ);
  processes_ = processes == MAP_FAILED ? nullptr : static_cast<pgmt_process *>(processes);
  epoch_ = epoch == MAP_FAILED ? nullptr : static_cast<std::uint64_t *>(epoch);
  losses_ = losses == MAP_FAILED ? nullptr : static_cast<const std::uint64_t *>(losses);
  if (!processes_ || !epoch_ || !losses_)
    return Error{"map the BPF arrays into memory", errno};

  for (std::uint32_t slot = 0; slot < options_.processes; ++slot)
    if (bpf_map_update_elem(fds_[kFreeSlots], nullptr, &slot, BPF_ANY))
      return Error{"fill the queue of process slots", errno};
  return Ok{};
}

std::span<const pgmt_process> KernelMaps::processes() const
{
  return {processes_, processes_ ? options_.processes : 0};
}

KernelMaps::Losses KernelMaps::losses() const
{
  constexpr std::pair<pgmt_loss, const char *> kUnrecorded[] = {
      {PGMT_LOSS_RING_FULL, "ring_full"},       {PGMT_LOSS_SLOTS_FULL, "processes_full"},
      {PGMT_LOSS_TASK_STORAGE, "task_storage"}, {PGMT_LOSS_CONTEXTS_FULL, "contexts_full"},
      {PGMT_LOSS_WALK_BOUND, "walk_bound"},     {PGMT_LOSS_BLOCKS_UNSEEN, "blocks_unseen"},
      {PGMT_LOSS_GROWTHS_FULL, "growths_full"}, {PGMT_LOSS_STACKS_FULL, "stacks_full"},
      {PGMT_LOSS_STACK, "stack_not_captured"},  {PGMT_LOSS_STACK_CUT, "stack_cut"},
      {PGMT_LOSS_QUERIES_FULL, "queries_full"}, {PGMT_LOSS_HEAP_CALL, "heap_call"},
      {PGMT_LOSS_HEAP_STALE, "heap_stale"},     {PGMT_LOSS_CALLS_FULL, "calls_full"},
      {PGMT_LOSS_CHUNKS_FULL, "chunks_full"},   {PGMT_LOSS_CHUNK_UNKNOWN, "chunk_unknown"},
      {PGMT_LOSS_COPY_RATE, "stack_copy_rate"}, {PGMT_LOSS_COPIES_FULL, "stack_copies_full"},
  };
  constexpr std::pair<pgmt_loss, const char *> kUnreadable[] = {
      {PGMT_LOSS_READ_ROOT, "root"},   {PGMT_LOSS_READ_WALK, "walk"},
      {PGMT_LOSS_READ_TEXT, "text"},   {PGMT_LOSS_READ_BLOCK, "block"},
      {PGMT_LOSS_READ_CHUNK, "chunk"}, {PGMT_LOSS_READ_CALLER, "caller"},
  };
  static_assert(std::size(kUnrecorded) + std::size(kUnreadable) == PGMT_LOSSES);
  Losses all;
  for (const auto &[reason, name] : kUnrecorded)
    all.unrecorded[name] = losses(reason);
  for (const auto &[reason, name] : kUnreadable)
    all.unreadable[name] = losses(reason);
  return all;
}

std::uint64_t KernelMaps::losses(pgmt_loss reason) const
{
  return losses_ ? std::atomic_ref(const_cast<std::uint64_t &>(losses_[reason])).load() : 0;
}

void KernelMaps::release(std::uint32_t slot)
{
  std::memset(&processes_[slot], 0, sizeof(pgmt_process));
  std::atomic_thread_fence(std::memory_order_release);
  bpf_map_update_elem(fds_[kFreeSlots], nullptr, &slot, BPF_ANY);
}

Result<> KernelMaps::select(pid_t pid, bool with_children)
{
  const auto key = static_cast<std::uint32_t>(pid);
  const std::uint32_t value = with_children ? PGMT_SELECTED_WITH_CHILDREN : PGMT_SELECTED;
  if (bpf_map_update_elem(fds_[kSelection], &key, &value, BPF_ANY))
    return Error{"select process " + std::to_string(pid), errno};
  std::atomic_ref(*epoch_).fetch_add(1);
  return Ok{};
}

void KernelMaps::deselect(pid_t pid)
{
  const auto key = static_cast<std::uint32_t>(pid);
  bpf_map_delete_elem(fds_[kSelection], &key);
}

pgmt_stack KernelMaps::stack(pid_t pid, std::uint64_t hash) const
{
  pgmt_stack_key key{static_cast<std::uint64_t>(pid), hash};
  pgmt_stack stack{};
  if (hash == 0 || bpf_map_lookup_elem(fds_[kStacks], &key, &stack) == 0)
    return stack;
  key.hash |= PGMT_HASH_UNWOUND;
  return bpf_map_lookup_elem(fds_[kStacks], &key, &stack) ? pgmt_stack{} : stack;
}

Result<> KernelMaps::count_heap(pid_t pid)
{
  const auto key = static_cast<std::uint64_t>(pid);
  const pgmt_heap nothing{};
  if (bpf_map_update_elem(fds_[kHeaps], &key, &nothing, BPF_NOEXIST) && errno != EEXIST)
    return Error{"count the heap of process " + std::to_string(pid), errno};
  return Ok{};
}

} // namespace pgmemtrace
