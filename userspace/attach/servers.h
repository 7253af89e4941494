// SPDX-License-Identifier: BSD-2-Clause
// servers.h - every PostgreSQL on the host: binaries, postmasters, their processes.
//
// A postmaster is a process whose executable is PostgreSQL (it exports TopMemoryContext
// and PostmasterMain, and carries a version string) and whose working directory is a data
// directory with a postmaster.pid that names it.  Its processes are its children that run
// the same file.  Names of files and processes alone decide nothing.
//
//   binary (device, inode, build-id) --1:n-- server (postmaster) --1:n-- process
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attach/dsm_variables.h"
#include "attach/elf_file.h"
#include "attach/instance_labels.h"
#include "attach/layout.h"
#include "attach/proc.h"
#include "snapshot/snapshot.h"
#include "util/result.h"

namespace pgmemtrace {

// One PostgreSQL executable.  Addresses are link-time; 0 where the build has no such symbol.
struct Binary {
  std::uint64_t device = 0, inode = 0;
  std::string build_id;
  std::string path;      // as the first process sees it: /usr/lib/postgresql/15/bin/postgres
  std::string open_path; // what to open: /proc/PID/exe of a process that lives
  std::string version;   // "15.20 (Debian 15.20-0+deb12u1)"
  int major = 0;
  Layout layout;
  std::shared_ptr<const ElfFile> elf;

  struct Globals {
    std::uint64_t top_memory_context, cache_memory_context, error_context, top_transaction_context,
        my_proc_pid, my_backend_type, my_be_entry, my_proc_port, cluster_name, work_mem,
        hash_mem_multiplier, parallel_worker_number, my_bgworker_entry, message_context,
        current_memory_context, portal_context, debug_query_string;
    // Those that tell a send that ends a round trip from others: bpf/answer.bpf.h.
    bool tell_answers() const
    {
      return my_proc_port && message_context && current_memory_context && debug_query_string;
    }
    // Those that lead to what a statement holds while it runs: bpf/sample.bpf.h.
    bool tell_statements() const
    {
      return top_transaction_context && portal_context && message_context;
    }
  } globals{};
  Result<DsmVariables> dsm_variables = Error{"look for dynamic shared memory", 0, {}};
};

struct ServerProcess {
  ProcessIdentity identity;
  std::uint64_t load_bias = 0;
  const Binary *binary = nullptr; // owned by the ServerList
  std::uint64_t cpu_ticks = 0;    // as of the last refresh() that knew it before; Proc::Stat
};

struct Server {
  pid_t postmaster = 0;
  std::uint64_t start = 0;
  std::string instance;       // its label: instance_labels.h
  std::string data_directory; // as the server sees it
  int port = 0;
  std::uint64_t load_bias = 0; // of all its processes: they are forked, not executed
  const Binary *binary = nullptr;
};

// What the user asked for.
struct Selection {
  bool all = false;
  std::vector<pid_t> pids;    // a postmaster's pid selects its whole server
  std::string data_directory; // --pgdata: the server of this directory
};

// The cluster_name, as an argument, of what `pgmemtrace check` makes and breaks: no server of
// anybody, and left out by `all`.
inline constexpr std::string_view kDisposableCopy = "cluster_name=pgmemtrace copy";

// Parses "all" or "PID[,PID...]".
Result<Selection> parse_selection(const std::string &text);

class ServerList {
public:
  struct Options {
    Selection selection;
    std::string postgres_btf; // --postgres-btf
    Proc proc;
  };
  struct Changes {
    std::vector<ProcessId> appeared, vanished;
    std::vector<pid_t> servers_appeared, servers_vanished;
    std::vector<Error> refused; // servers or processes that we cannot read, each once
    // No process uses these any more.  They are gone after the next refresh().
    std::vector<const Binary *> binaries_unused;
  };

  // Finds everything that the selection names.  Errors are final: no such pid, a pid that is
  // not PostgreSQL, an unknown major, a layout that does not hold, memory that cannot be read.
  // With `all`, a server that is refused goes to Changes::refused of the first refresh(), and
  // finding none at all is an error only for callers that need one.
  static Result<ServerList> find(Options options);

  // Looks again: new processes and servers, dead ones, and who those are that had not said so
  // yet.  Costs one /proc/PID/stat per known process and one stat of /proc/PID/exe per unknown
  // one: 1.1 ms of CPU for 213 server processes among 312 on the host (PostgreSQL 15, `all`, the
  // mean of 200 calls).
  Changes refresh();

  const std::map<pid_t, Server> &servers() const { return servers_; }
  const std::map<ProcessId, ServerProcess> &processes() const { return processes_; }
  const std::vector<std::unique_ptr<Binary>> &binaries() const { return binaries_; }
  const ServerProcess *find_process(pid_t pid) const;
  ProcessId postmaster(pid_t pid) const; // pid 0: not one that is known
  Changes everybody() const;             // as if all of them had just appeared
  bool whole(pid_t postmaster) const;    // did the user ask for all processes of this server?

private:
  // What an executable turned out to be; neither: not PostgreSQL.
  struct Verdict {
    Binary *binary = nullptr;
    std::optional<Error> refused;
  };
  // A process that runs PostgreSQL and is not in processes_.
  struct Newcomer {
    ProcessId id;
    pid_t parent;
    Binary *binary;
  };

  explicit ServerList(Options options) : options_(std::move(options)) {}

  Result<> select_pid(pid_t pid);
  Result<> select_data_directory();
  bool is_known(pid_t pid) const;

  Verdict judge(pid_t pid, const Proc::File &file);
  Result<Server *> add_server(pid_t pid, Binary &binary);
  void add_process(const Server &server, ProcessId id);

  void forget_the_dead(Changes &changes);
  void drop_binaries(Changes &changes);
  std::vector<pid_t> candidates() const;
  std::vector<Newcomer> newcomers(Changes &changes);
  void discover(Changes &changes);
  void report_forbidden(Changes &changes);
  void complete_identities();

  Options options_;
  InstanceLabels labels_;
  std::map<pid_t, Server> servers_;
  std::map<ProcessId, ServerProcess> processes_;
  std::vector<std::unique_ptr<Binary>> binaries_;

  std::map<Proc::File, Verdict> verdicts_;
  std::map<ProcessId, int> incomplete_; // processes not fully identified: tries left
  std::set<ProcessId> refused_;         // postmasters
  std::set<const Binary *> unused_;     // since the last refresh()
  std::size_t forbidden_ = 0;           // processes that discover() was not allowed to look at
  bool forbidden_reported_ = false;
  std::vector<Error> unreported_; // refused while find() ran
};

// TopMemoryContext has an AllocSet's tag, no parent and the name "TopMemoryContext": what
// must hold before anything else of a process is believed.
Result<> check_layout(pid_t pid, const Binary &binary, std::uint64_t load_bias,
                      const Proc &proc = Proc());

} // namespace pgmemtrace
