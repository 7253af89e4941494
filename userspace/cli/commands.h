// commands.h - the subcommands, one file each.
//
// A command is a struct of options with defaults, a run_*() function that knows nothing
// of CLI11, and an add_*_command() that binds the two.
#pragma once

#include <CLI/CLI.hpp>

#include "util/result.h"

namespace pgmemtrace {

// DESIGN.md section 8.
enum ExitStatus { kFine = 0, kViolations = 1, kUsage = 2, kCannotRun = 3 };

// Prints "error: <what>: <why>" and "hint: ..." to stderr; returns kCannotRun.
int fail(const Error &error);

void add_run_command(CLI::App &app, int &exit_status);
void add_record_command(CLI::App &app, int &exit_status);
void add_report_command(CLI::App &app, int &exit_status);
void add_contexts_command(CLI::App &app, int &exit_status);
void add_catcache_command(CLI::App &app, int &exit_status);
void add_check_command(CLI::App &app, int &exit_status);
void add_doctor_command(CLI::App &app, int &exit_status);

} // namespace pgmemtrace
