// SPDX-License-Identifier: BSD-2-Clause
// prometheus_test - a real Prometheus scrapes the daemon with the scrape configuration, the
// alerts and the queries of the dashboard that we ship.
#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <unistd.h>

#include "support/runtime_test.h"

namespace pgmemtrace::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::seconds;

fs::path dashboards() { return fs::path(PGMT_SOURCE_DIR) / "dashboards"; }

// Prometheus takes no port 0, so one that was free a moment ago must do.
int free_port()
{
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto *any = reinterpret_cast<sockaddr *>(&address);
  const bool bound = bind(fd, any, length) == 0 && getsockname(fd, any, &length) == 0;
  close(fd);
  return bound ? ntohs(address.sin_port) : 0;
}

std::string percent_encoded(std::string_view text)
{
  static constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0)
      out += c;
    else
      out += {'%', kHex[byte >> 4U], kHex[byte & 15U]};
  }
  return out;
}

// Prometheus in a folder of its own, gone with the object.
class Prometheus final {
public:
  static std::unique_ptr<Prometheus> start(int daemon_port)
  {
    std::string dir = (fs::temp_directory_path() / "pgmt-prometheus-XXXXXX").string();
    if (mkdtemp(dir.data()) == nullptr)
      return nullptr;
    auto out = std::unique_ptr<Prometheus>(new Prometheus(dir, free_port()));
    out->write_config(daemon_port);
    if (!out->launch() ||
        !eventually([&] { return http_get(out->port_, "/-/ready").status == 200; }))
      return nullptr;
    return out;
  }

  ~Prometheus()
  {
    if (testing::Test::HasFailure())
      std::cerr << "---- prometheus ----\n" << read_text(dir_ / "log") << '\n';
    process_.reset();
    fs::remove_all(dir_);
  }

  Prometheus(const Prometheus &) = delete;
  Prometheus &operator=(const Prometheus &) = delete;

  // The result vector of an instant query; an error is a failure of the test.
  json query(const std::string &promql) const
  {
    const auto response = http_get(port_, "/api/v1/query?query=" + percent_encoded(promql));
    const json answer = json::parse(response.body, nullptr, false);
    if (answer.is_discarded() || answer.value("status", "") != "success") {
      ADD_FAILURE() << promql << ": " << response.status << ' ' << response.body;
      return json::array();
    }
    return answer.at("data").at("result");
  }

  bool answers(const std::string &promql) const { return !query(promql).empty(); }

private:
  Prometheus(fs::path dir, int port) : dir_(std::move(dir)), port_(port) {}

  void write_config(int daemon_port) const
  {
    std::string scrape = read_text(dashboards() / "scrape.yml");
    scrape = std::regex_replace(scrape, std::regex("127\\.0\\.0\\.1:9752"),
                                "127.0.0.1:" + std::to_string(daemon_port));
    std::ofstream(dir_ / "prometheus.yml")
        << "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        << "rule_files: [alerts.yml]\n"
        << scrape;
    // Nobody waits for minutes in a test.
    std::ofstream(dir_ / "alerts.yml") << std::regex_replace(
        read_text(dashboards() / "alerts.yml"), std::regex("for: [0-9]+m\n"), "for: 2s\n");
  }

  bool launch()
  {
    const int log = open((dir_ / "log").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    auto process = ChildProcess::spawn({"/usr/bin/prometheus",
                                        "--config.file=" + (dir_ / "prometheus.yml").string(),
                                        "--storage.tsdb.path=" + (dir_ / "tsdb").string(),
                                        "--web.listen-address=127.0.0.1:" + std::to_string(port_)},
                                       {.out = log, .err = log});
    close(log);
    if (!process)
      return false;
    process_ = std::make_unique<ChildProcess>(std::move(*process));
    return true;
  }

  fs::path dir_;
  int port_;
  std::unique_ptr<ChildProcess> process_;
};

struct PanelQuery {
  std::string panel;
  std::string promql;
};

// As Grafana would send them with "All" chosen.
std::vector<PanelQuery> panel_queries()
{
  std::vector<PanelQuery> out;
  const json dashboard = json::parse(read_text(dashboards() / "pgmemtrace.json"));
  for (const json &panel : dashboard.at("panels"))
    for (const json &target : panel.value("targets", json::array())) {
      std::string promql = target.at("expr");
      promql = std::regex_replace(promql, std::regex("\\$instance"), ".*");
      promql = std::regex_replace(promql, std::regex("\\$__rate_interval"), "15s");
      out.push_back({panel.at("title"), promql});
    }
  return out;
}

class PrometheusTest : public RuntimeTest {
protected:
  void SetUp() override
  {
    RuntimeTest::SetUp();
    if (IsSkipped() || HasFatalFailure())
      return;
    leaking_ = cluster().connect();
    // One context, TopTransactionContext, that gains about 3 MB a second for as long as we
    // look: notifications wait in it for the end of the transaction.
    leaking_.send_async("DO $$ BEGIN FOR i IN 1..100000 LOOP"
                        "  PERFORM pg_notify('growth', i || repeat(md5(i::text), 120));"
                        "  IF i % 40 = 0 THEN PERFORM pg_sleep(0.05); END IF;"
                        " END LOOP; END $$");
    daemon_ = start_daemon({"--pid", std::to_string(cluster().postmaster_pid()), "--interval", "1s",
                            "--listen", "127.0.0.1:0"});
    ASSERT_TRUE(daemon_);
    const int port = daemon_->listen_port();
    ASSERT_GT(port, 0);
    prometheus_ = Prometheus::start(port);
    ASSERT_TRUE(prometheus_) << "is /usr/bin/prometheus installed?";
  }

  void TearDown() override
  {
    prometheus_.reset();
    if (daemon_) {
      EXPECT_EQ(daemon_->stop(), 0);
      daemon_.reset();
      cluster().connect().exec("SELECT pg_terminate_backend(" +
                               std::to_string(leaking_.backend_pid()) + ")");
    }
    RuntimeTest::TearDown();
  }

  Session leaking_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Prometheus> prometheus_;
};

TEST_F(PrometheusTest, every_panel_has_something_to_show)
{
  const auto queries = panel_queries();
  ASSERT_GT(queries.size(), 20U);
  for (const auto &query : queries)
    EXPECT_TRUE(eventually([&] { return prometheus_->answers(query.promql); }))
        << query.panel << ": " << query.promql;
}

TEST_F(PrometheusTest, the_alert_on_a_growing_context_fires)
{
  ASSERT_TRUE(eventually(
      [&] {
        return prometheus_->answers(
            R"(ALERTS{alertname="PgmemtraceCtxBloat",alertstate="firing",severity=~"warning|error"})");
      },
      seconds(90)))
      << prometheus_->query("pgmemtrace_violations_active > 0").dump(2);
  EXPECT_TRUE(prometheus_->answers(
      R"(pgmemtrace_ctx_bloat_bytes{context="TopTransactionContext"} > 65536)"));
  EXPECT_FALSE(prometheus_->answers(R"(ALERTS{alertname="PgmemtraceAbsent",alertstate="firing"})"));
}

// The growing context is one of many: what it holds must show in the series by context.
TEST_F(PrometheusTest, the_growing_context_has_a_series_that_rises)
{
  EXPECT_TRUE(eventually([&] {
    return prometheus_->answers(
        R"(deriv(pgmemtrace_context_total_bytes{context="TopTransactionContext",backend_type="client backend"}[15s]) > 100000)");
  }));
}

} // namespace
} // namespace pgmemtrace::test
