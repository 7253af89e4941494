// SPDX-License-Identifier: BSD-2-Clause
#include "extension/login.h"

#include <cerrno>
#include <memory>
#include <sstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <libpq-fe.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

// PostgreSQL utils/pidfile.h.
constexpr int kPortLine = 4;
constexpr int kSocketDirectoryLine = 5;

std::string line_of(const std::string &text, int number)
{
  std::istringstream lines(text);
  std::string line;
  for (int i = 0; i < number; ++i)
    if (!std::getline(lines, line))
      return {};
  return line;
}

// "Uid:	1000	1000	1000	1000": the second is the effective one.
std::optional<unsigned> effective(const std::string &status, const std::string &key)
{
  std::istringstream lines(status);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    unsigned real = 0, effective = 0;
    if (words >> name && name == key && words >> real >> effective)
      return effective;
  }
  return std::nullopt;
}

std::optional<SqlLogin::Owner> owner_of(const Proc &proc, pid_t pid)
{
  const auto status = proc.text(pid, "status").value_or("");
  const auto uid = effective(status, "Uid:");
  const auto gid = effective(status, "Gid:");
  if (!uid || !gid)
    return std::nullopt;
  return SqlLogin::Owner{*uid, *gid};
}

Result<UniqueFd> open_socket_directory(const Proc &proc, pid_t postmaster,
                                       const std::string &directory)
{
  const auto no_way = [&](int err) {
    return Error{fmt::format("reach the server of process {} through its socket in '{}'",
                             postmaster, directory),
                 err, "--dsn says how to connect"};
  };
  if (directory.empty() || directory.front() == '@')
    return no_way(0);
  const bool absolute = directory.front() == '/';
  const UniqueFd from(open(proc.path(postmaster, absolute ? "root" : "cwd").c_str(),
                           O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!from)
    return no_way(errno);
  UniqueFd found = open_rooted(from.get(), directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (!found)
    return no_way(errno);
  return found;
}

} // namespace

Result<std::map<std::string, std::string>> parse_dsn(const std::string &dsn)
{
  std::map<std::string, std::string> parameters;
  if (dsn.empty())
    return parameters;
  char *reason = nullptr;
  const std::unique_ptr<PQconninfoOption, decltype(&PQconninfoFree)> options(
      PQconninfoParse(dsn.c_str(), &reason), &PQconninfoFree);
  const std::unique_ptr<char, decltype(&PQfreemem)> owned(reason, &PQfreemem);
  if (!options)
    return Error{"--dsn: " + one_line(reason ? reason : "no connection string"), 0,
                 "such as 'dbname=shop user=monitor', or off"};
  for (const auto *option = options.get(); option->keyword; ++option)
    if (option->val)
      parameters[option->keyword] = option->val;
  return parameters;
}

std::optional<uid_t> uid_inside(std::string_view uid_map, uid_t host_uid)
{
  std::istringstream lines{std::string(uid_map)};
  for (std::uint64_t inside = 0, outside = 0, count = 0; lines >> inside >> outside >> count;)
    if (host_uid >= outside && host_uid - outside < count)
      return static_cast<uid_t>(inside + (host_uid - outside));
  return std::nullopt;
}

std::string user_name(std::string_view passwd, uid_t uid)
{
  std::istringstream lines{std::string(passwd)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string name, password, number;
    if (std::getline(fields, name, ':') && std::getline(fields, password, ':') &&
        std::getline(fields, number, ':') && number == std::to_string(uid))
      return name;
  }
  return {};
}

Result<SqlLogin> find_login(const Proc &proc, pid_t postmaster, const std::string &dsn)
{
  auto asked = parse_dsn(dsn);
  if (!asked)
    return asked.error();
  SqlLogin login{.postmaster = postmaster,
                 .parameters = {{"dbname", "postgres"}, // pgmemtrace.database, unless it is set
                                {"fallback_application_name", "pgmemtrace"},
                                {"client_encoding", "UTF8"},
                                {"options", "-c statement_timeout=5s -c search_path=pg_catalog "
                                            "-c client_min_messages=error -c jit=off"}},
                 .owner = owner_of(proc, postmaster),
                 .socket_directory = {}};
  if (login.owner) {
    const auto inside = uid_inside(proc.text(postmaster, "uid_map").value_or(""), login.owner->uid);
    const auto name = user_name(proc.text_in_root(postmaster, "/etc/passwd").value_or(""),
                                inside.value_or(login.owner->uid));
    if (!name.empty())
      login.parameters["user"] = name;
  }
  if (!asked->contains("host") && !asked->contains("hostaddr") && !asked->contains("service")) {
    const auto pid_file = proc.text(postmaster, "cwd/postmaster.pid").value_or("");
    auto directory =
        open_socket_directory(proc, postmaster, line_of(pid_file, kSocketDirectoryLine));
    if (!directory)
      return directory.error();
    login.socket_directory = std::move(*directory);
    // Short enough for a socket's address, whatever the path is.
    login.parameters["host"] = fmt::format("/proc/self/fd/{}", login.socket_directory.get());
    login.parameters["port"] = line_of(pid_file, kPortLine);
  }
  for (auto &[keyword, value] : *asked)
    login.parameters[keyword] = value;
  return login;
}

} // namespace pgmemtrace
