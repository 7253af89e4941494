// SPDX-License-Identifier: BSD-2-Clause
// process.cpp - see process.h.
#include "process.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pgmemtrace::test {
namespace {

constexpr int kCannotExec = 127;

class Fd final {
public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd &) = delete;
  Fd &operator=(const Fd &) = delete;
  ~Fd()
  {
    if (fd_ >= 0)
      close(fd_);
  }
  int get() const { return fd_; }

private:
  int fd_;
};

std::vector<char *> pointers(const std::vector<std::string> &strings)
{
  std::vector<char *> result;
  result.reserve(strings.size() + 1);
  for (const auto &s : strings)
    result.push_back(const_cast<char *>(s.c_str()));
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> merged_environment(const std::vector<std::string> &extra)
{
  std::vector<std::string> result = extra;
  for (char **entry = environ; *entry; ++entry)
    result.emplace_back(*entry);
  return result; // the first of two equal names wins in getenv()
}

// What a container's runtime does: the mount point becomes the root, and the old one goes.
bool pivot_to(const char *root)
{
  return mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 && chdir(root) == 0 &&
         syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0;
}

// Between fork and exec: async-signal-safe calls only.
[[noreturn]] void become(const SpawnOptions &options, char *const *argv, char *const *env,
                         pid_t parent)
{
  auto check = [](bool ok) {
    if (!ok)
      _exit(kCannotExec);
  };
  if (options.out >= 0)
    check(dup2(options.out, STDOUT_FILENO) >= 0);
  if (options.err >= 0)
    check(dup2(options.err, STDERR_FILENO) >= 0);
  int null = open("/dev/null", O_RDONLY);
  check(null >= 0 && dup2(null, STDIN_FILENO) >= 0);
  if ((options.namespaces & CLONE_NEWNS) != 0)
    check(pivot_to(options.root.c_str()));
  else if (options.root != "/")
    check(chroot(options.root.c_str()) == 0);
  check(chdir(options.directory.c_str()) == 0);
  if (options.user)
    check(setgroups(0, nullptr) == 0 && setgid(options.user->gid) == 0 &&
          setuid(options.user->uid) == 0);
  // After setuid, which clears it.  The parent may have gone in between.
  // From a pid namespace of its own it is not to be seen.
  const pid_t seen = (options.namespaces & CLONE_NEWPID) != 0 ? 0 : parent;
  check(prctl(PR_SET_PDEATHSIG, options.dies_with_us) == 0 && getppid() == seen);
  execvpe(argv[0], argv, env);
  _exit(kCannotExec);
}

int exit_status(int wait_status)
{
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

std::string read_all(int fd)
{
  std::string text;
  char buffer[65536];
  off_t offset = 0;
  for (ssize_t n; (n = pread(fd, buffer, sizeof(buffer), offset)) > 0; offset += n)
    text.append(buffer, static_cast<size_t>(n));
  return text;
}

} // namespace

Result<User> find_user(const std::string &name, const std::filesystem::path &root)
{
  auto path = root / "etc/passwd";
  std::unique_ptr<FILE, int (*)(FILE *)> file(fopen(path.c_str(), "re"), &fclose);
  if (!file)
    return Error{"open " + path.string(), errno, {}};
  while (const passwd *entry = fgetpwent(file.get()))
    if (name == entry->pw_name)
      return User{entry->pw_uid, entry->pw_gid};
  return Error{"find user " + name + " in " + path.string(), ENOENT, {}};
}

Result<ChildProcess> ChildProcess::spawn(const std::vector<std::string> &argv,
                                         const SpawnOptions &options)
{
  auto environment = merged_environment(options.env);
  auto argv_pointers = pointers(argv);
  auto env_pointers = pointers(environment);
  pid_t parent = getpid();
  // fork(), which knows no namespaces.
  const auto flags = static_cast<unsigned long>(options.namespaces) | SIGCHLD;
  const auto pid = static_cast<pid_t>(syscall(SYS_clone, flags, nullptr, nullptr, nullptr, 0UL));
  if (pid < 0)
    return Error{"fork for " + argv.front(), errno, {}};
  if (pid == 0)
    become(options, argv_pointers.data(), env_pointers.data(), parent);
  return ChildProcess(pid);
}

ChildProcess::ChildProcess(ChildProcess &&other) noexcept
    : pid_(std::exchange(other.pid_, -1)), status_(std::exchange(other.status_, std::nullopt))
{
}

ChildProcess &ChildProcess::operator=(ChildProcess &&other) noexcept
{
  std::swap(pid_, other.pid_);
  std::swap(status_, other.status_);
  return *this;
}

ChildProcess::~ChildProcess()
{
  if (!running())
    return;
  signal(SIGKILL);
  wait(std::chrono::seconds(60));
}

bool ChildProcess::running() { return pid_ > 0 && !wait(std::chrono::milliseconds(0)); }

void ChildProcess::signal(int number)
{
  if (pid_ > 0 && !status_) // a reaped pid may belong to somebody else by now
    kill(pid_, number);
}

std::optional<int> ChildProcess::wait(std::chrono::milliseconds limit)
{
  if (status_ || pid_ <= 0)
    return status_;
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  pollfd ready{pidfd.get(), POLLIN, 0};
  auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    int raw = 0;
    if (waitpid(pid_, &raw, WNOHANG) == pid_)
      return status_ = exit_status(raw);
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0)
      return std::nullopt;
    poll(&ready, 1, static_cast<int>(std::min<long long>(left.count(), 1000)));
  }
}

CommandResult run_command(const std::vector<std::string> &argv, const CommandOptions &options)
{
  // Files in memory rather than pipes: nothing to drain, so nothing to deadlock on.
  Fd out(memfd_create("stdout", MFD_CLOEXEC));
  Fd err(memfd_create("stderr", MFD_CLOEXEC));
  SpawnOptions spawn;
  spawn.root = options.root;
  spawn.user = options.user;
  spawn.env = options.env;
  spawn.out = out.get();
  spawn.err = err.get();
  CommandResult result;
  auto child = ChildProcess::spawn(argv, spawn);
  if (!child) {
    result.err = to_string(child.error());
    return result;
  }
  auto status = child->wait(options.limit);
  if (!status) {
    child->signal(SIGKILL);
    child->wait(std::chrono::seconds(10));
  }
  result.status = status.value_or(-1);
  result.out = read_all(out.get());
  result.err = read_all(err.get());
  if (!status)
    result.err += "\n(killed: still running after " + std::to_string(options.limit.count()) + " s)";
  return result;
}

std::string read_text(const std::filesystem::path &path)
{
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

} // namespace pgmemtrace::test
