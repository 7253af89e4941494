// SPDX-License-Identifier: BSD-2-Clause
// report.cpp - `pgmemtrace report`: a recording, shown.  Needs no privilege and no server.
#include <cerrno>
#include <iostream>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "recording/recording_file.h"
#include "report/formats.h"

namespace pgmemtrace {

namespace {

struct ReportOptions {
  std::string file;
  std::string older;
  std::string format = "text";
  std::string view = "peak";
  std::string context;
  std::string module;
  bool by_query = false;
  std::size_t top = 20;
};

// What was asked for, and this recording does not have.
Result<> check(const ReportOptions &options, const Recording &recording)
{
  const bool heap = recording.level == kLevelMalloc;
  if (heap && !options.context.empty())
    return Error{"--context: a recording of level malloc knows no contexts", 0,
                 "`record --level block` does; --module shows one library here"};
  if (!heap && !options.module.empty())
    return Error{"--module: a recording of level block is by contexts", 0,
                 "--context shows one; `record --level malloc` tells libraries apart"};
  if (options.by_query && !recording.by_query)
    return Error{"--by-query: the recording has no statements", 0,
                 "`record --by-query` keeps them"};
  return Ok{};
}

Result<std::string> report(const ReportOptions &options)
{
  const auto recording = read_recording(options.file);
  if (!recording)
    return recording.error();
  if (auto fits = check(options, *recording); !fits)
    return fits.error();
  const ProfileOptions wanted{.view = view_from_string(options.view).value_or(View::grown),
                              .context = options.context + options.module, // one at most
                              .by_query = options.by_query};
  const auto view = wanted.view;
  auto profile = make_profile(*recording, wanted);
  if (view == View::asked && profile.views < kViews)
    return Error{"--view asked: the recording is not of level alloc", 0, "--view grown"};
  std::string heading = describe(*recording);
  if (!options.older.empty()) {
    const auto older = read_recording(options.older);
    if (!older)
      return older.error();
    if (older->level != recording->level)
      return Error{"--diff: one recording is of level " + recording->level + ", the other of " +
                       older->level,
                   0,
                   {}};
    if (auto fits = check(options, *older); !fits)
      return fits.error();
    profile = difference(profile, make_profile(*older, wanted), view);
    heading += "less than what was " + describe(*older);
  }
  if (options.format == "folded")
    return to_folded(profile, view);
  if (options.format == "json")
    return to_json(*recording, profile, view);
  if (options.format == "massif")
    return to_massif(*recording, wanted.context);
  if (options.format == "html")
    return to_html(*recording, profile, view);
  if (options.format == "pprof")
    return to_pprof(*recording, profile, view);
  return heading + "\n" + to_text(profile, view, options.top);
}

int run_report(const ReportOptions &options)
{
  if (!options.older.empty() && (options.format == "massif" || options.format == "html")) {
    (void)fail({"--diff: " + options.format + " cannot show what there is less of", 0,
                "--format text, folded or json"});
    return kUsage;
  }
  if (options.by_query && options.format == "massif") {
    (void)fail({"--by-query: massif's format has no place for statements", 0,
                "--format text, folded, pprof, html or json"});
    return kUsage;
  }
  const auto text = report(options);
  if (!text)
    return fail(text.error());
  std::cout << *text << std::flush;
  if (!std::cout)
    return fail({"write the report to standard output", EIO, {}});
  return kFine;
}

} // namespace

void add_report_command(CLI::App &app, int &exit_status)
{
  auto options = std::make_shared<ReportOptions>();
  CLI::App *command = app.add_subcommand("report", "Show a recording");
  command->add_option("FILE", options->file, "What `record` wrote")->required();
  command->add_option("--format", options->format, "text, massif, folded, pprof, html or json")
      ->check(CLI::IsMember({"text", "massif", "folded", "pprof", "html", "json"}))
      ->capture_default_str();
  command
      ->add_option(
          "--view", options->view,
          "peak: how much larger than at the start each context was at most; live: what of "
          "the growth was not returned; grown: all of it; asked: what palloc was called for (of "
          "level "
          "alloc alone)")
      ->check(CLI::IsMember({"grown", "live", "peak", "asked"}))
      ->capture_default_str();
  command->add_option("--diff", options->older, "Subtract this earlier recording");
  command->add_option("--context", options->context, "Only contexts of this name");
  command->add_option("--module", options->module,
                      "Level malloc: only what this library asked for, such as libxml2.so.2.9.14");
  command->add_flag("--by-query", options->by_query,
                    "By statement that asked, if it was recorded with --by-query");
  command->add_option("--top", options->top, "Contexts, libraries or statements shown as text")
      ->capture_default_str();
  command->callback([options, &exit_status] { exit_status = run_report(*options); });
}

} // namespace pgmemtrace
