// SPDX-License-Identifier: BSD-2-Clause
// instance_labels.h - a name for each server that no other one has, and that it keeps.
//
// A label is what users, dashboards and alerts know a server by.  So it says no more than it has
// to, is never that of two servers at a time, and is the same after a restart or an upgrade: a
// data directory keeps its label.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

namespace pgmemtrace {

struct ServerName {
  std::string cluster_name; // empty: none
  int port = 0;
  std::string data_directory;          // as the server sees it
  std::uint64_t device = 0, inode = 0; // of the data directory
  std::string container;               // host name of the server's own root; empty: ours
  pid_t postmaster = 0;
};

class InstanceLabels {
public:
  // "main" or "5432:/var/lib/postgresql/15/main"; in containers, whose ports and directories are
  // all alike, "5432:/var/lib/postgresql/data@orders-db-0".  Where that is taken, more is added:
  // container, data directory, the postmaster's pid.
  std::string assign(const ServerName &server);
  void release(pid_t postmaster); // it ended; its label waits for it

private:
  struct Entry {
    ServerName server;
    std::string label;
    bool runs = true;
  };
  bool free_for(const ServerName &server, const std::string &label) const;

  std::vector<Entry> entries_; // oldest first
};

} // namespace pgmemtrace
