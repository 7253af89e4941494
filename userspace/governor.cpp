// SPDX-License-Identifier: BSD-2-Clause
#include "governor.h"

#include <algorithm>

namespace pgmemtrace {

namespace {

Level below(Level level) { return level >= Level::statement ? Level::request : Level::sweep; }
Level above(Level level) { return level == Level::sweep ? Level::request : Level::statement; }

} // namespace

double Governor::ratio_of(const Period &period) const
{
  return period.probe_seconds /
         std::max(period.cpu_seconds, options_.least_cpu_share * period.seconds);
}

std::optional<Level> Governor::judge(const Period &period, Time now)
{
  ratio_ = ratio_of(period);
  if (level_ > Level::statement) {
    if (!exempt_since_)
      exempt_since_ = now;
    if (now - *exempt_since_ < options_.exempt_for)
      return std::nullopt;
    level_ = options_.wanted = Level::statement;
    changed_ = now;
    return level_;
  }
  if (options_.budget <= 0)
    return std::nullopt;

  if (ratio_ > options_.budget && level_ > Level::sweep) {
    // A climb that fails soon was a mistake: wait longer before the next one.
    if (climbed_ != Time{} && now - climbed_ < hold_)
      hold_ = std::min(hold_ * 2, options_.longest_hold);
    else
      hold_ = options_.first_hold;
    level_ = below(level_);
    changed_ = now;
    return level_;
  }
  if (level_ < options_.wanted && now - changed_ >= hold_ && ratio_ <= options_.budget / 2) {
    level_ = std::min(above(level_), options_.wanted);
    changed_ = climbed_ = now;
    return level_;
  }
  return std::nullopt;
}

} // namespace pgmemtrace
