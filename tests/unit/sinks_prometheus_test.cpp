// SPDX-License-Identifier: BSD-2-Clause
// sinks_prometheus_test - /metrics over HTTP, as promtool likes it.
#include "sinks/prometheus.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sinks_fixture.h"

namespace pgmemtrace::test {
namespace {

using testing::HasSubstr;

std::string http_get(int port)
{
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string response;
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  if (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 &&
      write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    std::array<char, 4096> buffer{};
    for (ssize_t n = 0; (n = read(fd, buffer.data(), buffer.size())) > 0;)
      response.append(buffer.data(), static_cast<std::size_t>(n));
  }
  close(fd);
  return response;
}

std::unique_ptr<PrometheusSink> started(const std::string &listen = "127.0.0.1:0")
{
  auto sink = PrometheusSink::create(listen, {.rules = {"ctx_bloat", "context_leak"}});
  if (!sink) {
    ADD_FAILURE() << to_string(sink.error());
    return nullptr;
  }
  return std::move(*sink);
}

TEST(PrometheusSink, takes_a_free_port_and_serves_the_latest_snapshot)
{
  const auto sink = started();
  ASSERT_TRUE(sink);
  EXPECT_GT(sink->port(), 0);
  EXPECT_EQ(sink->url(), "http://127.0.0.1:" + std::to_string(sink->port()) + "/metrics");
  const std::vector violations{violation()};
  ASSERT_TRUE(sink->write(snapshot(), violations, violations));
  EXPECT_THAT(http_get(sink->port()),
              HasSubstr("pgmemtrace_violations_active{instance=\"15/main\",rule=\"ctx_bloat\","
                        "severity=\"ERROR\"} 1"));
  Snapshot none;
  ASSERT_TRUE(sink->write(none, {}, {}));
  EXPECT_THAT(http_get(sink->port()), Not(HasSubstr("pgmemtrace_level{")));
}

TEST(PrometheusSink, answers_before_the_first_snapshot)
{
  const auto sink = started();
  ASSERT_TRUE(sink);
  EXPECT_THAT(http_get(sink->port()), HasSubstr("200 OK"));
}

TEST(PrometheusSink, says_that_the_port_is_in_use)
{
  const auto first = started();
  ASSERT_TRUE(first);
  const auto second = PrometheusSink::create("127.0.0.1:" + std::to_string(first->port()), {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().err, EADDRINUSE);
  EXPECT_THAT(second.error().what, HasSubstr(std::to_string(first->port())));
  EXPECT_FALSE(second.error().hint.empty());
}

TEST(PrometheusSink, says_that_the_host_lacks_the_address)
{
  const auto sink = PrometheusSink::create("192.0.2.1:0", {}); // reserved for documentation
  ASSERT_FALSE(sink);
  EXPECT_EQ(sink.error().err, EADDRNOTAVAIL);
}

TEST(PrometheusSink, refuses_what_is_no_address)
{
  for (const char *listen : {"", "9752", ":9752", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
                             "127.0.0.1:70000", "127.0.0.1:-1", "127.0.0.1:9752s", "::1:9752",
                             "[::1:9752", "a,b:1", "127.0.0.1:80,127.0.0.1:81"}) {
    const auto sink = PrometheusSink::create(listen, {});
    ASSERT_FALSE(sink) << listen;
    EXPECT_THAT(sink.error().hint, HasSubstr("127.0.0.1:9752")) << listen;
  }
}

TEST(PrometheusSink, can_be_scraped_while_it_writes)
{
  const auto sink = started();
  ASSERT_TRUE(sink);
  std::thread scraper([&] {
    for (int i = 0; i < 50; ++i)
      EXPECT_THAT(http_get(sink->port()), HasSubstr("200 OK"));
  });
  for (int i = 0; i < 200; ++i)
    EXPECT_TRUE(sink->write(snapshot(), {}, {}));
  scraper.join();
}

TEST(PrometheusSink, passes_promtool)
{
  const auto sink = started();
  ASSERT_TRUE(sink);
  const std::vector violations{violation()};
  ASSERT_TRUE(sink->write(snapshot(), violations, violations));
  const std::string response = http_get(sink->port());
  const std::string body = response.substr(response.find("\r\n\r\n") + 4);

  std::array<char, 32> path{"/tmp/pgmt-scrape-XXXXXX"};
  const int fd = mkstemp(path.data());
  ASSERT_GE(fd, 0);
  close(fd);
  std::ofstream(path.data()) << body;
  // Its complaints would show in the test's output.
  const std::string command = std::string(PGMT_PROMTOOL) + " check metrics < " + path.data();
  EXPECT_EQ(std::system(command.c_str()), 0); // NOLINT(bugprone-command-processor,cert-env33-c)
  unlink(path.data());
}

} // namespace
} // namespace pgmemtrace::test
