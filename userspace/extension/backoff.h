// SPDX-License-Identifier: BSD-2-Clause
// backoff.h - how long to wait before trying again.
#pragma once

#include <algorithm>
#include <chrono>

namespace pgmemtrace {

// Twice as long each time, up to a bound; one success, and it begins anew.
class Backoff {
public:
  using Duration = std::chrono::milliseconds;

  Backoff(Duration first, Duration most) : first_(first), most_(most), next_(first) {}

  Duration next()
  {
    const Duration now = next_;
    next_ = std::min(next_ * 2, most_);
    return now;
  }
  void succeeded() { next_ = first_; }

private:
  Duration first_, most_, next_;
};

} // namespace pgmemtrace
