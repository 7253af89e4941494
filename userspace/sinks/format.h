// SPDX-License-Identifier: BSD-2-Clause
// format.h - what several sinks write the same way.
#pragma once

#include <string>
#include <string_view>

#include "rules/violation.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

// "2026-11-20T21:22:23.123Z".
std::string rfc3339(Clock::time_point time);

// "2026-11-20 21:22:23Z".
std::string clock_time(Clock::time_point time);

// "pid 4242 (server pid 17) client backend alice@shop".
std::string describe(const ProcessIdentity &process);

// "15/main"; names of the cluster come from a configuration file, so they are made fit.
std::string instance_of(const ProcessIdentity &process);

// The last three names of a path: ".../TopPortalContext/PortalContext/ExecutorState".
std::string short_path(std::string_view path);

// "1.2 MiB -> 9.8 MiB (+8.6 MiB)".
std::string describe_growth(const Violation &violation);

// "7.2%".
std::string percent(double ratio);

} // namespace pgmemtrace
