// SPDX-License-Identifier: BSD-2-Clause
// source.h - the server that a copy is made of: what has to be known of it, asked once.
//
// Paths are as the server sees them, below its own root directory.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "attach/servers.h"
#include "extension/login.h"
#include "util/file.h"
#include "util/result.h"

namespace pgmemtrace {

struct Source {
  Server server;
  SqlLogin login;
  UniqueFd root;                // its root directory
  bool own_root = false;        // it is not ours
  std::string socket_directory; // empty: --dsn has a host

  std::string programs;                           // directory of pg_basebackup and postgres
  std::string libraries;                          // where $libdir is
  std::string config_file;                        // empty: in PGDATA
  std::string preloaded;                          // shared_preload_libraries
  std::vector<std::string> command_line;          // "name=value": settings that stand in no file
  std::map<std::string, std::string> tablespaces; // directory by OID; of those outside of PGDATA
  std::uint64_t bytes = 0;                        // of all but its write-ahead log
  std::uint64_t wal_segment_bytes = 0;

  // "data/base" in the server's root, opened from ours; -1 with errno.
  UniqueFd open(const std::string &path, int flags) const;
};

// Opens what only we may, before become_owner().
Result<Source> find_source(const Server &server, const std::string &dsn);

// From here on this process is the user that runs the server, for good: what it does in the
// server's directories, that user could do himself.  It keeps the right to chroot where it will
// need it.
Result<> become_owner(const Source &source);

// Asks the server.  Error: also if it cannot be copied, with what to do about it.
Result<> ask_source(Source &source, int stop);

// libpq's variables of the environment that say what `parameters` says.
std::vector<std::string> environment_of(const std::map<std::string, std::string> &parameters);

} // namespace pgmemtrace
