// SPDX-License-Identifier: BSD-2-Clause
// dsm_watch.h - the dynamic shared memory of every server, look by look.
//
//   servers --DsmReader--> what there is  --+--> DsmSnapshot of each server
//   kernel half ---------> who made it    --'
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "attach/proc.h"
#include "attach/servers.h"
#include "collect/dsm_reader.h"
#include "snapshot/dsm.h"
#include "util/result.h"

namespace pgmemtrace {

class DsmWatch {
public:
  using Warn = std::function<void(const Error &)>;
  // Requests of a process as the kernel half counts them; 0: it does not.
  using RequestsOf = std::function<std::uint64_t(pid_t)>;

  explicit DsmWatch(Warn warn) : warn_(std::move(warn)) {}

  // A segment was asked of the kernel; whether it was granted, the next look tells.
  void made(pid_t postmaster, std::uint32_t handle, DsmOrigin origin);

  // Did this process make a segment that may still be there?
  bool made_by(const ProcessId &process) const;

  // Looks at all servers.  What cannot be read is told once per server.
  void look(const ServerList &servers, const RequestsOf &requests_of);
  // Of these looks; nullptr: there was nothing to be read.
  std::shared_ptr<const DsmSnapshot> last(pid_t postmaster) const;

  // At one server, for somebody who asks.  It is not among those: rules count them.
  std::shared_ptr<const DsmSnapshot> look(const ServerList &servers, pid_t postmaster,
                                          const RequestsOf &requests_of);

  // Origins for which there was no room, or of no server that is known.
  std::uint64_t forgotten() const { return forgotten_; }

private:
  struct Watched {
    std::uint64_t start = 0;           // of the postmaster: pids come again
    std::unique_ptr<DsmReader> reader; // null: its build lacks what that needs
    std::shared_ptr<const DsmSnapshot> last;
    bool told = false;
  };

  Watched &watched(const Server &server);
  std::shared_ptr<const DsmSnapshot> read(const ServerList &servers, const Server &server,
                                          const RequestsOf &requests_of);
  void add_origins(DsmSnapshot &snapshot, Clock::time_point since);

  Warn warn_;
  std::map<pid_t, Watched> servers_;                             // by postmaster
  std::map<std::pair<pid_t, std::uint32_t>, DsmOrigin> origins_; // by postmaster and handle
  std::uint64_t forgotten_ = 0;
};

} // namespace pgmemtrace
