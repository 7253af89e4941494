// SPDX-License-Identifier: BSD-2-Clause
// windows.h - the test windows that are open, and what was seen of their processes meanwhile.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "rules/growth_shape.h"
#include "rules/window.h"

namespace pgmemtrace {

class Windows {
public:
  using Process = std::shared_ptr<const ProcessSnapshot>;
  using Dsm = std::shared_ptr<const DsmSnapshot>; // null: not looked at, so not judged

  // `before`: exact, of a process that waits.  One window per process: a new one replaces it.
  void begin(Process before, WindowLimits limits, Dsm dsm = nullptr);
  // Did its window begin with a look at the dynamic shared memory?
  bool tracks_dsm(const ProcessId &process) const;

  // Between, `now` exact: after so many executions of what the window is about.  Then the window
  // tells what goes on growing from what was filled once.
  void checkpoint(Process now, std::uint32_t executions);

  // Everything that is seen of any process from there on.
  void saw(const ProcessSnapshot &process);
  void saw(std::span<const Violation> changes);

  // Closes the window: what it left behind, and what the rules of a watched server raised.
  // nullopt: this process has none.
  std::optional<std::vector<Violation>> end(const ProcessSnapshot &after, const RuleLimits &rules,
                                            const Dsm &dsm = nullptr);
  void forget(const ProcessId &process);

private:
  struct Window {
    Process before;
    Dsm dsm;
    WindowLimits limits;
    std::vector<QueryGrowth> growth;
    std::map<ViolationKey, Violation> raised; // the last state of each
    std::vector<GrowthPoint> points;          // between
  };
  std::map<ProcessId, Window> open_;
};

// What was added to `before` until `after`.
std::vector<BlockGrowth> growth_since(std::span<const BlockGrowth> before,
                                      std::span<const BlockGrowth> after);

} // namespace pgmemtrace
