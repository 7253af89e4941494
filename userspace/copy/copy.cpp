// SPDX-License-Identifier: BSD-2-Clause
#include "copy/copy.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <iterator>
#include <sstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

using namespace std::chrono_literals;

constexpr auto kBackupLimit = 12h;
constexpr auto kStartLimit = 10min;
constexpr auto kStopLimit = 30s;
constexpr auto kPause = 20ms;
constexpr std::uint64_t kWalSegments = 4;           // what the backup needs, and what follows
constexpr std::uint64_t kWorkingRoom = 64ULL << 20; // for what the workload writes
constexpr std::string_view kLibrary = "pgmemtrace_faults.so";
constexpr std::string_view kPath =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// What keeps a copy to itself, and small.  Each is known to 13 and all that followed.
constexpr std::string_view kSettings[] = {
    "listen_addresses=",
    "unix_socket_group=",
    "unix_socket_permissions=0700",
    "bonjour=off",
    "ssl=off",
    "external_pid_file=",
    kDisposableCopy,
    // It is nobody's primary, standby, subscriber or archive.
    "archive_mode=off",
    "max_wal_senders=0",
    "primary_conninfo=",
    "restore_command=",
    "synchronous_standby_names=",
    "hot_standby=off",
    "max_logical_replication_workers=0",
    "autovacuum=off",
    // If it crashes it is gone, and with it what was not written.
    "restart_after_crash=off",
    "fsync=off",
    "full_page_writes=off",
    "logging_collector=off",
    "log_destination=stderr",
    "log_statement=none",
    "log_min_duration_statement=-1",
    "log_min_error_statement=panic",
    "lc_messages=C",
    "huge_pages=off",
    "shared_buffers=32MB",
    "max_connections=100",
    "superuser_reserved_connections=3",
};

std::string words_of(int fd)
{
  std::string text(64 << 10, '\0');
  const auto got = pread(fd, text.data(), text.size(), 0);
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return one_line(text, 2000);
}

Result<> write_file(const std::string &path, const std::string &text)
{
  std::ofstream file(path);
  file << text << std::flush;
  return file ? Result<>(Ok{}) : Error{"write into the folder of the copy", errno, {}};
}

} // namespace

Copy::Copy(const Source &source, Options options, CopyFolder folder)
    : source_(source), options_(std::move(options)), folder_(std::move(folder)),
      proc_(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC))
{
}

Result<std::unique_ptr<Copy>> Copy::make(const Source &source, Options options)
{
  auto folder =
      CopyFolder::make(source.root.get(), options.directory,
                       source.bytes + kWalSegments * source.wal_segment_bytes + kWorkingRoom);
  if (!folder)
    return folder.error();
  std::unique_ptr<Copy> copy(new Copy(source, std::move(options), std::move(*folder)));
  if (copy->folder_.inside("socket/.s.PGSQL.65535").size() >= sizeof(sockaddr_un::sun_path))
    return Error{"make a socket in " + copy->options_.directory + ": its name is too long", 0,
                 "--copy-dir names another directory"};
  for (const auto step :
       {&Copy::place_library, &Copy::take_backup, &Copy::write_files, &Copy::start})
    if (auto done = (copy.get()->*step)(); !done)
      return done.error();
  return copy;
}

Copy::~Copy() { stop(); }

// Where it is installed it can be mapped; the copy's folder may be of a file system without exec.
Result<> Copy::place_library()
{
  if (!options_.library) {
    library_ = fmt::format("{}/{}", source_.libraries, kLibrary);
    if (source_.open(library_, O_PATH))
      return Ok{};
    return Error{"find " + library_, errno,
                 "make -C sql PG_CONFIG=... install, or --faults-library FILE"};
  }
  library_ = folder_.inside(std::string(kLibrary));
  const UniqueFd to(open(folder_.path(std::string(kLibrary)).c_str(),
                         O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700));
  struct stat size {};
  off_t at = 0;
  if (!to || fstat(options_.library.get(), &size) != 0)
    return Error{"copy the library of --faults-library", errno, {}};
  while (at < size.st_size)
    if (sendfile(to.get(), options_.library.get(), &at,
                 static_cast<std::size_t>(size.st_size - at)) <= 0)
      return Error{"copy the library of --faults-library", errno, {}};
  return Ok{};
}

Result<> Copy::run(const Program &program, const std::string &doing, const std::string &hint)
{
  auto child = Child::start(program);
  if (!child)
    return child.error();
  auto status = child->wait(options_.limits.stop, Child::Time::now() + kBackupLimit);
  if (!status) {
    child->signal(SIGTERM); // it takes those along that it has started
    (void)child->wait(-1, Child::Time::now() + kStopLimit);
    return status.error();
  }
  if (*status != 0)
    return Error{fmt::format("{}: {}", doing, words_of(program.output)), 0, hint};
  return Ok{};
}

Result<> Copy::take_backup()
{
  const UniqueFd output(memfd_create("output", MFD_CLOEXEC));
  auto parameters = source_.login.parameters;
  if (!source_.socket_directory.empty())
    parameters["host"] = source_.socket_directory;
  parameters.erase("options"); // for statements
  Program backup{.arguments = {source_.programs + "/pg_basebackup",
                               "--pgdata=" + folder_.inside("data"), "--checkpoint=fast",
                               "--wal-method=stream", "--no-slot", "--no-sync", "--no-manifest",
                               "--no-verify-checksums", "--no-password"},
                 .environment = environment_of(parameters),
                 .root = source_.own_root ? source_.root.get() : -1,
                 .output = output.get(),
                 .inherited = {folder_.lock()}};
  backup.environment.emplace_back(kPath);
  backup.environment.emplace_back("LC_ALL=C");
  for (const auto &[oid, directory] : source_.tablespaces) {
    std::string escaped;
    for (const char c : directory)
      escaped += c == '=' ? std::string("\\=") : std::string(1, c);
    backup.arguments.push_back(
        fmt::format("--tablespace-mapping={}={}", escaped, folder_.inside("tablespaces/" + oid)));
  }
  return run(backup, "copy the server with pg_basebackup",
             "it logs in for replication: pg_hba.conf may need `local replication all peer`");
}

Result<> Copy::write_files()
{
  for (const char *name : {"data/standby.signal", "data/recovery.signal"})
    (void)unlink(folder_.path(name).c_str());
  // Nobody else can reach the socket.
  if (auto written = write_file(folder_.path("hba.conf"), "local all all trust\n"); !written)
    return written;
  return write_file(folder_.path("ident.conf"), "");
}

std::vector<std::string> Copy::arguments() const
{
  std::vector<std::string> out{source_.programs + "/postgres", "-D", folder_.inside("data")};
  const auto set = [&](std::string setting) {
    out.emplace_back("-c");
    out.push_back(std::move(setting));
  };
  for (const std::string &setting : source_.command_line)
    set(setting);
  if (!source_.config_file.empty())
    set("config_file=" + source_.config_file);
  set("data_directory=" + folder_.inside("data"));
  set("hba_file=" + folder_.inside("hba.conf"));
  set("ident_file=" + folder_.inside("ident.conf"));
  set("unix_socket_directories=" + folder_.inside("socket"));
  set("port=5432");
  for (const std::string_view setting : kSettings)
    set(std::string(setting));
  set(fmt::format("shared_preload_libraries={}{}\"{}\"", source_.preloaded,
                  source_.preloaded.empty() ? "" : ", ", library_));
  return out;
}

Result<> Copy::start()
{
  const UniqueFd log_file(
      open(folder_.path("log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log_file)
    return Error{"open the log of the copy", errno, {}};
  log_start_ = static_cast<std::size_t>(lseek(log_file.get(), 0, SEEK_END));
  auto child = Child::start(
      {.arguments = arguments(),
       .environment = {std::string(kPath), "LD_PRELOAD=" + library_,
                       "PGMEMTRACE_FAULTS_CRASHES=" + folder_.inside("crashes"),
                       fmt::format("PGMEMTRACE_FAULTS_PROC={}", proc_.get())},
       .root = source_.own_root ? source_.root.get() : -1,
       .output = log_file.get(),
       .inherited = {folder_.lock(), proc_.get()},
       .end_with_us = SIGQUIT}); // an immediate shutdown, which takes its children along
  if (!child)
    return child.error();
  server_ = std::move(*child);
  const auto until = Child::Time::now() + kStartLimit;
  for (;;) {
    auto session = WorkloadSession::connect(login(), options_.limits);
    if (session)
      return Ok{};
    if (session.error().err == ECANCELED)
      return session.error();
    const auto ended = server_->wait(options_.limits.stop, Child::Time::now() + kPause);
    if (ended || Child::Time::now() > until)
      return Error{"start the copy: " + one_line(log(), 2000), 0, {}};
    if (ended.error().err == ECANCELED)
      return ended.error();
  }
}

std::map<std::string, std::string> Copy::login() const
{
  auto parameters = source_.login.parameters; // the superuser, and a database that there is
  for (const char *elsewhere : {"hostaddr", "service", "options", "password", "passfile"})
    parameters.erase(elsewhere);
  parameters["host"] = folder_.path("socket");
  parameters["port"] = "5432";
  parameters["sslmode"] = "disable";
  parameters["gssencmode"] = "disable";
  parameters["target_session_attrs"] = "any";
  return parameters;
}

Result<std::unique_ptr<WorkloadSession>>
Copy::connect(const std::string &database, const std::string &user, const std::string &settings)
{
  auto parameters = login();
  if (!database.empty())
    parameters["dbname"] = database;
  if (!user.empty())
    parameters["user"] = user;
  parameters["options"] = settings;
  return WorkloadSession::connect(parameters, options_.limits);
}

Result<Aftermath> Copy::recover()
{
  auto out = look_after();
  if (out && out->ended)
    if (auto started = start(); !started)
      return started.error();
  return out;
}

Result<Aftermath> Copy::look_after()
{
  Aftermath out;
  const auto until = Child::Time::now() + kStopLimit;
  const auto root = fmt::format("/proc/self/fd/{}", source_.root.get());
  while (!out.ended) {
    // Whoever crashed has written his note before his session was lost.  Where there is one the
    // server is about to end, and lets nobody in for long.
    std::ranges::move(take_crashes(folder_.path("crashes"), root), std::back_inserter(out.crashes));
    if (out.crashes.empty()) {
      const auto session = WorkloadSession::connect(login(), options_.limits);
      if (session)
        return out;
      if (session.error().err == ECANCELED)
        return session.error();
    }
    const auto status = server_->wait(options_.limits.stop, Child::Time::now() + kPause);
    if (!status && status.error().err == ECANCELED)
      return status.error();
    out.ended = status || Child::Time::now() > until;
  }
  stop();
  std::istringstream lines(log());
  for (std::string line; std::getline(lines, line);)
    if (line.find("PANIC: ") != std::string::npos)
      out.panic = one_line(line.substr(line.find("PANIC: ")), 500);
  return out;
}

std::string Copy::log() const
{
  std::ifstream file(folder_.path("log"));
  file.seekg(static_cast<std::streamoff>(log_start_));
  return {std::istreambuf_iterator<char>(file), {}};
}

void Copy::stop()
{
  if (!server_)
    return;
  server_->signal(SIGQUIT);
  (void)server_->wait(-1, Child::Time::now() + kStopLimit);
  server_.reset();
}

} // namespace pgmemtrace
