// SPDX-License-Identifier: BSD-2-Clause
#include "cli/choice.h"

#include <cerrno>
#include <utility>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "cli/units.h"

namespace pgmemtrace {

void add_choice(CLI::App &app, Choice &choice, const std::string &verb)
{
  app.add_option("--pid", choice.pid,
                 "Processes to " + verb +
                     ": all, or PID[,PID...]; a postmaster's pid means its whole server");
  app.add_option("--pgdata", choice.pgdata, "The server of this data directory is what to " + verb);
  app.add_option("--postgres-btf", choice.postgres_btf,
                 "BTF of the server's own build (made by pahole), for builds that differ");
}

Result<Selection> selection_of(const Choice &choice)
{
  if (choice.pid.empty() == choice.pgdata.empty())
    return Error{"say which processes: either --pid or --pgdata", 0,
                 "--pid all means every PostgreSQL on this host"};
  if (!choice.pid.empty())
    return parse_selection(choice.pid);
  Selection selection;
  selection.data_directory = choice.pgdata;
  return selection;
}

Result<ChosenProcess> find_process(pid_t pid, const std::string &postgres_btf)
{
  auto servers = ServerList::find(
      {.selection = {.pids = {pid}}, .postgres_btf = postgres_btf, .proc = Proc()});
  if (!servers)
    return servers.error();
  const ServerProcess *process = servers->find_process(pid);
  if (process == nullptr)
    return Error{.what = fmt::format("find process {}", pid), .err = ESRCH};
  return ChosenProcess{.servers = std::move(*servers), .process = process};
}

Result<std::chrono::nanoseconds> duration_of(std::string_view option, std::string_view text,
                                             std::chrono::nanoseconds least)
{
  const auto duration = parse_duration(text);
  if (duration && *duration >= least)
    return *duration;
  const auto whole = std::chrono::duration_cast<std::chrono::milliseconds>(least);
  return Error{fmt::format("{} {}: not a duration{}", option, text,
                           whole.count() ? fmt::format(" of at least {}", whole) : ""),
               0, "a number with ms, s, m or h, such as 10s"};
}

} // namespace pgmemtrace
