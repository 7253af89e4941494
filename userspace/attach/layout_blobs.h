// SPDX-License-Identifier: BSD-2-Clause
// layout_blobs.h - the BTF of bpf/layouts/pgNN.h, embedded by cmake/BpfObject.cmake.
#pragma once

#include <cstddef>
#include <vector>

namespace pgmemtrace {

struct LayoutBlob {
  int major;
  const std::byte *begin, *end;
};

const std::vector<LayoutBlob> &layout_blobs();

} // namespace pgmemtrace
