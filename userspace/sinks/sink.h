// SPDX-License-Identifier: BSD-2-Clause
// sink.h - somewhere a snapshot and its violations go.
//
// Adding one: one file here that implements write(), one line in the run command.
#pragma once

#include <span>

#include "rules/violation.h"
#include "snapshot/snapshot.h"
#include "util/result.h"

namespace pgmemtrace {

class Sink {
public:
  virtual ~Sink() = default;

  // One call per step of the pipeline.  `changes`: what was raised, updated or cleared
  // since the last call; `active`: all that hold now.  A failing sink is logged and
  // skipped; it never stops the others.
  virtual Result<> write(const Snapshot &snapshot, std::span<const Violation> changes,
                         std::span<const Violation> active) = 0;
};

} // namespace pgmemtrace
