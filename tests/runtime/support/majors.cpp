// SPDX-License-Identifier: BSD-2-Clause
// majors.cpp - see majors.h.
#include "majors.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <string>

#include "process.h"

namespace pgmemtrace::test {
namespace {

// Debian's folders there have the major for a name.
std::vector<Major> of_the_host()
{
  std::vector<Major> majors;
  std::error_code ignored;
  for (const auto &entry : std::filesystem::directory_iterator("/usr/lib/postgresql", ignored)) {
    const Major major{.number = std::atoi(entry.path().filename().c_str())};
    if (major.installed())
      majors.push_back(major);
  }
  std::ranges::sort(majors, {}, &Major::number);
  return majors;
}

Error not_installed(const std::string &what)
{
  return Error{
      "find " + what, ENOENT,
      "sudo scripts/install-deps.sh for the host's own, sudo scripts/suites.sh for others"};
}

} // namespace

bool Major::installed() const
{
  return std::filesystem::exists(root / bin_dir().relative_path() / "postgres");
}

std::filesystem::path Major::bin_dir() const
{
  return "/usr/lib/postgresql/" + std::to_string(number) + "/bin";
}

std::filesystem::path Major::server_headers() const
{
  return root / "usr/include/postgresql" / std::to_string(number) / "server";
}

std::vector<Major> all_majors()
{
  auto majors = of_the_host();
  std::istringstream list(run_command({PGMT_SOURCE_DIR "/scripts/suites.sh", "--list"}).out);
  for (Major major; list >> major.number >> major.root;)
    if (std::ranges::find(majors, major.number, &Major::number) == majors.end())
      majors.push_back(major);
  std::ranges::sort(majors, {}, &Major::number);
  return majors;
}

Result<Major> find_major(int number)
{
  for (const Major &major : all_majors())
    if (major.number == number && major.installed())
      return major;
  return not_installed("PostgreSQL " + std::to_string(number));
}

Result<Major> major_under_test()
{
  if (const char *wanted = std::getenv("PGMT_MAJOR"))
    return find_major(std::atoi(wanted));
  const auto majors = of_the_host();
  if (majors.empty())
    return not_installed("PostgreSQL on this host");
  return majors.back();
}

} // namespace pgmemtrace::test
