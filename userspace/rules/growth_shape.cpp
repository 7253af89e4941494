// SPDX-License-Identifier: BSD-2-Clause
#include "rules/growth_shape.h"

#include <optional>
#include <utility>

#include <fmt/format.h>

#include "rules/describe.h"
#include "snapshot/history.h"

namespace pgmemtrace {
namespace {

// As the rule ctx_bloat has it.
constexpr double kSuperlinear = 1.5;
// Slower than that compared with the earlier half, it is what is left of a warm-up.
constexpr double kStillGrows = 0.1;

struct Rates {
  double early = 0, late = 0; // bytes per execution
};

class Series {
public:
  explicit Series(std::span<const GrowthPoint> points) : points_(points)
  {
    for (const GrowthPoint &point : points)
      histories_.emplace_back().push(*point.snapshot);
  }

  // nullopt: no context has that path.
  std::optional<Rates> rates(const std::string &path) const
  {
    const std::size_t last = points_.size() - 1;
    const std::size_t middle = last / 2;
    if (path.empty() || histories_[last].find(path) == ProcessHistory::kNone)
      return std::nullopt;
    return Rates{rate(path, 0, middle), rate(path, middle, last)};
  }

private:
  double used(std::size_t point, const std::string &path) const
  {
    const auto group = histories_[point].find(path);
    return group == ProcessHistory::kNone
               ? 0
               : static_cast<double>(histories_[point].groups()[group].points.back().used);
  }

  double rate(const std::string &path, std::size_t from, std::size_t to) const
  {
    const double executions =
        static_cast<double>(points_[to].executions) - points_[from].executions;
    return executions > 0 ? (used(to, path) - used(from, path)) / executions : 0;
  }

  std::span<const GrowthPoint> points_;
  std::vector<ProcessHistory> histories_;
};

void describe(Violation &v, const Rates &rates, std::uint32_t executions)
{
  const bool superlinear = rates.late > kSuperlinear * rates.early && rates.early > 0;
  v.shape = superlinear ? "superlinear" : "linear";
  if (superlinear && v.severity != Severity::error)
    v.severity = v.severity == Severity::info ? Severity::warning : Severity::error;
  v.detail +=
      fmt::format(", {} over {} executions: {} each in the earlier part, {} in the later", v.shape,
                  human_count(executions), human_bytes(rates.early), human_bytes(rates.late));
}

} // namespace

std::vector<Violation> keep_growing(std::vector<Violation> found,
                                    std::span<const GrowthPoint> points)
{
  if (points.size() < 3)
    return found;
  const Series series(points);
  std::vector<Violation> growing;
  for (Violation &violation : found) {
    const auto rates = series.rates(violation.path);
    if (rates && (rates->late <= 0 || rates->late < kStillGrows * rates->early))
      continue;
    if (rates)
      describe(violation, *rates, points.back().executions);
    growing.push_back(std::move(violation));
  }
  return growing;
}

} // namespace pgmemtrace
