// SPDX-License-Identifier: BSD-2-Clause
// extension.h - the daemon's half of the extension: docs/extension_protocol.md.
//
//   marker's events --+
//                     +--> requests --> what the pipeline sees --> answers --> couriers
//   requests() -------+                                violations --> the log -----^
//
// Follows the servers as attachments do: one courier for each that has the extension, one link for
// each file of the library.  All in the pipeline's thread; what may take its time, couriers do.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "attach/servers.h"
#include "extension/copy_checks.h"
#include "extension/courier.h"
#include "extension/marker.h"
#include "extension/request.h"
#include "extension/windows.h"
#include "snapshot/snapshot.h"
#include "util/poll_set.h"

namespace pgmemtrace {

class Extension {
public:
  struct Options {
    std::string dsn;            // see login.h
    std::string copy_directory; // where copies of servers are made; empty: the default
    bool probes =
        true; // false: level sweep, where nobody is heard; the log is written all the same
    bool uprobe_multi = true;
    bool redact = false;
    RuleLimits limits;
    std::function<void(const Error &)> warn;
  };

  // What it sees of a process when it is asked.
  struct View {
    std::shared_ptr<const ProcessSnapshot> snapshot; // null: it was never read
    bool now = false;                                // false: that is an earlier one
  };
  struct Eyes {
    std::function<View(const ProcessId &)> look; // exactly, now
    // At the dynamic shared memory of a server, by postmaster, after look() of who asks.
    std::function<Windows::Dsm(pid_t)> look_at_dsm;      // null: it cannot be read
    std::function<void(std::span<Violation>)> name_code; // stacks and modules
  };

  explicit Extension(Options options);
  ~Extension();

  // After each look at /proc.
  void follow(const ServerList &servers, const ServerList::Changes &changes);

  // Takes what was asked.  True: some process in it is not in the list yet.
  bool receive(const ServerList &servers);
  void serve(const ServerList &servers, const Eyes &eyes);

  void saw(const ProcessSnapshot &process) { windows_.saw(process); }
  void saw(std::span<const Violation> changes);

  int poll_fd() const { return events_.fd(); }
  void report(Health &health) const;

private:
  struct Served {
    std::uint64_t start = 0;          // of the postmaster
    bool settled = false;             // it loads nothing any more: looked at for good
    std::unique_ptr<Courier> courier; // null: it has no extension
    Proc::File library;
    std::set<std::uint64_t> heard; // requests, the newest
  };
  struct Asked {
    pid_t postmaster = 0;
    pid_t pid = 0; // the host's, where the marker said it; else 0
    Request request;
  };

  void follow(const Server &server, Served &served);
  Result<> attach(const ExtensionLibrary &library);
  void retire(Served &served);
  void drop_unused_links();
  void hear(const ServerList &servers, const pgmt_request_event &event);
  void hear(pid_t postmaster, pid_t pid, std::uint64_t id, std::uint32_t kind,
            const std::string &json);
  const ServerProcess *asker(const ServerList &servers, const Asked &asked) const;
  Answer answer(const ServerList &servers, const Asked &asked, const Eyes &eyes);
  void check_on_copy(const ServerList &servers, const Asked &asked);
  void put(pid_t postmaster, Answer answer);
  Answer contexts(const ServerList &servers, const Asked &asked, const Eyes &eyes);

  Options options_;
  std::unique_ptr<Marker> marker_; // loaded with the first library
  bool refused_ = false;           // the kernel did, and would again
  std::map<Proc::File, Marker::Link> links_;
  UniqueFd news_; // of the couriers
  PollSet events_;
  std::map<pid_t, Served> served_;                // by postmaster
  std::vector<std::unique_ptr<Courier>> retired_; // until their threads have ended
  Courier::Lost lost_;                            // by those that are gone
  std::vector<Asked> asked_;
  Windows windows_;
  CopyChecks checks_;
  std::uint64_t lost_events_ = 0; // when last looked
  std::uint64_t unreadable_ = 0;
};

} // namespace pgmemtrace
