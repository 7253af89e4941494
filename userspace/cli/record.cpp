// SPDX-License-Identifier: BSD-2-Clause
// record.cpp - `pgmemtrace record`: what contexts gain, or what processes take from malloc, by call
// stack or by caller, to a file.
//
// The file's place is taken before anything is attached: who waited for a recording should not
// learn at its end that it has nowhere to go.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <string>

#include <fmt/format.h>

#include "attach/kernel_features.h"
#include "attach/servers.h"
#include "cli/choice.h"
#include "cli/commands.h"
#include "cli/watch.h"
#include "recording/recorder.h"
#include "recording/recording_file.h"
#include "util/text.h"
#include "version.h"

namespace pgmemtrace {

namespace {

constexpr std::uint32_t kStacks = 32768;       // at a time: every one is taken here
constexpr std::uint32_t kHeapChunks = 1 << 20; // level malloc: that live, of all processes
constexpr std::uint32_t kMappings = Attachments::kMaxHeaps * PGMT_MAPPINGS;

struct RecordOptions {
  Choice choice;
  std::string level = "block";
  bool by_query = false;
  std::string duration = "30s";
  std::string output;
  std::uint32_t max_processes = 1024;
};

struct Parsed {
  Selection selection;
  Level level = Level::block;
  std::chrono::nanoseconds duration{};
};

Result<Parsed> parse(const RecordOptions &options)
{
  Parsed parsed;
  auto selection = selection_of(options.choice);
  if (!selection)
    return selection.error();
  parsed.selection = std::move(*selection);
  const bool heap = options.level == kLevelMalloc;
  const auto level = heap ? Level::statement : level_from_string(options.level);
  if (!heap && level != Level::block && level != Level::alloc)
    return Error{fmt::format("--level {}: nothing that can be recorded", options.level), 0,
                 "block, alloc or malloc"};
  parsed.level = *level;
  if (heap && parsed.selection.all)
    return Error{"--level malloc --pid all: it is for chosen processes", 0,
                 "each call of malloc costs several microseconds: --pid PID[,PID...] or --pgdata"};
  const auto duration = duration_of("--duration", options.duration);
  if (!duration)
    return duration.error();
  parsed.duration = *duration;
  return parsed;
}

std::string summary(const Recording &recording, const std::string &file, std::size_t bytes)
{
  std::uint64_t grown = 0;
  for (const auto &process : recording.processes)
    for (const auto &context : process.contexts)
      grown += context.grown;
  const auto ended = std::ranges::count(recording.processes, true, &Recording::Process::exited);
  auto text = fmt::format("recorded {:.1f}s: {} grown; processes that grew: {}",
                          static_cast<double>(recording.duration_ms) / 1000, human_bytes(grown),
                          recording.processes.size());
  if (ended > 0)
    text += fmt::format(", ended meanwhile: {}, their part is kept", ended);
  text += fmt::format("; {}: {}\nwrote {}, {}\n",
                      recording.level == "alloc" ? "callers" : "call stacks",
                      recording.stacks.size(), file, human_bytes(bytes));
  for (const auto &[reason, count] : recording.losses)
    text += fmt::format("not seen: {} {}\n", reason, count);
  return text;
}

int run_record(const RecordOptions &options)
{
  const auto parsed = parse(options);
  if (!parsed) {
    (void)fail(parsed.error());
    return kUsage;
  }
  silence_libbpf();
  const auto signals = termination_signals();
  if (!signals)
    return fail(signals.error());
  const auto features = detect_kernel_features();
  if (const auto lacking = missing(features); !lacking.empty())
    return fail(lacking.front());
  auto file = NewFile::create(options.output);
  if (!file)
    return fail(file.error());
  auto servers = ServerList::find({.selection = parsed->selection,
                                   .postgres_btf = options.choice.postgres_btf,
                                   .proc = Proc()});
  if (!servers)
    return fail(servers.error());
  // At level malloc the boundaries tell who comes, and which statement runs.
  const bool heap = options.level == kLevelMalloc;
  auto recorder = Recorder::start(std::move(*servers),
                                  {.attachments = {.level = parsed->level,
                                                   .selection = parsed->selection,
                                                   .by_query = options.by_query,
                                                   .heap = heap,
                                                   .uprobe_multi = features.uprobe_multi,
                                                   .postgres_btf = options.choice.postgres_btf},
                                   .maps = {.processes = options.max_processes,
                                            .stacks = kStacks,
                                            .takes_stacks = !heap,
                                            .heap_chunks = heap ? kHeapChunks : 1,
                                            .mappings = heap ? kMappings : 1},
                                   .warn = warn_on_stderr()});
  if (!recorder)
    return fail(recorder.error());
  std::cerr << "recording for " << options.duration << "; Ctrl-C ends it and writes the file\n";

  watch(**recorder, signals->get(), parsed->duration);

  auto recording = (*recorder)->finish();
  recording.program = PGMT_VERSION;
  const auto packed = pack(recording);
  if (auto written = file->commit(packed); !written)
    return fail(written.error());
  std::cerr << summary(recording, options.output, packed.size());
  return kFine;
}

} // namespace

void add_record_command(CLI::App &app, int &exit_status)
{
  auto options = std::make_shared<RecordOptions>();
  CLI::App *command =
      app.add_subcommand("record", "Record which code makes memory grow, for `report`");
  add_choice(*command, options->choice, "record");
  command
      ->add_option("--level", options->level,
                   "What is recorded. block: what contexts gain from malloc; alloc: every request "
                   "to them; malloc: all that processes take from the C library")
      ->capture_default_str();
  command->add_flag("--by-query", options->by_query,
                    "Keep which statement asked, for `report --by-query`: ids, and texts without "
                    "literals");
  command->add_option("--duration", options->duration, "End after this time, such as 1m")
      ->capture_default_str();
  command->add_option("-o,--output", options->output, "The file to write")->required();
  command
      ->add_option("--max-processes", options->max_processes,
                   "Processes that can be recorded at once")
      ->check(CLI::Range(16, 1 << 16))
      ->capture_default_str();
  command->callback([options, &exit_status] { exit_status = run_record(*options); });
}

} // namespace pgmemtrace
