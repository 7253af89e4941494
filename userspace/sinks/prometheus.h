// SPDX-License-Identifier: BSD-2-Clause
// prometheus.h - the sink for Prometheus: /metrics over HTTP.
//
// write() does all the work; a scrape, which comes from a thread of the HTTP server, only
// takes the latest result.
//
//   write() --> Metrics::render() --> Exposition { families, mutex } <-- GET /metrics
#pragma once

#include <memory>
#include <string>

#include "sinks/metrics.h"
#include "sinks/sink.h"

namespace pgmemtrace {

class Exposition;
class HttpServer;

class PrometheusSink final : public Sink {
public:
  // `listen`: "127.0.0.1:9752", "[::1]:9752"; port 0 takes a free one.
  static Result<std::unique_ptr<PrometheusSink>> create(const std::string &listen,
                                                        MetricsOptions options);

  ~PrometheusSink() override;

  Result<> write(const Snapshot &snapshot, std::span<const Violation> changes,
                 std::span<const Violation> active) override;

  int port() const { return port_; }
  // "http://127.0.0.1:9752/metrics", with the port in use.
  const std::string &url() const { return url_; }

private:
  PrometheusSink(std::unique_ptr<HttpServer> server, MetricsOptions options);

  Metrics metrics_;
  std::shared_ptr<Exposition> exposition_;
  std::unique_ptr<HttpServer> server_; // stops its threads before the rest goes
  int port_;
  std::string url_;
};

} // namespace pgmemtrace
