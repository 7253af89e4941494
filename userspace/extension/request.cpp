// SPDX-License-Identifier: BSD-2-Clause
#include "extension/request.h"

#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <pgmemtrace/abi.h>

namespace pgmemtrace {

namespace {

using Json = nlohmann::json;

constexpr std::pair<std::string_view, std::uint32_t> kKinds[] = {
    {"begin_window", PGMT_REQUEST_BEGIN_WINDOW},   {"end_window", PGMT_REQUEST_END_WINDOW},
    {"contexts", PGMT_REQUEST_CONTEXTS},           {"checkpoint", PGMT_REQUEST_CHECKPOINT},
    {"check_on_copy", PGMT_REQUEST_CHECK_ON_COPY},
};

// nullopt: missing, of another type, or out of range.
std::optional<std::int64_t> number(const Json &object, const char *key, std::int64_t least)
{
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer())
    return std::nullopt;
  const auto value = found->get<std::int64_t>();
  if (value < least || value > std::numeric_limits<std::int32_t>::max())
    return std::nullopt;
  return value;
}

// Stays as it is where it is missing.  False: it is no boolean.
bool read_flag(const Json &object, const char *key, bool &flag)
{
  const auto found = object.find(key);
  if (found == object.end())
    return true;
  if (found->is_boolean())
    flag = found->get<bool>();
  return found->is_boolean();
}

std::optional<std::vector<std::string>> strings(const Json &array)
{
  std::vector<std::string> out;
  if (!array.is_array())
    return std::nullopt;
  for (const auto &element : array) {
    if (!element.is_string())
      return std::nullopt;
    out.push_back(element.get<std::string>());
  }
  return out;
}

std::optional<WindowLimits> window_of(const Json &object)
{
  const auto pattern = object.find("pattern");
  const auto leak = number(object, "min_leak_bytes", 0);
  const auto bloat = number(object, "bloat_min_bytes", 0);
  if (pattern == object.end() || !pattern->is_string() || !leak || !bloat)
    return std::nullopt;
  WindowLimits window{.pattern = pattern->get<std::string>(),
                      .allowed_contexts = {},
                      .min_leak_bytes = static_cast<std::uint64_t>(*leak),
                      .bloat_min_bytes = static_cast<std::uint64_t>(*bloat)};
  if (!read_flag(object, "within_transaction", window.within_transaction))
    return std::nullopt;
  const auto options = object.find("options");
  if (options == object.end())
    return window;
  if (!read_flag(*options, "track_dsm", window.track_dsm))
    return std::nullopt;
  if (!options->contains("allowed_contexts"))
    return window;
  auto allowed = strings((*options)["allowed_contexts"]);
  if (!allowed)
    return std::nullopt;
  window.allowed_contexts = std::move(*allowed);
  return window;
}

std::optional<std::string> string(const Json &object, const char *key)
{
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? std::optional(found->get<std::string>())
                                                     : std::nullopt;
}

std::optional<CheckOnCopy> check_of(const Json &object)
{
  const auto check = string(object, "check");
  auto database = string(object, "database"), user = string(object, "user"),
       workload = string(object, "workload");
  const auto iterations = number(object, "iterations", 1);
  if (!database || !user || !workload || !iterations ||
      (check != "use_after_reset" && check != "oom_simulation"))
    return std::nullopt;
  return CheckOnCopy{.option = check == "oom_simulation" ? "oom" : "use-after-reset",
                     .database = std::move(*database),
                     .user = std::move(*user),
                     .workload = std::move(*workload),
                     .iterations = static_cast<std::uint32_t>(*iterations)};
}

} // namespace

Result<Request> parse_request(std::uint64_t id, std::uint32_t kind, std::string_view text)
{
  const auto wrong = [&] {
    return Error{fmt::format("understand request {} of the extension", id), 0,
                 "are the extension and the daemon of the same version?"};
  };
  const auto json = Json::parse(text, nullptr, false);
  if (!json.is_object())
    return wrong();
  const auto backend = number(json, "backend_pid", 1);
  if (!backend)
    return wrong();
  Request request{.id = id, .kind = kind, .backend_pid = static_cast<pid_t>(*backend)};
  if (kind == PGMT_REQUEST_BEGIN_WINDOW) {
    auto window = window_of(json);
    if (!window)
      return wrong();
    request.window = std::move(*window);
  } else if (kind == PGMT_REQUEST_CHECKPOINT) {
    const auto executions = number(json, "iterations", 0);
    if (!executions)
      return wrong();
    request.executions = static_cast<std::uint32_t>(*executions);
  } else if (kind == PGMT_REQUEST_CHECK_ON_COPY) {
    auto check = check_of(json);
    if (!check)
      return wrong();
    request.check = std::move(*check);
  } else if (kind == PGMT_REQUEST_CONTEXTS) {
    // Any number: one that is no process's gets an answer, too.
    const auto pid = number(json, "pid", std::numeric_limits<std::int32_t>::min());
    if (!pid)
      return wrong();
    request.contexts_pid = static_cast<pid_t>(*pid);
  }
  return request;
}

std::uint32_t request_kind(std::string_view name)
{
  for (const auto &[known, kind] : kKinds)
    if (known == name)
      return kind;
  return 0;
}

} // namespace pgmemtrace
