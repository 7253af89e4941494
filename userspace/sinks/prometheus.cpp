// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/prometheus.h"

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>

#include "sinks/listen_address.h"

namespace pgmemtrace {

// The latest families; a scrape copies them outside of the lock.
class Exposition final : public prometheus::Collectable {
public:
  using Families = std::vector<prometheus::MetricFamily>;

  void set(Families families)
  {
    auto next = std::make_shared<const Families>(std::move(families));
    const std::lock_guard lock(mutex_);
    families_.swap(next);
  }

  Families Collect() const override
  {
    std::shared_ptr<const Families> current;
    {
      const std::lock_guard lock(mutex_);
      current = families_;
    }
    return *current;
  }

private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Families> families_ = std::make_shared<const Families>();
};

class HttpServer final {
public:
  // Throws what prometheus-cpp throws.
  HttpServer(const std::string &listen, ListenAddress address)
      : exposer_(std::make_unique<prometheus::Exposer>(listen, 2)), address_(std::move(address))
  {
    const auto ports = exposer_->GetListeningPorts();
    if (ports.empty())
      throw std::runtime_error("no port");
    address_.set_port(static_cast<std::uint16_t>(ports.front()));
  }

  // civetweb looks whether it shall stop once in two seconds, or when somebody connects.
  ~HttpServer()
  {
    const std::jthread visitor([this](const std::stop_token &done) {
      while (!done.stop_requested()) {
        address_.visit();
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    });
    exposer_.reset();
  }

  HttpServer(const HttpServer &) = delete;
  HttpServer &operator=(const HttpServer &) = delete;

  prometheus::Exposer &exposer() { return *exposer_; }
  const ListenAddress &address() const { return address_; }

private:
  std::unique_ptr<prometheus::Exposer> exposer_;
  ListenAddress address_;
};

namespace {

std::string hint_for(int err)
{
  if (err == EADDRINUSE)
    return "another program has that port: --listen HOST:0 takes a free one, --listen off none";
  if (err == EADDRNOTAVAIL)
    return "this host has no such address: try --listen 127.0.0.1:9752";
  return "try --listen 127.0.0.1:9752, or --listen off for no metrics";
}

} // namespace

Result<std::unique_ptr<PrometheusSink>> PrometheusSink::create(const std::string &listen,
                                                               MetricsOptions options)
{
  const auto address = ListenAddress::parse(listen);
  if (!address)
    return Error{"listen on '" + listen + "'", EINVAL,
                 "--listen takes ADDRESS:PORT, such as 127.0.0.1:9752 or [::1]:9752"};
  try {
    return std::unique_ptr<PrometheusSink>(
        new PrometheusSink(std::make_unique<HttpServer>(listen, *address), std::move(options)));
  } catch (const std::exception &) {
    // It only says that it failed, so the kernel is asked again for the reason.
    const int err = address->try_listen();
    return Error{"listen on " + listen, err, hint_for(err)};
  }
}

PrometheusSink::PrometheusSink(std::unique_ptr<HttpServer> server, MetricsOptions options)
    : metrics_(std::move(options)), exposition_(std::make_shared<Exposition>()),
      server_(std::move(server)), port_(server_->address().port()),
      url_(fmt::format("http://{}:{}/metrics", server_->address().host(), port_))
{
  server_->exposer().RegisterCollectable(exposition_);
}

PrometheusSink::~PrometheusSink() = default;

Result<> PrometheusSink::write(const Snapshot &snapshot, std::span<const Violation> changes,
                               std::span<const Violation> active)
{
  exposition_->set(metrics_.render(snapshot, changes, active));
  return Ok{};
}

} // namespace pgmemtrace
