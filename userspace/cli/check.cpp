// SPDX-License-Identifier: BSD-2-Clause
// check.cpp - `pgmemtrace check`: does a workload survive what a copy of its server does to it?
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>

#include "attach/servers.h"
#include "cli/commands.h"
#include "cli/watch.h"
#include "copy/check.h"
#include "copy/report.h"
#include "util/poll_set.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kLongestWorkload = 16 << 20;

struct CheckOptions {
  bool use_after_reset = false;
  bool wipe_freed = false;
  bool oom = false;
  pid_t pid = 0;
  std::string pgdata;
  std::string postgres_btf;
  std::string dsn;
  std::string sql, file;
  Workload workload;
  std::string copy_dir;
  std::string faults_library;
  unsigned run_limit = 60; // seconds
  int lifeline = -1;
  std::string format = "text";
};

Result<std::string> read_workload(const CheckOptions &options)
{
  if (options.sql.empty() == options.file.empty())
    return Error{"say what to run: either --sql or --file", 0, "--sql 'SELECT my_function()'"};
  if (!options.sql.empty())
    return options.sql;
  std::ifstream opened;
  if (options.file != "-")
    opened.open(options.file, std::ios::binary);
  std::istream &file = options.file == "-" ? std::cin : opened;
  if (!file)
    return Error{"open " + options.file, errno, {}};
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty() || text.size() > kLongestWorkload || text.find('\0') != std::string::npos)
    return Error{"run " + options.file, 0, "it should have statements, and 16 MiB at most"};
  return text;
}

Result<Server> choose_server(const CheckOptions &options, ServerList &servers)
{
  if (options.pid != 0)
    if (const auto *process = servers.find_process(options.pid))
      return servers.servers().at(process->identity.postmaster);
  if (servers.servers().size() == 1)
    return servers.servers().begin()->second;
  std::string found;
  for (const auto &[postmaster, server] : servers.servers())
    found += fmt::format("{}{} ({})", found.empty() ? "" : ", ", postmaster, server.data_directory);
  return Error{found.empty() ? "find a PostgreSQL server on this host"
                             : "choose a server: there are several",
               0, found.empty() ? "start it, or run as root" : "--pid one of " + found};
}

std::string default_directory(const Source &source)
{
  const char *ours = std::getenv("TMPDIR");
  return source.own_root || ours == nullptr || *ours == '\0' ? "/var/tmp" : ours;
}

Result<std::vector<CheckResult>> run_checks(const CheckOptions &options, const Server &server,
                                            int stop)
{
  auto source = find_source(server, options.dsn);
  if (!source)
    return source.error();
  Copy::Options how{.directory =
                        options.copy_dir.empty() ? default_directory(*source) : options.copy_dir,
                    .library = {},
                    .limits = {.run = std::chrono::seconds(options.run_limit), .stop = stop}};
  if (!options.faults_library.empty()) {
    how.library = UniqueFd(open(options.faults_library.c_str(), O_RDONLY | O_CLOEXEC));
    if (!how.library)
      return Error{"open " + options.faults_library, errno, {}};
  }
  if (auto became = become_owner(*source); !became)
    return became.error();
  if (auto asked = ask_source(*source, stop); !asked)
    return asked.error();
  std::cerr << fmt::format("copying {} of {} to {}\n", human_bytes(source->bytes),
                           server.data_directory, how.directory);
  auto copy = Copy::make(*source, std::move(how));
  if (!copy)
    return copy.error();

  ProcessIdentity whose;
  whose.postmaster = server.postmaster;
  whose.instance = server.instance;
  whose.major = server.binary->major;
  whose.backend_type = "client backend";
  whose.database = options.workload.database;
  whose.user = options.workload.user;
  std::vector<CheckResult> results;
  if (options.use_after_reset) {
    auto result = check_use_after_reset(**copy, whose, options.workload, options.wipe_freed);
    if (!result)
      return result.error();
    results.push_back(std::move(*result));
  }
  if (options.oom) {
    auto result = check_oom(**copy, whose, options.workload);
    if (!result)
      return result.error();
    results.push_back(std::move(*result));
  }
  return results;
}

int usage(const Error &error)
{
  (void)fail(error);
  return kUsage;
}

int run_check(CheckOptions options, std::ostream &out)
{
  if (!options.use_after_reset && !options.oom)
    return usage(Error{"say what to check", 0, "--use-after-reset, --oom, or both"});
  auto sql = read_workload(options);
  if (!sql)
    return usage(sql.error());
  options.workload.sql = std::move(*sql);
  if (auto dsn = parse_dsn(options.dsn); !dsn)
    return usage(dsn.error());
  if (options.pid != 0 && !options.pgdata.empty())
    return usage(Error{"--pid and --pgdata: say one of them", 0, {}});

  const auto signals = termination_signals();
  if (!signals)
    return fail(signals.error());
  Selection selection{.all = options.pid == 0 && options.pgdata.empty(),
                      .pids = {},
                      .data_directory = options.pgdata};
  if (options.pid != 0)
    selection.pids = {options.pid};
  auto servers = ServerList::find(
      {.selection = selection, .postgres_btf = options.postgres_btf, .proc = Proc()});
  if (!servers)
    return fail(servers.error());
  const auto server = choose_server(options, *servers);
  if (!server)
    return fail(server.error());
  PollSet stop;
  stop.add(signals->get());
  stop.add(options.lifeline);
  const auto results = run_checks(options, *server, stop.fd());
  if (!results)
    return fail(results.error().err == ECANCELED
                    ? Error{"check: interrupted; the copy was removed", 0, {}}
                    : results.error());

  out << (options.format == "json" ? json_of_checks(*results) + "\n" : print_checks(*results))
      << std::flush;
  if (!out)
    return fail(Error{.what = "write what was found to standard output", .err = EIO});
  if (std::ranges::any_of(*results, [](const auto &result) { return !result.violations.empty(); }))
    return kViolations;
  // A gate must not pass because of a name that was misspelt.
  const auto useless = std::ranges::find_if(*results, &CheckResult::never_succeeded);
  return useless == results->end()
             ? kFine
             : fail(Error{"check a workload that fails by itself: " + useless->first_error, 0, {}});
}

} // namespace

void add_check_command(CLI::App &app, int &exit_status)
{
  auto options = std::make_shared<CheckOptions>();
  CLI::App *command = app.add_subcommand(
      "check", "Run statements in a disposable copy of a server that wipes memory or fails to "
               "allocate it; exit status 1 if something was found");
  command->add_flag("--use-after-reset", options->use_after_reset,
                    "Memory contexts overwrite what they held when they are reset or deleted");
  command->add_flag("--wipe-freed", options->wipe_freed,
                    "... and chunks when they are freed one by one");
  command->add_flag("--oom", options->oom, "Each allocation fails once");
  command->add_option("--pid", options->pid, "The server: its postmaster, or any process of it")
      ->check(CLI::PositiveNumber);
  command->add_option("--pgdata", options->pgdata,
                      "The server of this data directory (default: the only one there is)");
  command
      ->add_option("--dsn", options->dsn,
                   "How to log in there, as a superuser: a connection string, whose rest is "
                   "taken from the server")
      ->envname("PGMEMTRACE_DSN");
  command->add_option("--database", options->workload.database, "Where the statements run");
  command->add_option("--user", options->workload.user, "As whom they run");
  command->add_option("--sql", options->sql, "The statements");
  command->add_option("--file", options->file, "A file of statements; -: standard input");
  command
      ->add_option("--iterations", options->workload.iterations,
                   "How often they run in a session, or, with --oom, with how many failures")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command
      ->add_option("--run-limit", options->run_limit,
                   "Seconds until a run is cancelled, which is a finding")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  command->add_option(
      "--copy-dir", options->copy_dir,
      "Where the copy is made, as the server sees it (default: TMPDIR or /var/tmp)");
  command->add_option("--faults-library", options->faults_library,
                      "pgmemtrace_faults.so, if it is not installed with the server's libraries");
  command->add_option("--postgres-btf", options->postgres_btf,
                      "BTF of the server's own build (made by pahole), for builds that differ");
  // The daemon's: when the other end of this pipe is closed, nobody waits any more.
  command->add_option("--lifeline", options->lifeline)->group("");
  command->add_option("--format", options->format, "What goes to stdout")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  command->callback([options, &exit_status] { exit_status = run_check(*options, std::cout); });
}

} // namespace pgmemtrace
