// SPDX-License-Identifier: BSD-2-Clause
// run.cpp - `pgmemtrace [run]`: watch, judge, tell.
#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

#include <fmt/format.h>

#include "attach/calibrate.h"
#include "attach/kernel_features.h"
#include "attach/kernel_maps.h"
#include "attach/servers.h"
#include "cli/choice.h"
#include "cli/commands.h"
#include "cli/privileges.h"
#include "cli/units.h"
#include "cli/watch.h"
#include "extension/log_sink.h"
#include "pipeline.h"
#include "rules/rule_set.h"
#include "sinks/console.h"
#include "sinks/json_lines.h"
#include "sinks/prometheus.h"
#include "version.h"

namespace pgmemtrace {

namespace {

struct RunOptions {
  Choice choice;
  std::string level = "statement";
  std::string interval = "10s";
  std::string max_overhead = "5%";
  std::string level_for = "10m";
  bool escalate = false;
  std::string duration;
  std::string listen = "127.0.0.1:9752";
  std::string format = "text";
  bool redact = false;
  std::string direct_reads = "on";
  std::string dsn;
  std::string copy_dir;
  std::vector<std::string> disabled_rules;
  std::vector<std::string> allowed_contexts;
  KernelMaps::Options maps;
  std::size_t max_series = 10'000;
};

// What the strings above mean; a usage error names the option.
struct Parsed {
  Selection selection;
  Level level = Level::statement;
  std::chrono::nanoseconds interval{};
  std::chrono::nanoseconds duration{}; // 0: until a signal
  double budget = 0;
  std::chrono::nanoseconds level_for{};
  RuleOptions rules;
};

Result<Parsed> parse(const RunOptions &options)
{
  Parsed parsed;
  auto selection = selection_of(options.choice);
  if (!selection)
    return selection.error();
  parsed.selection = std::move(*selection);
  const auto level = level_from_string(options.level);
  if (!level)
    return Error{fmt::format("--level {}: no such level", options.level), 0,
                 "sweep, request, statement, block or alloc"};
  if (options.escalate && *level == Level::sweep)
    return Error{"--escalate: level sweep has no probes to add to", 0,
                 "--level request or statement"};
  parsed.level = *level;
  const auto interval = duration_of("--interval", options.interval, std::chrono::milliseconds(100));
  if (!interval)
    return interval.error();
  parsed.interval = *interval;
  const auto level_for = duration_of("--level-for", options.level_for);
  if (!level_for)
    return level_for.error();
  parsed.level_for = *level_for;
  if (!options.duration.empty()) {
    const auto duration = duration_of("--duration", options.duration);
    if (!duration)
      return duration.error();
    parsed.duration = *duration;
  }
  auto budget = parse_ratio(options.max_overhead);
  if (!budget)
    return Error{
        fmt::format("--max-overhead {}: neither a percentage nor off", options.max_overhead), 0,
        "such as 5%, 0.05 or off"};
  parsed.budget = *budget;
  if (options.dsn != "off")
    if (auto dsn = parse_dsn(options.dsn); !dsn)
      return dsn.error();
  parsed.rules.disabled = options.disabled_rules;
  parsed.rules.allowed_contexts = options.allowed_contexts;
  if (auto checked = check(parsed.rules); !checked)
    return checked.error();
  return parsed;
}

Result<std::vector<std::unique_ptr<Sink>>> make_sinks(const RunOptions &options,
                                                      const Parsed &parsed)
{
  std::vector<std::unique_ptr<Sink>> sinks;
  if (options.format == "json")
    sinks.push_back(std::make_unique<JsonSink>(
        std::cout, JsonOptions{.redact = options.redact, .status_interval = parsed.interval}));
  else
    sinks.push_back(std::make_unique<ConsoleSink>(
        std::cout, ConsoleOptions{.color = isatty(STDOUT_FILENO) == 1,
                                  .redact = options.redact,
                                  .status_interval = parsed.interval}));
  if (options.listen != "off") {
    MetricsOptions metrics;
    metrics.version = PGMT_VERSION;
    metrics.max_series = options.max_series;
    for (auto rule : rule_names())
      metrics.rules.emplace_back(rule);
    auto prometheus = PrometheusSink::create(options.listen, metrics);
    if (!prometheus)
      return prometheus.error();
    fmt::print(stderr, "metrics on {}\n", (*prometheus)->url());
    sinks.push_back(std::move(*prometheus));
  }
  return sinks;
}

int run(const RunOptions &options)
{
  auto parsed = parse(options);
  if (!parsed) {
    (void)fail(parsed.error());
    return kUsage;
  }
  silence_libbpf();
  auto signals = termination_signals();
  if (!signals)
    return fail(signals.error());
  const auto features = detect_kernel_features();
  if (const auto lacking = missing(features); !lacking.empty() && parsed->level != Level::sweep)
    return fail(lacking.front());
  auto servers = ServerList::find({.selection = parsed->selection,
                                   .postgres_btf = options.choice.postgres_btf,
                                   .proc = Proc()});
  if (!servers)
    return fail(servers.error());
  auto sinks = make_sinks(options, *parsed);
  if (!sinks)
    return fail(sinks.error());
  Calibration calibration;
  if (parsed->level != Level::sweep) {
    auto measured = calibrate();
    if (!measured)
      return fail(measured.error());
    calibration = *measured;
  }

  const auto warn = warn_on_stderr();
  std::shared_ptr<Extension> extension;
  if (options.dsn != "off") {
    extension =
        std::make_shared<Extension>(Extension::Options{.dsn = options.dsn,
                                                       .copy_directory = options.copy_dir,
                                                       .probes = parsed->level != Level::sweep,
                                                       .uprobe_multi = features.uprobe_multi,
                                                       .redact = options.redact,
                                                       .limits = parsed->rules.limits,
                                                       .warn = warn});
    sinks->push_back(std::make_unique<LogSink>(*extension));
  }
  auto pipeline = Pipeline::create(
      std::move(*servers), RuleSet(parsed->rules), std::move(*sinks),
      Pipeline::Options{
          .attachments = {.level = parsed->level,
                          .selection = parsed->selection,
                          .uprobe_multi = features.uprobe_multi,
                          .postgres_btf = options.choice.postgres_btf,
                          .governor = {.budget = parsed->budget, .exempt_for = parsed->level_for}},
          .maps = options.maps,
          .schedule = {.interval = parsed->interval},
          .sweep_limits = {},
          .direct_reads = options.direct_reads == "on",
          .calibration = calibration,
          .escalation = {.on = options.escalate},
          .extension = extension,
          .warn = warn});
  if (!pipeline)
    return fail(pipeline.error());
  // Attaching to servers to come needs what attaching to these needed; nothing else is kept.
  if (auto dropped = drop_privileges(features.uprobe_multi); !dropped)
    warn(dropped.error());

  watch(**pipeline, signals->get(), parsed->duration);
  return kFine;
}

void add_options(CLI::App &app, RunOptions &options)
{
  add_choice(app, options.choice, "watch");
  app.add_option("--level", options.level,
                 "What is probed: sweep, request, statement, block or alloc")
      ->capture_default_str();
  app.add_option("--interval", options.interval, "How often every process is swept")
      ->capture_default_str();
  app.add_option("--max-overhead", options.max_overhead,
                 "Fall back to a lower level above this share of the server's CPU time, or off")
      ->capture_default_str();
  app.add_option("--level-for", options.level_for,
                 "How long level block or alloc is kept, whatever it costs, before a cheaper one")
      ->capture_default_str();
  app.add_flag("--escalate", options.escalate,
               "Give processes that are reported level block for a minute, to name the code");
  app.add_option("--direct-reads", options.direct_reads,
                 "Sweep through page tables where this machine allows it: cheaper, and without a "
                 "lock in the process that is read; or off")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app.add_option("--duration", options.duration, "End after this time, such as 1m");
  app.add_option("--listen", options.listen,
                 "Address of the metrics, HOST:PORT (port 0: any free one), or off")
      ->capture_default_str();
  app.add_option("--format", options.format, "What goes to stdout")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.add_option("--dsn", options.dsn,
                 "How to reach servers that have the extension: a connection string, whose rest is "
                 "taken from the server; or off");
  app.add_option("--copy-dir", options.copy_dir,
                 "Where disposable copies are made that the extension asks for, see `check`");
  app.add_option("--disable-rule", options.disabled_rules, "Rules that stay silent");
  app.add_option("--allow-context", options.allowed_contexts,
                 "Contexts that may grow: LIKE patterns on their names");
  app.add_flag("--redact", options.redact, "Show queries without their literals");
  app.add_option("--max-processes", options.maps.processes, "Processes that can be watched at once")
      ->check(CLI::Range(16, 1 << 16))
      ->capture_default_str();
  // Not in --help: too small on purpose is how tests see what happens then.
  app.add_option("--max-contexts", options.maps.contexts)->group("");
  app.add_option("--ring-bytes", options.maps.ring_bytes)->group("");
  app.add_option("--max-series", options.max_series, "Metric series at most")
      ->capture_default_str();
}

} // namespace

void add_run_command(CLI::App &app, int &exit_status)
{
  auto options = std::make_shared<RunOptions>();
  auto *command = app.add_subcommand("run", "Watch servers and report what grows (the default)");
  add_options(app, *options);
  add_options(*command, *options);
  app.set_config("--config", "", "Read options from this file, one `name = value` a line");
  command->fallthrough(); // --config is known to the parent
  app.final_callback([&app, options, &exit_status, command] {
    if (app.get_subcommands().empty() || command->parsed())
      exit_status = run(*options);
  });
}

} // namespace pgmemtrace
