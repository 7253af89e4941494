// SPDX-License-Identifier: BSD-2-Clause
// main.cpp - the command line: `pgmemtrace [run]`, and one subcommand per file beside this one.
#include <cstdio>
#include <exception>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "version.h"

namespace {

int run(int argc, char **argv)
{
  CLI::App app("Which memory context of which PostgreSQL backend grew, across which statement.\n"
               "Without a subcommand: `pgmemtrace run`.",
               "pgmemtrace");
  int exit_status = pgmemtrace::kFine;
  app.set_version_flag("--version", "pgmemtrace " PGMT_VERSION);
  pgmemtrace::add_run_command(app, exit_status);
  pgmemtrace::add_record_command(app, exit_status);
  pgmemtrace::add_report_command(app, exit_status);
  pgmemtrace::add_contexts_command(app, exit_status);
  pgmemtrace::add_catcache_command(app, exit_status);
  pgmemtrace::add_check_command(app, exit_status);
  pgmemtrace::add_doctor_command(app, exit_status);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError &error) {
    // --help and --version come here too, with status 0.
    return app.exit(error) == 0 ? pgmemtrace::kFine : pgmemtrace::kUsage;
  }
  return exit_status;
}

} // namespace

int main(int argc, char **argv)
{
  try {
    return run(argc, argv);
  } catch (const std::exception &error) { // out of memory, or a library's last word
    std::fputs("error: ", stderr);
    std::fputs(error.what(), stderr);
    std::fputs("\n", stderr);
    return pgmemtrace::kCannotRun;
  }
}
