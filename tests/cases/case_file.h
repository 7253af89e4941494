// SPDX-License-Identifier: BSD-2-Clause
// case_file.h - one workload with a known verdict: the *.json beside this file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "util/result.h"

namespace pgmemtrace::test {

struct Case {
  std::string name;
  std::string kind;               // leak, bloat, cache, peak, malloc, none
  std::vector<std::string> rules; // any of them is a hit; empty: no WARNING, no ERROR
  std::string context;            // regular expression; empty: any
  std::vector<int> majors;
  std::string needs; // "contrib:xml2"
  bool expect_errors = false;
  int iterations = 0;
  std::vector<std::string> setup, step, teardown;
};

Result<Case> read_case(const std::filesystem::path &file);
Result<std::vector<Case>> read_cases(const std::filesystem::path &folder); // by name

// `sql` with every {i} replaced.
std::string with_iteration(std::string sql, int i);

} // namespace pgmemtrace::test
