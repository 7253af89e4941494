// SPDX-License-Identifier: BSD-2-Clause
#include "cli/watch.h"

#include <cerrno>
#include <csignal>
#include <memory>

#include <bpf/libbpf.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>

namespace pgmemtrace {

Result<UniqueFd> termination_signals()
{
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd)
    return Error{"wait for signals", errno, {}};
  return fd;
}

void silence_libbpf()
{
  libbpf_set_print([](libbpf_print_level, const char *, va_list) { return 0; });
}

std::function<void(const Error &)> warn_on_stderr()
{
  const auto log = std::make_shared<spdlog::logger>(
      "pgmemtrace", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  log->set_pattern("%Y-%m-%d %H:%M:%S %l: %v");
  return [log](const Error &error) {
    log->warn("{}{}{}", to_string(error), error.hint.empty() ? "" : "; hint: ", error.hint);
  };
}

} // namespace pgmemtrace
