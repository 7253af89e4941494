// SPDX-License-Identifier: BSD-2-Clause
#include "copy/source.h"

#include <cerrno>
#include <charconv>
#include <climits>
#include <filesystem>
#include <memory>

#include <cap-ng.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <libpq-fe.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "extension/sql_session.h"

namespace pgmemtrace {

namespace {

std::string link_of(int fd)
{
  std::string target(PATH_MAX, '\0');
  const auto path = "/proc/self/fd/" + std::to_string(fd);
  const auto length = readlink(path.c_str(), target.data(), target.size());
  target.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
  return target;
}

// In a chroot the kernel shows paths from our root, in another mount namespace from theirs.
std::string seen_from(int root, int fd)
{
  const std::string prefix = link_of(root), path = link_of(fd);
  return prefix != "/" && path.starts_with(prefix + "/") ? path.substr(prefix.size()) : path;
}

// A service may have the same root directory, and other file systems mounted below it.
bool same_mounts(const Proc &proc, pid_t pid)
{
  struct stat theirs {
  }, ours{};
  return stat(proc.path(pid, "ns/mnt").c_str(), &theirs) == 0 &&
         stat(proc.path(getpid(), "ns/mnt").c_str(), &ours) == 0 && theirs.st_dev == ours.st_dev &&
         theirs.st_ino == ours.st_ino;
}

std::uint64_t number(const SqlSession::Value &text)
{
  std::uint64_t value = 0;
  if (text)
    std::from_chars(text->data(), text->data() + text->size(), value);
  return value;
}

// Of what a backup takes.  Not asked of the server, whom it would take longer than it has.
std::uint64_t bytes_below(const Source &source, const std::string &directory)
{
  namespace fs = std::filesystem;
  const UniqueFd opened = source.open(directory, O_RDONLY | O_DIRECTORY);
  std::uint64_t bytes = 0;
  std::error_code gone; // files come and go
  for (fs::recursive_directory_iterator at("/proc/self/fd/" + std::to_string(opened.get()), gone),
       end;
       !gone && at != end; at.increment(gone)) {
    struct stat status {};
    if (at->path().filename() == "pg_wal")
      at.disable_recursion_pending();
    if (lstat(at->path().c_str(), &status) == 0)
      bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  return bytes;
}

// Settings that make a copy impossible, as ask_source() selects them.
Result<> check_settings(const SqlSession::Rows::value_type &row)
{
  if (row[6] == "t")
    return Error{"copy the server: it is a standby", 0, "check its primary instead"};
  if (row[7] == "minimal")
    return Error{"copy the server: its wal_level is minimal, so it has no base backups", 0,
                 "wal_level = replica, then restart it"};
  if (row[8] == "0")
    return Error{"copy the server: its max_wal_senders is 0, so it has no base backups", 0,
                 "max_wal_senders = 2 or more, then restart it"};
  return Ok{};
}

} // namespace

UniqueFd Source::open(const std::string &path, int flags) const
{
  return open_rooted(root.get(), path, flags | O_CLOEXEC);
}

Result<Source> find_source(const Server &server, const std::string &dsn)
{
  const Proc proc;
  auto login = find_login(proc, server.postmaster, dsn);
  if (!login)
    return login.error();
  if (!login->owner)
    return Error{fmt::format("find out who runs process {}", server.postmaster), ESRCH, {}};
  Source source{.server = server, .login = std::move(*login)};
  const auto root = proc.path(server.postmaster, "root");
  source.root = UniqueFd(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  struct stat theirs {
  }, ours{};
  if (!source.root || fstat(source.root.get(), &theirs) != 0 || stat("/", &ours) != 0)
    return Error{fmt::format("open the root directory of process {}", server.postmaster), errno,
                 "run as root"};
  source.own_root = theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino ||
                    !same_mounts(proc, server.postmaster);
  if (source.login.socket_directory)
    source.socket_directory = seen_from(source.root.get(), source.login.socket_directory.get());
  return source;
}

Result<> become_owner(const Source &source)
{
  const uid_t uid = source.login.owner->uid;
  const gid_t gid = source.login.owner->gid;
  const auto failed = [&] {
    return Error{fmt::format("become the user that runs the server, number {}", uid), errno,
                 "run as root, or as that user"};
  };
  capng_get_caps_process();
  const bool chroots = capng_have_capability(CAPNG_PERMITTED, CAP_SYS_CHROOT);
  if (source.own_root && !chroots)
    return Error{"enter the root directory of the server, which is not ours", EPERM, "run as root"};
  if (uid != geteuid()) {
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0 || setgroups(0, nullptr) != 0 ||
        setresgid(gid, gid, gid) != 0 || setresuid(uid, uid, uid) != 0)
      return failed();
  }
  capng_clear(CAPNG_SELECT_CAPS);
  if (source.own_root)
    capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED),
                 CAP_SYS_CHROOT);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || capng_apply(CAPNG_SELECT_CAPS) != 0)
    return failed();
  return Ok{};
}

Result<> ask_source(Source &source, int stop)
{
  auto session = SqlSession::connect(source.login.parameters, stop);
  if (!session)
    return Error{"log in to the server: " + session.error().what, session.error().err,
                 "--dsn 'user=... dbname=...' says as whom"};
  const auto ask = [&](const char *sql) -> Result<SqlSession::Rows> {
    auto rows = session->query(sql);
    if (!rows)
      return Error{"ask the server for its settings: " + rows.error().what, rows.error().err,
                   "--dsn 'user=...' should name a superuser"};
    return rows;
  };
  // pg_config's directories are where this very server's files are, wherever it was moved to.
  const auto settings =
      ask("SELECT (SELECT setting FROM pg_config() WHERE name = 'BINDIR'), "
          "(SELECT setting FROM pg_config() WHERE name = 'PKGLIBDIR'), "
          // Only if it lies outside of PGDATA, where a backup would take it along.
          "CASE WHEN NOT starts_with(current_setting('config_file'), "
          "current_setting('data_directory') || '/') THEN current_setting('config_file') END, "
          "current_setting('shared_preload_libraries'), "
          "current_setting('data_directory'), "
          "(SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'), "
          "pg_is_in_recovery(), current_setting('wal_level'), current_setting('max_wal_senders')");
  if (!settings)
    return settings.error();
  const auto &row = settings->at(0);
  if (auto possible = check_settings(row); !possible)
    return possible;
  source.programs = row[0].value_or("");
  source.libraries = row[1].value_or("");
  source.config_file = row[2].value_or("");
  source.preloaded = row[3].value_or("");
  source.wal_segment_bytes = number(row[5]);

  // Relative ones lie in PGDATA (allow_in_place_tablespaces of 15 and newer).
  const auto tablespaces = ask("SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace "
                               "WHERE pg_tablespace_location(oid) LIKE '/%'");
  if (!tablespaces)
    return tablespaces.error();
  for (const auto &tablespace : *tablespaces)
    source.tablespaces[tablespace[0].value_or("")] = tablespace[1].value_or("");
  source.bytes = bytes_below(source, row[4].value_or(""));
  for (const auto &[oid, directory] : source.tablespaces)
    source.bytes += bytes_below(source, directory);

  const auto command_line = ask("SELECT name || '=' || setting FROM pg_settings "
                                "WHERE source = 'command line' AND context <> 'internal'");
  if (!command_line)
    return command_line.error();
  for (const auto &setting : *command_line)
    source.command_line.push_back(setting[0].value_or(""));
  return Ok{};
}

std::vector<std::string> environment_of(const std::map<std::string, std::string> &parameters)
{
  std::vector<std::string> environment;
  const std::unique_ptr<PQconninfoOption, decltype(&PQconninfoFree)> known(PQconndefaults(),
                                                                           &PQconninfoFree);
  for (const auto *option = known.get(); option != nullptr && option->keyword != nullptr; ++option)
    if (const auto found = parameters.find(option->keyword);
        option->envvar != nullptr && found != parameters.end())
      environment.push_back(fmt::format("{}={}", option->envvar, found->second));
  return environment;
}

} // namespace pgmemtrace
