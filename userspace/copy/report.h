// SPDX-License-Identifier: BSD-2-Clause
// report.h - what checks found, for a person and for a program.
#pragma once

#include <span>
#include <string>

#include "copy/check.h"

namespace pgmemtrace {

std::string print_checks(std::span<const CheckResult> checks);

// {"checks": [...]}, one line; violations as the sink writes them.
std::string json_of_checks(std::span<const CheckResult> checks);

} // namespace pgmemtrace
