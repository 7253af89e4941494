// SPDX-License-Identifier: BSD-2-Clause
// config_fuzzer.cpp - any file as --config, up to the moment when watching would begin.
#include "attach/servers.h"
#include "cli/commands.h"
#include "cli/units.h"
#include "fuzz.h"

namespace pgmemtrace::test {
namespace {

// A usage error is an answer; anything else that is thrown is not.
void read_config(const std::string &path)
{
  CLI::App app;
  int exit_status = 0;
  add_run_command(app, exit_status);
  app.parse_complete_callback([] { throw CLI::Success(); }); // all is read: nothing is to run
  try {
    app.parse("--config " + path, false);
  } catch (const CLI::ParseError &) {
  }
}

} // namespace
} // namespace pgmemtrace::test

int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  const test::InputFile file({bytes, size});
  test::read_config(file.path());

  const std::string_view text(reinterpret_cast<const char *>(bytes), size);
  (void)parse_selection(std::string(text));
  if (const auto duration = parse_duration(text))
    test::must(duration->count() >= 0, "no duration is negative");
  if (const auto ratio = parse_ratio(text))
    test::must(*ratio >= 0 && *ratio <= 1, "a ratio is one");
  return 0;
}
