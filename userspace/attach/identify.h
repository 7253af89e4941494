// SPDX-License-Identifier: BSD-2-Clause
// identify.h - one process, asked: is it PostgreSQL, which server, what does it do?
//
// Pure questions to /proc, an executable and a process's memory; ServerList remembers the
// answers.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "attach/servers.h"
#include "util/foreign_memory.h"

namespace pgmemtrace {

// The executable of a process, with its layout; nullptr if it is not PostgreSQL.  ESRCH: the
// process has ended, or runs another one by now.
Result<std::unique_ptr<Binary>> open_binary(const Proc &proc, pid_t pid, const Proc::File &file,
                                            const std::string &postgres_btf);

// The server that a process is the postmaster of, all but its label; nullopt if it is none (or
// not yet).  Checks that the data directory is of the binary's major and that the layout holds.
Result<std::optional<Server>> read_server(const Proc &proc, pid_t pid, const Binary &binary);

// What a server may be called after.
ServerName name_of(const Proc &proc, const Server &server);

// Fills in backend type, database and user.  False if the process has not set them yet.
bool read_identity(ForeignMemory &memory, ServerProcess &process);

// A path as /proc gives it: does it bear the mark of a deleted file, and without that mark.
bool is_deleted(std::string_view path);
std::string without_deleted(std::string path);

} // namespace pgmemtrace
