// SPDX-License-Identifier: BSD-2-Clause
// listen_address.h - what was typed after --listen.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <sys/socket.h>

namespace pgmemtrace {

class ListenAddress {
public:
  // Addresses only: a name could mean several, and metrics are for nobody but those who can
  // reach the one address that was typed.
  static std::optional<ListenAddress> parse(const std::string &listen);

  const std::string &host() const { return host_; } // with its brackets if IPv6
  int port() const { return port_; }
  void set_port(std::uint16_t port);

  // The errno that listening here gives, 0 if it works.
  int try_listen() const;
  // Connects and hangs up.
  void visit() const;

private:
  bool set_host(const std::string &host);
  const sockaddr *raw() const { return reinterpret_cast<const sockaddr *>(&storage_); }

  std::string host_;
  std::uint16_t port_ = 0;
  sockaddr_storage storage_{};
  socklen_t length_ = 0;
};

} // namespace pgmemtrace
