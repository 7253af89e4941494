// SPDX-License-Identifier: BSD-2-Clause
// log_sink.h - the sink for those who look in SQL: the log of each server that has the extension,
// and the test windows that are open there.
#pragma once

#include "extension/extension.h"
#include "sinks/sink.h"

namespace pgmemtrace {

class LogSink final : public Sink {
public:
  explicit LogSink(Extension &extension) : extension_(extension) {} // must outlive the sink

  Result<> write(const Snapshot &, std::span<const Violation> changes,
                 std::span<const Violation>) override
  {
    extension_.saw(changes);
    return Ok{};
  }

private:
  Extension &extension_;
};

} // namespace pgmemtrace
