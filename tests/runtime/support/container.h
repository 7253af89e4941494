// SPDX-License-Identifier: BSD-2-Clause
// container.h - what a container is to its processes, without a runtime: an overlay mount as
// root, and mount, pid, network, IPC and UTS namespaces of its own.
//
// Two containers made here of one image are what two containers of one image are anywhere: the
// same file has another device number in each, and one inode below.  All mounts live in a mount
// namespace of the test, so that nothing is left of them when it crashes.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <sys/types.h>

#include "postgres_cluster.h"

namespace pgmemtrace::test {

struct ContainerOptions {
  std::filesystem::path image = "/"; // the lower directory
  std::string hostname;              // its /etc/hostname; the image's if empty
};

class Container final {
public:
  static Result<std::unique_ptr<Container>> create(const ContainerOptions &options = {});
  ~Container(); // its servers have to be gone
  Container(const Container &) = delete;
  Container &operator=(const Container &) = delete;

  // As we see it.
  const std::filesystem::path &root() const { return root_; }

  // A server whose postmaster is the container's first process.  `options` as for any other.
  Result<std::unique_ptr<PostgresCluster>> start_server(ClusterOptions options = {}) const;

private:
  explicit Container(std::filesystem::path dir) : dir_(std::move(dir)), root_(dir_ / "root") {}
  Result<> mount_root(const ContainerOptions &options);

  std::filesystem::path dir_; // a tmpfs: upper/, work/, root/
  std::filesystem::path root_;
};

// The host's number of a process of this server that has `server_pid` inside.
std::optional<pid_t> host_pid(pid_t postmaster, pid_t server_pid);

} // namespace pgmemtrace::test
