// SPDX-License-Identifier: BSD-2-Clause
// request.h - what a session asks, as docs/extension_protocol.md writes it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "rules/window.h"
#include "util/result.h"

namespace pgmemtrace {

struct CheckOnCopy {
  std::string option; // of `pgmemtrace check`: use-after-reset, oom
  std::string database, user, workload;
  std::uint32_t iterations = 0;
};

struct Request {
  std::uint64_t id = 0;
  std::uint32_t kind = 0;       // enum pgmt_request_kind, or one that we do not know
  pid_t backend_pid = 0;        // who asks, as the server numbers it
  WindowLimits window;          // begin_window
  std::uint32_t executions = 0; // checkpoint
  pid_t contexts_pid = 0;       // contexts, as the server numbers it
  CheckOnCopy check;            // check_on_copy
};

// What a request has at most, docs/extension_protocol.md.
inline constexpr std::uint32_t kLongestRequest = 4095;

// Error: it is not what the protocol says.
Result<Request> parse_request(std::uint64_t id, std::uint32_t kind, std::string_view json);

// By the name that requests() gives it; 0: one that we do not know.
std::uint32_t request_kind(std::string_view name);

} // namespace pgmemtrace
