// SPDX-License-Identifier: BSD-2-Clause
// compare.h - is what came of a run what came of it before?  Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "copy/workload.h"

namespace pgmemtrace {

struct Difference {
  std::size_t statement =
      0;            // whose results differ, from 1 on; 0: it is an error that was not there
  std::string text; // `statement 2 returned "5", not "7"`
};

// `first`, `second`: the same run twice without faults.  nullopt: it did as before, as far as it
// did the same twice.
std::optional<Difference> difference(const RunOutcome &first, const RunOutcome &second,
                                     const RunOutcome &now);

// Do they differ by themselves?
bool differ(const RunOutcome &first, const RunOutcome &second);

// 1 to `count`, or, if that are more than `most`, as many spread over them, the ends included.
std::vector<std::uint64_t> spread(std::uint64_t count, std::uint64_t most);

} // namespace pgmemtrace
