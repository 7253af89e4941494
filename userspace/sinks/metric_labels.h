// SPDX-License-Identifier: BSD-2-Clause
// metric_labels.h - the labels of processes that lack one, and counts as metric values.
#pragma once

#include <cstdint>
#include <string>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

inline double number(std::uint64_t value) { return static_cast<double>(value); }

inline const std::string &known(const std::string &text)
{
  static const std::string unknown = "unknown";
  return text.empty() ? unknown : text;
}

inline const std::string &database_of(const ProcessIdentity &process)
{
  static const std::string none = "none";
  return process.database.empty() ? none : process.database;
}

} // namespace pgmemtrace
