// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/listen_address.h"

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <system_error>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

namespace pgmemtrace {

std::optional<ListenAddress> ListenAddress::parse(const std::string &listen)
{
  const std::size_t colon = listen.rfind(':');
  if (colon == std::string::npos)
    return std::nullopt;
  const char *end = listen.data() + listen.size();
  std::uint16_t port = 0;
  const auto [stop, error] = std::from_chars(listen.data() + colon + 1, end, port);
  ListenAddress address;
  if (error != std::errc{} || stop != end || !address.set_host(listen.substr(0, colon)))
    return std::nullopt;
  address.set_port(port);
  return address;
}

bool ListenAddress::set_host(const std::string &host)
{
  host_ = host;
  sockaddr_in in{};
  in.sin_family = AF_INET;
  if (inet_pton(AF_INET, host.c_str(), &in.sin_addr) == 1) {
    length_ = sizeof in;
    std::memcpy(&storage_, &in, sizeof in);
    return true;
  }
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (brackets &&
      inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &in6.sin6_addr) == 1) {
    length_ = sizeof in6;
    std::memcpy(&storage_, &in6, sizeof in6);
    return true;
  }
  return false;
}

void ListenAddress::set_port(std::uint16_t port)
{
  port_ = port;
  // The port lies at the same place for both families.
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  const std::uint16_t big_endian = htons(port);
  std::memcpy(reinterpret_cast<char *>(&storage_) + offsetof(sockaddr_in, sin_port), &big_endian,
              sizeof big_endian);
}

int ListenAddress::try_listen() const
{
  const int fd = socket(storage_.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return errno;
  const bool works = bind(fd, raw(), length_) == 0 && listen(fd, 1) == 0;
  const int err = works ? 0 : errno;
  close(fd);
  return err;
}

void ListenAddress::visit() const
{
  const int fd = socket(storage_.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return;
  // Refused or not, nothing follows from it.
  static_cast<void>(connect(fd, raw(), length_));
  close(fd);
}

} // namespace pgmemtrace
