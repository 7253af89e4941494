// SPDX-License-Identifier: BSD-2-Clause
// check.h - the two checks that need a copy, and what they report.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "copy/copy.h"
#include "rules/violation.h"
#include "util/result.h"

namespace pgmemtrace {

struct Workload {
  std::string sql;
  std::string database, user; // empty: as --dsn says, or the superuser
  std::uint64_t iterations = 100;
};

struct CheckResult {
  std::string scenario;
  std::string workload;
  std::uint64_t executed = 0;   // runs of it
  std::uint64_t failed = 0;     // those that ended in an error while nothing was done to it
  bool never_succeeded = false; // all of those did
  std::string first_error;      // of these
  std::string report;           // one sentence
  std::vector<Violation> violations;
};

// Does it look at memory that it gave back?  Run without faults twice, then with contexts that
// overwrite what they held: it must return the same and live.  What differs by itself is not
// compared.  `freed`: chunks that are given back one by one, too.
Result<CheckResult> check_use_after_reset(Copy &copy, const ProcessIdentity &whose,
                                          const Workload &workload, bool freed);

// Does it live with allocations that fail?  Run once for each of them, or, if there are more than
// `iterations`, for as many spread over all: the error has to be clean, and the session to go on.
Result<CheckResult> check_oom(Copy &copy, const ProcessIdentity &whose, const Workload &workload);

} // namespace pgmemtrace
