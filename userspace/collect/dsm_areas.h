// SPDX-License-Identifier: BSD-2-Clause
// dsm_areas.h - what segments of dynamic shared memory hold: pieces of DSA areas, and in them the
// names of segments.
//
// An area (PostgreSQL utils/mmgr/dsa.c) pins its segments and frees them itself: that nobody has
// one of them is no fault.  The DSM registry (storage/ipc/dsm_registry.c, 17 and newer) keeps
// what is named in a hash table in an area: such a segment will be attached again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "collect/dsm_files.h"
#include "snapshot/dsm.h"

namespace pgmemtrace {

// dsa.c, the beginning of dsa_segment_header; the same in 13 to 18.
struct AreaHeader {
  std::uint32_t magic;
  std::uint32_t unused;
  std::uint64_t usable_pages;
  std::uint64_t size;
};

// `handles`: those that an area may have, 0 for one in main shared memory.
bool is_area(const AreaHeader &header, std::uint64_t bytes, std::span<const std::uint32_t> handles);

// Which of `segments` have an entry in this piece of an area.  `budget`: bytes that may be read.
std::vector<std::uint32_t>
find_registered(const DsmFile &area, std::span<DsmSegment *const> segments, std::uint64_t &budget);

} // namespace pgmemtrace
