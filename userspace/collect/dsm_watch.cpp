// SPDX-License-Identifier: BSD-2-Clause
#include "collect/dsm_watch.h"

#include <algorithm>
#include <cerrno>
#include <vector>

namespace pgmemtrace {
namespace {

// Parallel queries make one each, which is gone at the next look.
constexpr std::size_t kMostOrigins = 16384;
// Between asking for a segment and its entry in the control segment lie a few microseconds.
constexpr auto kOnItsWay = std::chrono::seconds(1);

} // namespace

void DsmWatch::made(pid_t postmaster, std::uint32_t handle, DsmOrigin origin)
{
  if (postmaster == 0 || origins_.size() == kMostOrigins) {
    ++forgotten_;
    return;
  }
  origins_.insert_or_assign({postmaster, handle}, std::move(origin));
}

bool DsmWatch::made_by(const ProcessId &process) const
{
  return std::ranges::any_of(origins_,
                             [&](const auto &entry) { return entry.second.process == process; });
}

DsmWatch::Watched &DsmWatch::watched(const Server &server)
{
  const auto [found, added] = servers_.try_emplace(server.postmaster);
  Watched &watched = found->second;
  if (!added && watched.start == server.start)
    return watched;
  watched = {.start = server.start};
  const Binary &binary = *server.binary;
  if (!binary.dsm_variables) {
    warn_(binary.dsm_variables.error());
    return watched;
  }
  ProcessIdentity postmaster{.id = {server.postmaster, server.start},
                             .postmaster = server.postmaster,
                             .instance = server.instance,
                             .major = binary.major,
                             .backend_type = "postmaster"};
  watched.reader = std::make_unique<DsmReader>(
      std::move(postmaster), binary.layout, *binary.dsm_variables, server.load_bias, Proc(),
      [](pid_t pid) { return std::make_unique<ForeignMemory>(pid); });
  return watched;
}

void DsmWatch::look(const ServerList &servers, const RequestsOf &requests_of)
{
  std::erase_if(servers_,
                [&](const auto &entry) { return !servers.servers().contains(entry.first); });
  for (const auto &[postmaster, server] : servers.servers())
    watched(server).last = read(servers, server, requests_of);
  std::erase_if(origins_, [&](const auto &entry) { return !servers_.contains(entry.first.first); });
}

std::shared_ptr<const DsmSnapshot> DsmWatch::look(const ServerList &servers, pid_t postmaster,
                                                  const RequestsOf &requests_of)
{
  const auto server = servers.servers().find(postmaster);
  return server == servers.servers().end() ? nullptr : read(servers, server->second, requests_of);
}

std::shared_ptr<const DsmSnapshot> DsmWatch::read(const ServerList &servers, const Server &server,
                                                  const RequestsOf &requests_of)
{
  Watched &of = watched(server);
  if (!of.reader)
    return nullptr;
  std::vector<DsmReader::Process> processes;
  for (const auto &[id, process] : servers.processes())
    if (process.identity.postmaster == server.postmaster)
      processes.push_back({process.identity, requests_of(id.pid)});
  const auto since = Clock::now();
  auto snapshot = of.reader->read(processes, servers.whole(server.postmaster));
  if (!snapshot) {
    if (!of.told && snapshot.error().err != ESRCH)
      warn_(snapshot.error());
    of.told |= snapshot.error().err != ESRCH;
    return nullptr;
  }
  add_origins(*snapshot, since);
  return std::make_shared<const DsmSnapshot>(std::move(*snapshot));
}

// What is not there any more needs none.
void DsmWatch::add_origins(DsmSnapshot &snapshot, Clock::time_point since)
{
  const pid_t postmaster = snapshot.postmaster.id.pid;
  std::map<std::uint32_t, DsmSegment *> segments;
  for (DsmSegment &segment : snapshot.segments)
    segments[segment.handle] = &segment;
  const auto end = origins_.lower_bound({postmaster + 1, 0});
  for (auto it = origins_.lower_bound({postmaster, 0}); it != end;) {
    const auto segment = segments.find(it->first.second);
    if (segment != segments.end()) {
      segment->second->origin = it->second;
      if (segment->second->bytes == 0)
        segment->second->bytes = it->second.bytes;
    }
    const bool gone = segment == segments.end() && it->second.time + kOnItsWay < since;
    it = gone ? origins_.erase(it) : std::next(it);
  }
}

std::shared_ptr<const DsmSnapshot> DsmWatch::last(pid_t postmaster) const
{
  const auto found = servers_.find(postmaster);
  return found == servers_.end() ? nullptr : found->second.last;
}

} // namespace pgmemtrace
