// SPDX-License-Identifier: BSD-2-Clause
// container.cpp - see container.h.
#include "container.h"

#include <cerrno>
#include <fstream>
#include <sstream>

#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pgmemtrace::test {
namespace {

namespace fs = std::filesystem;

constexpr int kOwn = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;

// From here on our mounts are nobody else's.
Result<> leave_mount_namespace()
{
  static const bool left =
      unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  return left ? Result<>(Ok{})
              : Error{"take a mount namespace of our own", errno, "runtime tests need root"};
}

Result<> mount_at(const fs::path &target, const char *type, unsigned long flags,
                  const std::string &source = {}, const std::string &data = {})
{
  std::error_code failed;
  fs::create_directories(target, failed);
  const std::string from = source.empty() ? type : source;
  if (mount(from.c_str(), target.c_str(), type, flags, data.c_str()) != 0)
    return Error{"mount " + from + " at " + target.string(), errno, {}};
  return Ok{};
}

std::string last_word_of_line(const std::string &text, const std::string &key)
{
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key))
      return line.substr(line.find_last_of(" \t") + 1);
  return {};
}

} // namespace

Result<std::unique_ptr<Container>> Container::create(const ContainerOptions &options)
{
  if (auto done = leave_mount_namespace(); !done)
    return done.error();
  std::string dir = "/tmp/pgmt-container.XXXXXX";
  if (!mkdtemp(dir.data()))
    return Error{"make a folder like " + dir, errno, {}};
  std::unique_ptr<Container> container(new Container(dir));
  if (auto done = container->mount_root(options); !done)
    return done.error();
  return container;
}

Result<> Container::mount_root(const ContainerOptions &options)
{
  // The upper layer in a tmpfs: it must not lie in the lower one.
  if (auto done = mount_at(dir_, "tmpfs", 0); !done)
    return done;
  for (const char *layer : {"upper", "work"})
    fs::create_directory(dir_ / layer);
  if (auto done = mount_at(root_, "overlay", 0, {},
                           "lowerdir=" + options.image.string() + ",upperdir=" +
                               (dir_ / "upper").string() + ",workdir=" + (dir_ / "work").string());
      !done)
    return done;
  if (auto done = mount_at(root_ / "dev", nullptr, MS_BIND | MS_REC, "/dev"); !done)
    return done;
  if (auto done = mount_at(root_ / "dev/shm", "tmpfs", 0); !done)
    return done;
  fs::permissions(root_ / "tmp", fs::perms::all | fs::perms::sticky_bit);
  if (!options.hostname.empty())
    std::ofstream(root_ / "etc/hostname") << options.hostname << '\n';
  return Ok{};
}

Container::~Container()
{
  umount2(root_.c_str(), MNT_DETACH);
  umount2(dir_.c_str(), MNT_DETACH);
  std::error_code ignored;
  fs::remove(dir_, ignored);
}

Result<std::unique_ptr<PostgresCluster>> Container::start_server(ClusterOptions options) const
{
  options.root = root_;
  options.namespaces = kOwn;
  return PostgresCluster::start(std::move(options));
}

std::optional<pid_t> host_pid(pid_t postmaster, pid_t server_pid)
{
  const auto parent = std::to_string(postmaster);
  const auto inside = std::to_string(server_pid);
  for (const auto &entry : fs::directory_iterator("/proc")) {
    const auto status = read_text(entry.path() / "status");
    const auto pid = last_word_of_line(status, "Pid:");
    if (last_word_of_line(status, "NSpid:") == inside &&
        (pid == parent || last_word_of_line(status, "PPid:") == parent))
      return std::stoi(pid);
  }
  return std::nullopt;
}

} // namespace pgmemtrace::test
