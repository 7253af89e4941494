// SPDX-License-Identifier: BSD-2-Clause
#include "extension/extension.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/eventfd.h>

#include "extension/log_entry.h"
#include "sinks/json_lines.h"
#include "snapshot/tree_print.h"
#include "util/foreign_memory.h"

namespace pgmemtrace {

namespace {

// Ids of requests that are remembered per server: with two containers of one image, or after
// requests(), the same one comes twice.
constexpr std::size_t kHeard = 4096;

constexpr const char *kNoDsm =
    "the server's dynamic shared memory cannot be read, so the window does not judge it";

std::string json_array(std::span<const Violation> violations, bool redacted)
{
  std::string out = "[";
  for (const Violation &violation : violations)
    out += (out.size() > 1 ? "," : "") + json_of(violation, redacted);
  return out + "]";
}

// An answer of these members, and of what its session is to be warned of.
std::string json_object(std::string members, const std::string &warning)
{
  if (!warning.empty())
    members += fmt::format(R"({}"warning":{})", members.empty() ? "" : ",",
                           nlohmann::json(warning).dump());
  return "{" + members + "}";
}

// By the number that the server gives it; nullptr: it is not in the list.
const ServerProcess *process_of(const ServerList &servers, pid_t postmaster, pid_t server_pid)
{
  const auto found = std::ranges::find_if(servers.processes(), [&](const auto &entry) {
    const auto &identity = entry.second.identity;
    return identity.postmaster == postmaster && identity.server_pid == server_pid;
  });
  return found == servers.processes().end() ? nullptr : &found->second;
}

} // namespace

Extension::Extension(Options options)
    : options_(std::move(options)), news_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      checks_({.dsn = options_.dsn, .directory = options_.copy_directory})
{
  events_.add(news_.get());
  events_.add(checks_.poll_fd());
}

Extension::~Extension()
{
  for (auto &[postmaster, served] : served_)
    if (served.courier)
      served.courier->stop(); // all at once, before the first is waited for
}

// ---- servers -----------------------------------------------------------------

void Extension::follow(const ServerList &servers, const ServerList::Changes &changes)
{
  std::erase_if(retired_, [](const auto &courier) { return courier->ended(); });
  for (const auto &gone : changes.vanished) {
    windows_.forget(gone);
    checks_.forget(gone);
  }
  for (auto it = served_.begin(); it != served_.end();) {
    const auto server = servers.servers().find(it->first);
    const bool runs = server != servers.servers().end() && server->second.start == it->second.start;
    if (!runs) {
      retire(it->second);
      checks_.forget(it->first);
    }
    it = runs ? std::next(it) : served_.erase(it);
  }
  drop_unused_links();

  std::set<pid_t> parents; // what a postmaster preloads is loaded before its first child
  for (const auto &[id, process] : servers.processes())
    if (process.identity.postmaster != id.pid)
      parents.insert(process.identity.postmaster);
  for (const auto &[postmaster, server] : servers.servers()) {
    auto &served = served_.try_emplace(postmaster, Served{.start = server.start}).first->second;
    if (!served.settled && parents.contains(postmaster))
      follow(server, served);
  }
}

void Extension::follow(const Server &server, Served &served)
{
  served.settled = true;
  const Proc proc;
  auto library = find_extension(proc, server.postmaster);
  if (!library)
    return options_.warn(library.error());
  if (!*library)
    return;
  auto login = find_login(proc, server.postmaster, options_.dsn);
  if (!login)
    return options_.warn(login.error());
  served.library = (*library)->file.identity();
  if (!options_.probes)
    options_.warn(
        Error{fmt::format("{}: test windows and contexts() of its extension are not served",
                          server.instance),
              0, "level sweep has no probes, so nobody is heard: --level request or higher"});
  else if (auto attached = attach(**library); !attached)
    options_.warn(attached.error());
  served.courier = std::make_unique<Courier>(std::move(*login), server.instance, news_.get());
  served.courier->ask(); // who waits for a daemon that was here before
}

Result<> Extension::attach(const ExtensionLibrary &library)
{
  if (refused_ || links_.contains(library.file.identity()))
    return Ok{};
  if (!marker_) {
    auto loaded = Marker::load(options_.uprobe_multi);
    refused_ = !loaded;
    if (!loaded)
      return loaded.error();
    marker_ = std::move(*loaded);
    events_.add(marker_->poll_fd());
  }
  auto link = marker_->attach(library);
  if (!link)
    return link.error();
  links_.emplace(library.file.identity(), std::move(*link));
  return Ok{};
}

void Extension::retire(Served &served)
{
  if (!served.courier)
    return;
  served.courier->stop();
  const auto lost = served.courier->lost();
  lost_.answers += lost.answers;
  lost_.violations += lost.violations;
  retired_.push_back(std::move(served.courier));
}

void Extension::drop_unused_links()
{
  std::erase_if(links_, [&](const auto &link) {
    return std::ranges::none_of(served_, [&](const auto &entry) {
      return entry.second.courier && entry.second.library == link.first;
    });
  });
}

// ---- requests ----------------------------------------------------------------

bool Extension::receive(const ServerList &servers)
{
  eventfd_t ignored = 0;
  (void)eventfd_read(news_.get(), &ignored);
  bool ask = false;
  if (marker_) {
    const auto unreadable = unreadable_;
    for (const auto &event : marker_->take())
      hear(servers, event);
    ask = unreadable_ != unreadable ||
          std::exchange(lost_events_, marker_->lost()) != marker_->lost();
  }
  for (auto &[postmaster, served] : served_) {
    if (!served.courier)
      continue;
    if (ask)
      served.courier->ask();
    auto news = served.courier->take_news();
    std::ranges::for_each(news.errors, options_.warn);
    for (const auto &waiting : news.waiting)
      hear(postmaster, 0, waiting.id, request_kind(waiting.kind), waiting.json);
  }
  return std::ranges::any_of(asked_, [&](const Asked &asked) { return !asker(servers, asked); });
}

void Extension::hear(const ServerList &servers, const pgmt_request_event &event)
{
  const auto pid = static_cast<pid_t>(event.tgid);
  const auto *process = servers.find_process(pid);
  const auto stat = process ? std::nullopt : Proc().stat(pid);
  const pid_t postmaster = process ? process->identity.postmaster : stat ? stat->ppid : 0;
  if (!served_.contains(postmaster))
    return; // of a server that another daemon watches
  std::string json(std::min(event.length, kLongestRequest), '\0');
  if (event.length > kLongestRequest ||
      !ForeignMemory(pid).read_bytes(event.json, std::as_writable_bytes(std::span(json)))) {
    ++unreadable_;
    return;
  }
  hear(postmaster, pid, event.id, event.kind, json);
}

void Extension::hear(pid_t postmaster, pid_t pid, std::uint64_t id, std::uint32_t kind,
                     const std::string &json)
{
  auto &served = served_.at(postmaster);
  if (!served.heard.insert(id).second)
    return;
  if (served.heard.size() > kHeard)
    served.heard.erase(served.heard.begin());
  auto request = parse_request(id, kind, json);
  if (!request)
    return options_.warn(request.error()); // who asked cannot be told so: nobody knows who it was
  asked_.push_back({.postmaster = postmaster, .pid = pid, .request = std::move(*request)});
}

// nullptr: it is not in the list.
const ServerProcess *Extension::asker(const ServerList &servers, const Asked &asked) const
{
  if (asked.pid != 0)
    return servers.find_process(asked.pid);
  return process_of(servers, asked.postmaster, asked.request.backend_pid);
}

void Extension::serve(const ServerList &servers, const Eyes &eyes)
{
  for (const auto &asked : std::exchange(asked_, {})) {
    if (asked.request.kind == PGMT_REQUEST_CHECK_ON_COPY)
      check_on_copy(servers, asked);
    else
      put(asked.postmaster, answer(servers, asked, eyes));
  }
  for (auto &ended : checks_.take())
    put(ended.postmaster, std::move(ended.answer));
}

void Extension::put(pid_t postmaster, Answer answer)
{
  const auto served = served_.find(postmaster);
  if (served != served_.end() && served->second.courier)
    served->second.courier->put(std::move(answer));
}

// Answered when it has ended.
void Extension::check_on_copy(const ServerList &servers, const Asked &asked)
{
  const Request &request = asked.request;
  const auto *process = asker(servers, asked);
  if (auto waits =
          checks_.ask(asked.postmaster, process ? process->identity.id : ProcessId{}, request);
      !waits)
    put(asked.postmaster, {.backend_pid = request.backend_pid,
                           .request_id = request.id,
                           .json = {},
                           .error = waits.error().what});
}

Answer Extension::answer(const ServerList &servers, const Asked &asked, const Eyes &eyes)
{
  const Request &request = asked.request;
  Answer answer{
      .backend_pid = request.backend_pid, .request_id = request.id, .json = {}, .error = {}};
  if (request.kind == PGMT_REQUEST_CONTEXTS)
    return contexts(servers, asked, eyes);
  if (request.kind != PGMT_REQUEST_BEGIN_WINDOW && request.kind != PGMT_REQUEST_END_WINDOW &&
      request.kind != PGMT_REQUEST_CHECKPOINT) {
    answer.error = fmt::format(
        "request of kind {} is not known: the daemon is older than the extension", request.kind);
    return answer;
  }
  const auto *process = asker(servers, asked);
  const auto view = process ? eyes.look(process->identity.id) : View{};
  const bool begins = request.kind == PGMT_REQUEST_BEGIN_WINDOW;
  const bool ends = request.kind == PGMT_REQUEST_END_WINDOW;
  const bool tracks_dsm = view.now && ((begins && request.window.track_dsm) ||
                                       (ends && windows_.tracks_dsm(process->identity.id)));
  const auto dsm = tracks_dsm ? eyes.look_at_dsm(asked.postmaster) : nullptr;
  const std::string warning = tracks_dsm && !dsm ? kNoDsm : "";
  if (!view.now) {
    answer.error = fmt::format("process {} is not watched or cannot be read", request.backend_pid);
  } else if (!view.snapshot->complete) {
    answer.error = "its contexts cannot be read whole: " + view.snapshot->incomplete_reason;
  } else if (begins) {
    windows_.begin(view.snapshot, request.window, dsm);
    answer.json = warning.empty() ? "" : json_object("", warning);
  } else if (request.kind == PGMT_REQUEST_CHECKPOINT) {
    windows_.checkpoint(view.snapshot, request.executions);
    answer.json = fmt::format(R"({{"contexts":{},"total_bytes":{},"used_bytes":{}}})",
                              view.snapshot->contexts.size(), total_bytes(*view.snapshot),
                              used_bytes(*view.snapshot));
  } else if (auto found = windows_.end(*view.snapshot, options_.limits, dsm)) {
    eyes.name_code(*found);
    answer.json = json_object(R"("violations":)" + json_array(*found, options_.redact), warning);
  } else {
    answer.error = "it has not seen this window begin: it was started since";
  }
  return answer;
}

Answer Extension::contexts(const ServerList &servers, const Asked &asked, const Eyes &eyes)
{
  const Request &request = asked.request;
  Answer answer{
      .backend_pid = request.backend_pid, .request_id = request.id, .json = {}, .error = {}};
  const auto *process = process_of(servers, asked.postmaster, request.contexts_pid);
  const auto view = process ? eyes.look(process->identity.id) : View{};
  if (!view.snapshot) {
    answer.error = fmt::format("no process {} of this server is watched", request.contexts_pid);
    return answer;
  }
  const std::chrono::duration<double> age =
      view.now ? std::chrono::steady_clock::duration{}
               : std::chrono::steady_clock::now() - view.snapshot->moment;
  const std::string warning =
      view.snapshot->complete
          ? ""
          : fmt::format("the tree of process {} is incomplete, sums are a lower bound: {}",
                        request.contexts_pid, view.snapshot->incomplete_reason);
  answer.json = json_object(fmt::format(R"("age_seconds":{:.3f},"contexts":{})", age.count(),
                                        print_tree(*view.snapshot, PrintFormat::json)),
                            warning);
  return answer;
}

// ---- violations, and how it fares ----------------------------------------------

// The log tells what was found.  What no longer holds is not news there: every finding ends with
// its session, or its server, at the latest.
void Extension::saw(std::span<const Violation> changes)
{
  windows_.saw(changes);
  for (const Violation &change : changes) {
    const auto served = served_.find(change.process.postmaster);
    if (change.state != ViolationState::cleared && served != served_.end() &&
        served->second.courier)
      served->second.courier->put_violation(log_entry(change, options_.redact));
  }
}

void Extension::report(Health &health) const
{
  auto lost = lost_;
  for (const auto &[postmaster, served] : served_)
    if (served.courier) {
      lost.answers += served.courier->lost().answers;
      lost.violations += served.courier->lost().violations;
    }
  health.events_lost["extension_ring_full"] = marker_ ? marker_->lost() : 0;
  health.events_lost["extension_answers"] = lost.answers;
  health.events_lost["extension_log"] = lost.violations;
  health.read_errors["extension_request"] = unreadable_;
  health.probes_attached["extension"] = links_.size();
}

} // namespace pgmemtrace
