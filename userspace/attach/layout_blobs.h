// SPDX-License-Identifier: BSD-2-Clause
// layout_blobs.h - the BTF of bpf/layouts/pgNN.h, embedded by cmake/BpfObject.cmake.
#pragma once

#include <cstddef>
#include <vector>

namespace pgmemtrace {

struct LayoutBlob {
  int major;
  bool checking; // as a server built with MEMORY_CONTEXT_CHECKING is laid out
  const std::byte *begin, *end;
};

const std::vector<LayoutBlob> &layout_blobs();

} // namespace pgmemtrace
