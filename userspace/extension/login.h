// SPDX-License-Identifier: BSD-2-Clause
// login.h - how to reach a server over SQL, and as whom.
//
// By default through its own socket, which a container has below a root of its own, as the user
// that runs it: that is whom initdb made the superuser, and whom peer authentication lets in.
#pragma once

#include <map>
#include <optional>
#include <string>

#include <sys/types.h>

#include "attach/proc.h"
#include "util/file.h"
#include "util/result.h"

namespace pgmemtrace {

struct SqlLogin {
  struct Owner {
    uid_t uid;
    gid_t gid;
  };
  pid_t postmaster = 0;
  std::map<std::string, std::string> parameters; // libpq's
  std::optional<Owner> owner;                    // who runs the server, as the host numbers them
  UniqueFd socket_directory;                     // `host` leads through it
};

// `dsn`: a connection string of libpq; what it does not say is taken from the server.
// Error: not a connection string, or the server has no socket that we can reach.
Result<SqlLogin> find_login(const Proc &proc, pid_t postmaster, const std::string &dsn);

// Is this a connection string?
Result<std::map<std::string, std::string>> parse_dsn(const std::string &dsn);

// The number that `host_uid` has inside, by the text of /proc/PID/uid_map.
std::optional<uid_t> uid_inside(std::string_view uid_map, uid_t host_uid);

// Who has that number, by the text of /etc/passwd; empty: nobody.
std::string user_name(std::string_view passwd, uid_t uid);

} // namespace pgmemtrace
