// SPDX-License-Identifier: BSD-2-Clause
// contexts.cpp - `pgmemtrace contexts`: one process's tree, now.
//
// A tree that could not be read whole (the process would not hold still, or it passes a bound)
// is printed as far as it was read, with a warning on stderr and exit status 0; only if there
// is nothing to print is the status 3.
#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "cli/choice.h"
#include "cli/commands.h"
#include "collect/process_reader.h"
#include "collect/sweep.h"
#include "snapshot/tree_print.h"

namespace pgmemtrace {

namespace {

struct ContextsOptions {
  pid_t pid = 0;
  std::string format = "text";
  bool summary = false;
  std::string postgres_btf;
};

Result<ProcessSnapshot> take_snapshot(const ContextsOptions &options)
{
  const auto chosen = find_process(options.pid, options.postgres_btf);
  if (!chosen)
    return chosen.error();

  ProcessSnapshot snapshot;
  snapshot.taken_at = Clock::now();
  read_process(*chosen->process, Proc(), snapshot);
  auto tree = Sweeper(*chosen->process).sweep(Pass::exact);
  if (!tree)
    return tree.error();
  snapshot.contexts = std::move(tree->contexts);
  snapshot.complete = tree->complete;
  snapshot.incomplete_reason = std::move(tree->incomplete_reason);
  return snapshot;
}

int run_contexts(const ContextsOptions &options, std::ostream &out, std::ostream &err)
{
  const auto snapshot = take_snapshot(options);
  if (!snapshot)
    return fail(snapshot.error());
  const auto format = print_format_from_string(options.format).value_or(PrintFormat::text);
  out << (options.summary ? print_summary(*snapshot, format) : print_tree(*snapshot, format))
      << std::flush;
  if (!snapshot->complete)
    err << "warning: the tree is incomplete, sums are a lower bound: "
        << snapshot->incomplete_reason << "\n";
  if (!out)
    return fail(Error{.what = "write the contexts to standard output", .err = EIO});
  return kFine;
}

} // namespace

void add_contexts_command(CLI::App &app, int &exit_status)
{
  auto options = std::make_shared<ContextsOptions>();
  CLI::App *command = app.add_subcommand("contexts", "Print one process's memory contexts, now");
  command->add_option("--pid", options->pid, "Any process of a PostgreSQL server")
      ->required()
      ->check(CLI::PositiveNumber);
  command->add_option("--format", options->format, "text, json or csv")
      ->check(CLI::IsMember({"text", "json", "csv"}))
      ->capture_default_str();
  command->add_flag("--summary", options->summary, "One line per context name, biggest first");
  command->add_option("--postgres-btf", options->postgres_btf,
                      "BTF of this very server, for a build whose layout is not the usual one");
  command->callback(
      [options, &exit_status] { exit_status = run_contexts(*options, std::cout, std::cerr); });
}

} // namespace pgmemtrace
