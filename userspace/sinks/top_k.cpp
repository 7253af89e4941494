// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/top_k.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace pgmemtrace {

TopK::Kept::iterator TopK::smallest()
{
  return std::ranges::min_element(kept_, {}, [](const auto &entry) { return entry.second; });
}

void TopK::update(const Sizes &sizes, std::size_t k)
{
  for (auto &[name, size] : kept_) {
    const auto now = sizes.find(name);
    size = now == sizes.end() ? 0 : now->second;
  }
  while (kept_.size() > k)
    kept_.erase(smallest());

  std::vector<std::pair<std::uint64_t, std::string>> newcomers;
  for (const auto &[name, size] : sizes)
    if (!kept_.contains(name))
      newcomers.emplace_back(size, name);
  std::ranges::sort(newcomers, [](const auto &a, const auto &b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  for (auto &[size, name] : newcomers) {
    if (kept_.size() >= k) {
      const auto weakest = smallest();
      if (weakest == kept_.end() || size <= weakest->second + weakest->second / 4)
        break;
      kept_.erase(weakest);
    }
    kept_.emplace(std::move(name), size);
  }
}

std::string TopK::label(std::string_view name) const
{
  return std::string(kept_.contains(name) ? name : kOther);
}

} // namespace pgmemtrace
