// SPDX-License-Identifier: BSD-2-Clause
// majors.h - the PostgreSQL majors at hand: the host's, and those in the folders of
// scripts/suites.sh; and the one that this run of a test is about.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "util/result.h"

namespace pgmemtrace::test {

struct Major {
  int number = 0;
  std::filesystem::path root = "/"; // the distribution that has it; "/": the host

  bool installed() const;                       // a folder may not have been made
  std::filesystem::path bin_dir() const;        // seen from root
  std::filesystem::path server_headers() const; // to build modules with; seen from here
};

// By number.  Where the host has a major, its folder is left out.
std::vector<Major> all_majors();
Result<Major> find_major(int number); // an installed one

// PGMT_MAJOR in the environment, else the newest that the host has.
Result<Major> major_under_test();

} // namespace pgmemtrace::test
