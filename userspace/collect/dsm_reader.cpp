// SPDX-License-Identifier: BSD-2-Clause
#include "collect/dsm_reader.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "collect/context_header.h"
#include "collect/dsm_areas.h"
#include "collect/dsm_files.h"

namespace pgmemtrace {
namespace {

constexpr std::uint32_t kControlMagic = 0x9a503d32; // dsm.c, PG_DYNSHMEM_CONTROL_MAGIC
constexpr std::uint32_t kSharedMagic = 679834894;   // storage/pg_shmem.h, PGShmemMagic
constexpr std::uint32_t kActive = 2;                // dsm.c: 1 is about to go, 0 is free
constexpr std::uint64_t kPage = 4096;               // utils/freepage.h, FPM_PAGE_SIZE
constexpr std::uint64_t kMostBytes = 1ULL << 47;    // more than an address space has
constexpr std::uint32_t kNext = 8;                  // of a dlist_node
constexpr int kRegistrySince = 17;

bool in_main_memory(std::uint32_t handle) { return handle % 2 == 1; } // dsm.c, 14 and newer

std::span<std::byte> bytes_of(std::uint64_t &word)
{
  return std::as_writable_bytes(std::span(&word, 1));
}

} // namespace

DsmReader::DsmReader(ProcessIdentity postmaster, Layout layout, DsmVariables variables,
                     std::uint64_t load_bias, Proc proc, Memory memory, DsmLimits limits)
    : postmaster_(std::move(postmaster)), layout_(std::move(layout)), variables_(variables),
      load_bias_(load_bias), proc_(std::move(proc)), memory_(std::move(memory)), limits_(limits)
{
}

Result<DsmSnapshot> DsmReader::read(std::span<const Process> processes, bool everybody)
{
  DsmSnapshot snapshot{.postmaster = postmaster_, .everybody = everybody};
  const auto postmaster = memory_(postmaster_.id.pid);
  if (auto found = find_control(*postmaster); !found)
    return found.error();
  const auto before = read_control(*postmaster);
  if (!before)
    return before.error();
  numbers_.clear();
  for (const Item &item : before->items) {
    numbers_.try_emplace(item.handle, snapshot.segments.size());
    DsmSegment segment{.handle = item.handle,
                       .attachments = item.refcnt - 1 - (item.pinned ? 1U : 0U),
                       .pinned = item.pinned,
                       .in_main = item.npages != 0 && in_main_memory(item.handle)};
    if (segment.in_main)
      segment.bytes = item.npages * kPage;
    snapshot.segments.push_back(std::move(segment));
  }
  snapshot.complete = before->complete;
  places_.clear();
  if (!snapshot.segments.empty())
    for (const Process &process : processes)
      read_mappings(process, snapshot);

  const auto after = read_control(*postmaster);
  if (!after)
    return after.error();
  std::unordered_map<std::uint32_t, const Item *> later;
  for (const Item &item : after->items)
    later.try_emplace(item.handle, &item);
  for (std::size_t i = 0; i < snapshot.segments.size(); ++i) {
    const auto same = later.find(before->items[i].handle);
    snapshot.segments[i].settled = same != later.end() && *same->second == before->items[i];
  }
  look_inside(snapshot);
  look_for_names(snapshot);
  snapshot.taken_at = Clock::now();
  snapshot.moment = std::chrono::steady_clock::now();
  return snapshot;
}

DsmSegment *DsmReader::find(DsmSnapshot &snapshot, std::uint32_t handle) const
{
  const auto found = numbers_.find(handle);
  return found == numbers_.end() ? nullptr : &snapshot.segments[found->second];
}

// The small header that every server has in System V shared memory knows the handle; a crash of a
// backend gives the server another control segment.
Result<> DsmReader::find_control(ForeignMemory &postmaster)
{
  const auto none = [&](std::string_view why, int err = 0) {
    return Error{
        fmt::format("read the dynamic shared memory of server {}: {}", postmaster_.id.pid, why),
        err,
        {}};
  };
  const auto header = postmaster.read_value<std::uint64_t>(load_bias_ + variables_.shared_memory);
  if (!header)
    return none("its memory cannot be read", ESRCH);
  const auto magic = postmaster.read_value<std::uint32_t>(*header + layout_.shared_memory.magic);
  const auto handle = postmaster.read_value<std::uint32_t>(*header + layout_.shared_memory.control);
  if (*header == 0 || !magic || *magic != kSharedMagic || !handle || *handle == 0)
    return none("no shared memory yet");
  if (*handle == control_handle_)
    return Ok{};
  const auto maps = proc_.maps(postmaster_.id.pid);
  if (!maps)
    return none("it is gone", ESRCH);
  const auto mapping = std::ranges::find_if(
      *maps, [&](const Proc::Mapping &m) { return is_mapping_of(m.path, *handle); });
  if (mapping == maps->end())
    return none("its control segment is not mapped");
  control_handle_ = *handle;
  control_ = mapping->start;
  control_end_ = mapping->end;
  return Ok{};
}

Result<DsmReader::Control> DsmReader::read_control(ForeignMemory &postmaster)
{
  const auto &at = layout_.dsm_control;
  const auto &of = layout_.dsm_item;
  const auto refused = [&](std::string_view why) {
    control_handle_ = 0; // look for it again
    return Error{
        fmt::format("read the dynamic shared memory of server {}: {}", postmaster_.id.pid, why),
        0,
        {}};
  };
  std::vector<std::byte> header(at.items);
  if (!postmaster.read_bytes(control_, header))
    return refused("its control segment cannot be read");
  const auto count = field<std::uint32_t>(header, at.nitems);
  const std::uint64_t room = (control_end_ - control_ - at.items) / of.size;
  if (field<std::uint32_t>(header, at.magic) != kControlMagic ||
      count > field<std::uint32_t>(header, at.maxitems) || count > room)
    return refused("what should be its control segment is none");
  Control control;
  control.complete = count <= limits_.items;
  std::vector<std::byte> items(std::uint64_t{std::min(count, limits_.items)} * of.size);
  if (!items.empty() && !postmaster.read_bytes(control_ + at.items, items))
    return refused("its control segment cannot be read");
  for (std::size_t offset = 0; offset < items.size(); offset += of.size) {
    const auto one = std::span(items).subspan(offset, of.size);
    Item item{.handle = field<std::uint32_t>(one, of.handle),
              .refcnt = field<std::uint32_t>(one, of.refcnt),
              .pinned = field<std::uint8_t>(one, of.pinned) != 0,
              .npages = std::min(field<std::uint64_t>(one, of.npages), kMostBytes / kPage)};
    if (!in_main_memory(item.handle))
      item.npages = 0; // left over from a slot's use before
    if (item.refcnt >= kActive)
      control.items.push_back(item);
  }
  return control;
}

void DsmReader::read_mappings(const Process &process, DsmSnapshot &snapshot)
{
  const auto memory = memory_(process.identity.id.pid);
  const std::uint64_t list = load_bias_ + variables_.segments;
  const std::uint64_t transaction = load_bias_ + variables_.transaction_context;
  std::uint64_t first = 0;
  std::uint64_t context = 0;
  std::uint64_t session = 0;
  std::array pieces{ForeignMemory::Piece{list + kNext, bytes_of(first)},
                    ForeignMemory::Piece{transaction, bytes_of(context)},
                    ForeignMemory::Piece{load_bias_ + variables_.session, bytes_of(session)}};
  if (!memory->read(pieces) || !pieces[0].ok || !pieces[1].ok) {
    snapshot.everybody = false; // it ended, or nobody may read it
    return;
  }
  if (first == 0 || first == list)
    return;
  if (session != 0)
    session = memory->read_value<std::uint64_t>(session + layout_.session.segment).value_or(0);
  DsmMapping mapping{.process = process.identity, .requests = process.requests};
  // Its handles are drawn at random: what a transaction did in between shows in the next look.
  mapping.idle = context == 0 && memory->read_value<std::uint64_t>(transaction) == 0U;
  if (!read_list(*memory, first, session, mapping, snapshot))
    snapshot.everybody = false;
}

// False: it changed under us, or is longer than we follow it.
bool DsmReader::read_list(ForeignMemory &memory, std::uint64_t first, std::uint64_t session,
                          const DsmMapping &mapping, DsmSnapshot &snapshot)
{
  const auto &at = layout_.dsm_segment;
  const std::uint64_t head = load_bias_ + variables_.segments;
  std::vector<std::byte> bytes(at.size);
  std::uint64_t previous = head;
  std::uint64_t node = first;
  for (std::size_t i = 0; node != head; ++i) {
    if (i == limits_.mappings || !memory.read_bytes(node - at.node, bytes) ||
        field<std::uint64_t>(bytes, at.node) != previous) {
      snapshot.complete &= i != limits_.mappings;
      return false;
    }
    if (auto *segment = find(snapshot, field<std::uint32_t>(bytes, at.handle))) {
      auto &added = segment->mappings.emplace_back(mapping);
      added.pinned = field<std::uint64_t>(bytes, at.resowner) == 0;
      added.session = session != 0 && session == node - at.node;
      const auto address = field<std::uint64_t>(bytes, at.mapped_address);
      const auto size = field<std::uint64_t>(bytes, at.mapped_size);
      if (size <= kMostBytes)
        segment->bytes = size;
      places_[segment->handle] = {mapping.process.id.pid, address};
    }
    previous = node;
    node = field<std::uint64_t>(bytes, at.node + kNext);
  }
  return true;
}

// What only the segment itself says: its size where nobody has it, and whether it is a piece of
// an area.
void DsmReader::look_inside(DsmSnapshot &snapshot)
{
  AreaHandles areas;
  for (const DsmSegment &segment : snapshot.segments)
    areas.add(segment.handle);
  std::map<std::uint32_t, Known> known;
  for (DsmSegment &segment : snapshot.segments) {
    AreaHeader header{};
    const auto into = std::as_writable_bytes(std::span(&header, 1));
    if (const auto place = places_.find(segment.handle); place != places_.end()) {
      segment.seen = memory_(place->second.pid)->read_bytes(place->second.address, into);
    } else if (const auto file = segment.in_main
                                     ? std::nullopt
                                     : DsmFile::open(proc_, postmaster_.id.pid, segment.handle)) {
      segment.bytes = file->bytes();
      const auto there = into.first(std::min<std::uint64_t>(into.size(), file->bytes()));
      segment.seen = !there.empty() && file->read(0, there) == there.size();
    }
    segment.area = segment.seen && areas.has_piece(header, segment.bytes);
    if (const auto before = known_.find(segment.handle); !segment.seen && before != known_.end()) {
      segment.seen = true;
      segment.bytes = before->second.bytes;
      segment.area = before->second.area;
    }
    if (segment.seen)
      known[segment.handle] = {segment.bytes, segment.area};
  }
  known_ = std::move(known);
}

void DsmReader::look_for_names(DsmSnapshot &snapshot)
{
  if (layout_.major < kRegistrySince)
    return;
  std::erase_if(searches_, [this](const auto &entry) { return !numbers_.contains(entry.first); });
  std::unordered_map<std::uint32_t, const DsmSegment *> nameless;
  for (DsmSegment &segment : snapshot.segments) {
    segment.registered = registered_.contains(segment.handle);
    if (segment.pinned && segment.attachments <= 1 && !segment.area && !segment.registered &&
        searches_[segment.handle]++ < limits_.searches)
      nameless.try_emplace(segment.handle, &segment);
  }
  std::uint64_t budget = limits_.search;
  for (const DsmSegment &area : snapshot.segments) {
    if (nameless.empty() || budget == 0)
      break;
    if (!area.area || area.in_main)
      continue;
    const auto file = DsmFile::open(proc_, postmaster_.id.pid, area.handle);
    if (!file)
      continue;
    for (const std::uint32_t handle : find_registered(*file, nameless, budget)) {
      registered_.insert(handle);
      find(snapshot, handle)->registered = true;
      nameless.erase(handle);
    }
  }
}

} // namespace pgmemtrace
