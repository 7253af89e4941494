// SPDX-License-Identifier: BSD-2-Clause
// watch.h - what `run` and `record` share: a loop that ends by a signal or with its time.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <iterator>

#include <poll.h>

#include "util/file.h"
#include "util/result.h"

namespace pgmemtrace {

// SIGINT and SIGTERM as something to poll for.  Blocked before any thread starts, so that
// every thread inherits it and none is interrupted.
Result<UniqueFd> termination_signals();

// libbpf's own words are for developers: its errors come back as return values.
void silence_libbpf();

// Warnings, with their time, on stderr.
std::function<void(const Error &)> warn_on_stderr();

// Until a signal, the end of the time (0: no end), or until `stages` is over.
template <typename Stages>
void watch(Stages &stages, int signals, std::chrono::nanoseconds duration)
{
  const auto end = duration.count() ? std::chrono::steady_clock::now() + duration
                                    : std::chrono::steady_clock::time_point::max();
  for (;;) {
    stages.step();
    const auto left = end - std::chrono::steady_clock::now();
    if (left <= left.zero() || stages.over())
      return;
    pollfd waiting[] = {{signals, POLLIN, 0}, {stages.poll_fd(), POLLIN, 0}};
    const auto pause = std::min<std::chrono::nanoseconds>(left, stages.idle_time());
    poll(waiting, std::size(waiting),
         static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(pause).count()));
    if (waiting[0].revents)
      return;
  }
}

} // namespace pgmemtrace
