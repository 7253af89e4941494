// SPDX-License-Identifier: BSD-2-Clause
// servers.cpp - ServerList: who is there, remembered from one look to the next.
#include "attach/servers.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <system_error>

#include <sys/stat.h>

#include "attach/identify.h"

namespace pgmemtrace {

namespace {

// Executables that are not PostgreSQL, remembered; a host has some hundred.
constexpr std::size_t kMaxVerdicts = 4096;

// A new backend knows who it is within milliseconds, one that waits for its client's start-up
// packet after at most authentication_timeout (60 s).  Once per refresh().
constexpr int kIdentityTries = 100;

std::string numbered(const char *what, pid_t pid) { return what + std::to_string(pid); }

Error no_permission(const std::string &what, int err)
{
  return Error{what, err, "run as root, or grant CAP_SYS_PTRACE"};
}

} // namespace

Result<Selection> parse_selection(const std::string &text)
{
  if (text == "all")
    return Selection{.all = true, .pids = {}, .data_directory = {}};
  Selection selection;
  const Error wrong{"--pid " + text + ": not a list of process numbers", 0,
                    "give --pid all, or --pid PID[,PID...]"};
  for (std::size_t at = 0; at <= text.size();) {
    const auto word = std::string_view(text).substr(at, text.find(',', at) - at);
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), pid);
    if (error != std::errc{} || end != word.data() + word.size() || pid <= 0)
      return wrong;
    if (std::find(selection.pids.begin(), selection.pids.end(), pid) == selection.pids.end())
      selection.pids.push_back(pid);
    at += word.size() + 1;
  }
  return selection;
}

// ---- finding ----------------------------------------------------------------

Result<ServerList> ServerList::find(Options options)
{
  ServerList list(std::move(options));
  const auto pids = list.options_.selection.pids;
  for (const pid_t pid : pids)
    if (auto selected = list.select_pid(pid); !selected)
      return selected.error();
  Changes changes;
  list.discover(changes);
  if (!list.options_.selection.data_directory.empty())
    if (auto selected = list.select_data_directory(); !selected)
      return changes.refused.empty() ? selected.error() : changes.refused.front();
  list.unreported_ = std::move(changes.refused);
  return list;
}

Result<> ServerList::select_pid(pid_t pid)
{
  const Proc &proc = options_.proc;
  const std::string watch = numbered("watch process ", pid);
  const std::string hint = "give the number of a postmaster or of one of its processes";
  const auto stat = proc.stat(pid);
  if (!stat)
    return Error{watch, ESRCH, hint};
  const auto file = proc.executable(pid);
  if (!file && file.error().err != ENOENT)
    return no_permission(watch + ": " + file.error().what, file.error().err);
  if (!file)
    return Error{watch + ": it has no executable, it is the kernel's or ending", 0, hint};

  const Verdict verdict = judge(pid, *file);
  if (verdict.refused)
    return *verdict.refused;
  if (verdict.binary == nullptr)
    return Error{watch + ": its executable " + proc.exe(pid).value_or("(unknown)") +
                     " is not PostgreSQL",
                 0, hint};
  auto server = add_server(pid, *verdict.binary);
  if (!server)
    return server.error();
  if (*server == nullptr) {
    server = add_server(stat->ppid, *verdict.binary);
    if (!server)
      return server.error();
  }
  if (*server == nullptr)
    return Error{watch + ": it is PostgreSQL but belongs to no running server", 0, hint};
  add_process(**server, {pid, stat->start});
  return Ok{};
}

Result<> ServerList::select_data_directory()
{
  for (const auto &[pid, server] : servers_)
    if (whole(pid))
      return Ok{};
  return Error{
      "watch the server of " + options_.selection.data_directory + ": no PostgreSQL runs on it", 0,
      "give the data directory of a running server" +
          (forbidden_ == 0 ? std::string()
                           : "; " + std::to_string(forbidden_) +
                                 " processes are hidden from us: run as root, or grant "
                                 "CAP_SYS_PTRACE")};
}

bool ServerList::whole(pid_t postmaster) const
{
  const Selection &selection = options_.selection;
  const auto &pids = selection.pids;
  if (selection.all || std::find(pids.begin(), pids.end(), postmaster) != pids.end())
    return true;
  if (selection.data_directory.empty())
    return false;
  if (options_.proc.cwd(postmaster) == selection.data_directory)
    return true; // also in a container, where this directory does not exist here
  struct stat here {};
  struct stat there {};
  return stat(selection.data_directory.c_str(), &here) == 0 &&
         stat(options_.proc.path(postmaster, "cwd").c_str(), &there) == 0 &&
         here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

ServerList::Verdict ServerList::judge(pid_t pid, const Proc::File &file)
{
  if (const auto known = verdicts_.find(file); known != verdicts_.end())
    return known->second;
  if (verdicts_.size() >= kMaxVerdicts)
    std::erase_if(verdicts_, [](const auto &entry) { return entry.second.binary == nullptr; });

  Verdict verdict;
  auto binary = open_binary(options_.proc, pid, file, options_.postgres_btf);
  if (!binary && binary.error().err == ESRCH)
    return {nullptr, binary.error()}; // of this process, not of the file
  if (!binary)
    verdict.refused = binary.error();
  else if (*binary) {
    verdict.binary = binary->get();
    binaries_.push_back(std::move(*binary));
  }
  return verdicts_.emplace(file, std::move(verdict)).first->second;
}

// nullptr: the process is not a postmaster.
Result<Server *> ServerList::add_server(pid_t pid, Binary &binary)
{
  if (const auto known = servers_.find(pid); known != servers_.end())
    return &known->second;
  auto found = read_server(options_.proc, pid, binary);
  if (!found)
    return found.error();
  if (!*found)
    return static_cast<Server *>(nullptr);
  Server &server = **found;
  server.instance = labels_.assign(name_of(options_.proc, server));
  return &servers_.emplace(pid, std::move(server)).first->second;
}

void ServerList::add_process(const Server &server, ProcessId id)
{
  ServerProcess process;
  process.identity.id = id;
  process.identity.server_pid = options_.proc.namespace_pid(id.pid).value_or(id.pid);
  process.identity.postmaster = server.postmaster;
  process.identity.instance = server.instance;
  process.identity.major = server.binary->major;
  process.load_bias = server.load_bias;
  process.binary = server.binary;
  ForeignMemory memory(id.pid);
  if (!read_identity(memory, process))
    incomplete_[id] = kIdentityTries;
  processes_.insert_or_assign(id, std::move(process));
}

// ---- looking again ------------------------------------------------------------

ServerList::Changes ServerList::refresh()
{
  Changes changes;
  changes.refused = std::exchange(unreported_, {});
  forget_the_dead(changes);
  complete_identities();
  discover(changes);
  drop_binaries(changes);
  return changes;
}

void ServerList::forget_the_dead(Changes &changes)
{
  const auto alive = [&](ProcessId id) {
    const auto stat = options_.proc.stat(id.pid);
    return stat && stat->start == id.start && stat->state != 'Z' && stat->state != 'X'
               ? stat
               : std::nullopt;
  };
  for (auto it = processes_.begin(); it != processes_.end();) {
    const ProcessId id = it->first;
    if (const auto stat = alive(id)) {
      it->second.cpu_ticks = stat->cpu_ticks;
      ++it;
      continue;
    }
    changes.vanished.push_back(id);
    incomplete_.erase(id);
    // The number may be given to another process, which nobody asked for.
    std::erase(options_.selection.pids, id.pid);
    it = processes_.erase(it);
  }
  for (auto it = servers_.begin(); it != servers_.end();) {
    const ProcessId id{it->first, it->second.start};
    if (processes_.contains(id) || alive(id)) {
      ++it;
      continue;
    }
    changes.servers_vanished.push_back(id.pid);
    labels_.release(id.pid);
    it = servers_.erase(it);
  }
  std::erase_if(refused_, [&](const ProcessId &id) { return !alive(id); });
}

// One round's grace: whoever holds a pointer learns of it from `changes` first.
void ServerList::drop_binaries(Changes &changes)
{
  std::map<const Binary *, pid_t> users; // a postmaster where there is one: it lives longest
  for (const auto &[pid, server] : servers_)
    users.emplace(server.binary, pid);
  for (const auto &[id, process] : processes_)
    users.emplace(process.binary, id.pid);

  std::set<const Binary *> unused;
  std::erase_if(binaries_, [&](const std::unique_ptr<Binary> &binary) {
    if (const auto user = users.find(binary.get()); user != users.end()) {
      binary->open_path = options_.proc.path(user->second, "exe").string();
      return false;
    }
    if (unused_.contains(binary.get())) {
      std::erase_if(verdicts_,
                    [&](const auto &entry) { return entry.second.binary == binary.get(); });
      return true;
    }
    unused.insert(binary.get());
    changes.binaries_unused.push_back(binary.get());
    return false;
  });
  unused_ = std::move(unused);
}

bool ServerList::is_known(pid_t pid) const { return find_process(pid) != nullptr; }

// All processes of the host, or, where a few servers are wanted and the kernel says it, their
// children.
std::vector<pid_t> ServerList::candidates() const
{
  if (options_.selection.all || !options_.selection.data_directory.empty())
    return options_.proc.pids();
  std::vector<pid_t> found;
  for (const auto &[pid, server] : servers_) {
    if (!whole(pid))
      continue;
    const auto children = options_.proc.children(pid);
    if (!children)
      return options_.proc.pids();
    found.insert(found.end(), children->begin(), children->end());
  }
  return found;
}

std::vector<ServerList::Newcomer> ServerList::newcomers(Changes &changes)
{
  std::vector<Newcomer> found;
  forbidden_ = 0;
  for (const pid_t pid : candidates()) {
    if (is_known(pid))
      continue;
    // Each time: a shell that becomes a postmaster by exec keeps pid and start time.
    const auto file = options_.proc.executable(pid);
    if (!file) {
      forbidden_ += file.error().err == EACCES || file.error().err == EPERM ? 1 : 0;
      continue;
    }
    const bool known_file = verdicts_.contains(*file);
    const Verdict verdict = judge(pid, *file);
    if (verdict.refused && verdict.refused->err != ESRCH && !known_file)
      changes.refused.push_back(*verdict.refused);
    if (verdict.binary == nullptr)
      continue;
    if (const auto stat = options_.proc.stat(pid); stat && stat->state != 'Z')
      found.push_back({{pid, stat->start}, stat->ppid, verdict.binary});
  }
  return found;
}

void ServerList::discover(Changes &changes)
{
  const auto found = newcomers(changes);
  // Postmasters first, so that their children find them.
  for (const auto &[id, parent, binary] : found) {
    if (servers_.contains(parent) || servers_.contains(id.pid) || refused_.contains(id) ||
        !whole(id.pid))
      continue;
    if (options_.selection.all &&
        options_.proc.cmdline(id.pid).value_or("").find(kDisposableCopy) != std::string::npos) {
      refused_.insert(id);
      continue;
    }
    const auto server = add_server(id.pid, *binary);
    if (!server && !options_.proc.stat(id.pid))
      continue; // it ended while we looked
    if (!server) {
      refused_.insert(id);
      changes.refused.push_back(server.error());
    } else if (*server != nullptr)
      changes.servers_appeared.push_back(id.pid);
  }
  for (const auto &[id, parent, binary] : found) {
    auto server = servers_.find(id.pid);
    if (server == servers_.end())
      server = servers_.find(parent);
    if (server == servers_.end() || server->second.binary != binary || !whole(server->first))
      continue;
    add_process(server->second, id);
    changes.appeared.push_back(id);
  }
  report_forbidden(changes);
}

// Without the right to look, "there is no server" would be a guess.
void ServerList::report_forbidden(Changes &changes)
{
  if (!options_.selection.all || forbidden_ == 0 || !servers_.empty() ||
      std::exchange(forbidden_reported_, true))
    return;
  changes.refused.push_back(no_permission("look for servers: the executables of " +
                                              std::to_string(forbidden_) +
                                              " processes are hidden from us",
                                          EACCES));
}

void ServerList::complete_identities()
{
  for (auto it = incomplete_.begin(); it != incomplete_.end();) {
    const auto process = processes_.find(it->first);
    ForeignMemory memory(it->first.pid);
    const bool done =
        process == processes_.end() || read_identity(memory, process->second) || --it->second == 0;
    it = done ? incomplete_.erase(it) : std::next(it);
  }
}

// ---- asking -------------------------------------------------------------------

ProcessId ServerList::postmaster(pid_t pid) const
{
  const auto server = servers_.find(pid);
  return server == servers_.end() ? ProcessId{} : ProcessId{pid, server->second.start};
}

ServerList::Changes ServerList::everybody() const
{
  Changes changes;
  for (const auto &[id, process] : processes_)
    changes.appeared.push_back(id);
  for (const auto &[pid, server] : servers_)
    changes.servers_appeared.push_back(pid);
  return changes;
}

const ServerProcess *ServerList::find_process(pid_t pid) const
{
  const auto found = processes_.lower_bound(ProcessId{pid, 0});
  return found == processes_.end() || found->first.pid != pid ? nullptr : &found->second;
}

} // namespace pgmemtrace
