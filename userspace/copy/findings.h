// SPDX-License-Identifier: BSD-2-Clause
// findings.h - what a check found, as violations: what is found again and again is one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "copy/copy.h"
#include "rules/violation.h"

namespace pgmemtrace {

class Findings {
public:
  // `whose`: the server that was checked, the database and the user.
  Findings(std::string rule, ProcessIdentity whose, std::string workload);

  // `where`: in which run, such as "in run 2 of 100 with memory wiped".  What has the same `key` is
  // found again.
  void add(Severity severity, const std::string &key, const std::string &what,
           const std::string &where, const std::string &advice);
  // Of a run whose session did not outlive it.
  void add_end(const RunOutcome &run, const Aftermath &aftermath, const std::string &where,
               const std::string &advice);

  bool empty() const { return found_.empty(); }
  std::vector<Violation> take(); // in the order in which they were found

private:
  void add(const Crash &crash, const std::string &where, const std::string &advice);
  Violation &found(const std::string &key, const std::string &what, const std::string &where);

  std::string rule_;
  ProcessIdentity whose_;
  std::string workload_;
  std::map<std::string, std::size_t> known_; // by key
  std::vector<Violation> found_;
};

} // namespace pgmemtrace
