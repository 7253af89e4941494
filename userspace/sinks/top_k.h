// SPDX-License-Identifier: BSD-2-Clause
// top_k.h - which names get a series of their own.
//
// The names come from servers and extensions, so their number is not ours to bound.  The K
// largest are kept; who is in stays until another is a quarter larger than the smallest,
// so that two names of like size do not take turns and leave gaps in both series.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>

namespace pgmemtrace {

class TopK {
public:
  static constexpr const char *kOther = "other";

  using Sizes = std::unordered_map<std::string, std::uint64_t>;

  // The sizes of this moment.  A name that is absent keeps its place until it is needed.
  void update(const Sizes &sizes, std::size_t k);

  // `name` itself, or kOther.
  std::string label(std::string_view name) const;

private:
  using Kept = std::map<std::string, std::uint64_t, std::less<>>; // name -> its latest size

  Kept::iterator smallest();

  Kept kept_;
};

} // namespace pgmemtrace
