// SPDX-License-Identifier: BSD-2-Clause
// choice.h - which processes a command is about, and how long: options that several share.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

#include "attach/servers.h"
#include "util/result.h"

namespace pgmemtrace {

struct Choice {
  std::string pid;    // all, or PID[,PID...]
  std::string pgdata; // a data directory
  std::string postgres_btf;
};

// --pid, --pgdata and --postgres-btf.  `verb`: what is done with them, for the help.
void add_choice(CLI::App &app, Choice &choice, const std::string &verb);

// Error (of usage): neither --pid nor --pgdata, both, or no list of pids.
Result<Selection> selection_of(const Choice &choice);

// A process, in the list that it was found in.
struct ChosenProcess {
  ServerList servers;
  const ServerProcess *process; // never null
};

// Error: no such process, or it is not PostgreSQL's.
Result<ChosenProcess> find_process(pid_t pid, const std::string &postgres_btf);

// `option` is how the user writes it: --duration.  Error (of usage): no duration of at least
// `least`.
Result<std::chrono::nanoseconds>
duration_of(std::string_view option, std::string_view text,
            std::chrono::nanoseconds least = std::chrono::nanoseconds(1));

} // namespace pgmemtrace
