// SPDX-License-Identifier: BSD-2-Clause
#include "util/child.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pgmemtrace {

namespace {

std::vector<char *> pointers(const std::vector<std::string> &strings)
{
  std::vector<char *> out;
  out.reserve(strings.size() + 1);
  for (const std::string &string : strings)
    out.push_back(const_cast<char *>(string.c_str()));
  out.push_back(nullptr);
  return out;
}

// To the program that is executed next, whoever runs it.
bool hand_on_capabilities()
{
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3]{};
  if (syscall(SYS_capget, &header, sets) != 0)
    return false;
  for (auto &set : sets)
    set.inheritable = set.permitted;
  if (syscall(SYS_capset, &header, sets) != 0)
    return false;
  for (unsigned i = 0; i < 32 * _LINUX_CAPABILITY_U32S_3; ++i)
    if ((sets[i / 32].permitted >> (i % 32) & 1) != 0 &&
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) != 0)
      return false;
  return true;
}

// Between fork and exec.  False: errno says why.
bool become(const Program &program, int input, pid_t parent)
{
  sigset_t none;
  sigemptyset(&none);
  const rlimit no_core{};
  if (sigprocmask(SIG_SETMASK, &none, nullptr) != 0 || setrlimit(RLIMIT_CORE, &no_core) != 0)
    return false;
  (void)setsid(); // a Ctrl-C is for us alone
  if (program.root >= 0 && (fchdir(program.root) != 0 || chroot(".") != 0))
    return false;
  if (dup2(input, STDIN_FILENO) < 0)
    return false;
  const int errors = program.errors >= 0 ? program.errors : program.output;
  if ((program.output >= 0 && dup2(program.output, STDOUT_FILENO) < 0) ||
      (errors >= 0 && dup2(errors, STDERR_FILENO) < 0))
    return false;
  for (const int fd : program.inherited)
    if (fcntl(fd, F_SETFD, 0) != 0)
      return false;
  if (chdir("/") != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_PDEATHSIG, program.end_with_us) != 0)
    return false;
  if (program.keeps_capabilities && !hand_on_capabilities())
    return false;
  return getppid() == parent; // it may have ended before it was asked for
}

} // namespace

Child::Child(pid_t pid) : pid_(pid), ended_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))) {}

Child::Child(Child &&other) noexcept
    : pid_(std::exchange(other.pid_, -1)), ended_(std::move(other.ended_)), status_(other.status_)
{
}

Child &Child::operator=(Child &&other) noexcept
{
  std::swap(pid_, other.pid_);
  std::swap(ended_, other.ended_);
  std::swap(status_, other.status_);
  return *this;
}

Child::~Child()
{
  if (pid_ < 0 || status_)
    return;
  // Where it became somebody else, who may not be sent signals, it cannot be waited for.
  (void)reap(kill(pid_, SIGKILL) == 0 ? 0 : WNOHANG);
}

Result<Child> Child::start(const Program &program)
{
  auto arguments = pointers(program.arguments);
  auto environment = pointers(program.environment);
  const auto failed = [&](int err) { return Error{"start " + program.arguments.front(), err, {}}; };
  std::array<int, 2> ends{-1, -1};
  if (pipe2(ends.data(), O_CLOEXEC) != 0)
    return failed(errno);
  const UniqueFd nothing(open("/dev/null", O_RDONLY | O_CLOEXEC)); // a chroot may have none
  const int input = program.input >= 0 ? program.input : nothing.get();
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0)
    return failed(errno);
  if (pid == 0) {
    if (become(program, input, parent))
      execve(arguments[0], arguments.data(), environment.data());
    const int why = errno;
    (void)!write(to.get(), &why, sizeof why);
    _exit(127);
  }
  to = UniqueFd();
  Child child(pid);
  int why = 0; // exec closes the pipe and says nothing
  if (read(from.get(), &why, sizeof why) == sizeof why)
    return failed(why);
  return child;
}

void Child::signal(int number) const
{
  if (pid_ > 0 && !status_) // a number that was given back may be another's
    (void)kill(pid_, number);
}

bool Child::reap(int flags)
{
  int raw = 0;
  if (!status_ && waitpid(pid_, &raw, flags) == pid_)
    status_ = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
  return status_.has_value();
}

Result<int> Child::wait(int stop, Time::time_point until)
{
  while (!reap(WNOHANG)) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Time::now());
    if (left.count() <= 0)
      return Error{"wait for a program", ETIMEDOUT, {}};
    std::array<pollfd, 2> waiting{{{stop, POLLIN, 0}, {ended_.get(), POLLIN, 0}}};
    const auto limit = std::min<std::chrono::milliseconds>(left, std::chrono::seconds(60));
    if (poll(waiting.data(), waiting.size(), static_cast<int>(limit.count())) > 0 &&
        waiting[0].revents != 0)
      return Error{"wait for a program", ECANCELED, {}};
  }
  return *status_;
}

} // namespace pgmemtrace
