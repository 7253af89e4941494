// SPDX-License-Identifier: BSD-2-Clause
#include "sinks/json_lines.h"

#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "sinks/format.h"
#include "snapshot/dsm.h"
#include "util/redact.h"
#include "util/text.h"

namespace pgmemtrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxQueryBytes = 1024;

Json text_or_null(std::string_view text)
{
  return text.empty() ? Json(nullptr) : Json(valid_utf8(text));
}

Json pid_or_null(pid_t pid) { return pid == 0 ? Json(nullptr) : Json(pid); }

Json query_id_of(const Violation &violation)
{
  // pg_stat_activity shows the 64 bits as a signed number.
  if (violation.query_id.value_or(0) != 0)
    return static_cast<std::int64_t>(*violation.query_id);
  if (violation.query.empty())
    return nullptr;
  return fmt::format("text:{:016x}", fingerprint(violation.query));
}

Json ident_of(const Violation &violation, bool redacted)
{
  // An ident is often a whole statement, and nothing says which ones are.
  if (!violation.ident || redacted)
    return nullptr;
  return valid_utf8(*violation.ident, kMaxQueryBytes);
}

Json stack_of(const Violation &violation)
{
  if (violation.stack.empty())
    return nullptr;
  Json frames = Json::array();
  for (const Frame &frame : violation.stack) {
    Json out{{"module", text_or_null(frame.code.module)},
             {"function", text_or_null(frame.function)},
             {"offset", frame.offset}};
    if (!frame.file.empty()) {
      out["file"] = valid_utf8(frame.file);
      out["line"] = frame.line;
    }
    frames.push_back(std::move(out));
  }
  return frames;
}

// Who has a segment, who made it: rule dsm_leak alone.
Json segments_of(const Violation &violation)
{
  if (violation.segments.empty())
    return nullptr;
  Json out = Json::array();
  for (const DsmSegment &segment : violation.segments) {
    Json pids = Json::array();
    for (const DsmMapping &mapping : segment.mappings)
      pids.push_back(mapping.process.id.pid);
    const auto &origin = segment.origin;
    out.push_back({{"handle", segment.handle},
                   {"bytes", segment.bytes == 0 ? Json(nullptr) : Json(segment.bytes)},
                   {"pinned", segment.pinned},
                   {"attachments", segment.attachments},
                   {"pids", std::move(pids)},
                   {"made_by", origin ? Json(origin->process.pid) : Json(nullptr)},
                   {"made_at", origin ? Json(rfc3339(origin->time)) : Json(nullptr)}});
  }
  return out;
}

Json violation_line(const Violation &violation, bool redacted)
{
  const ProcessIdentity &process = violation.process;
  const std::string query = redacted ? redact(violation.query) : violation.query;
  return {
      {"type", "violation"},
      {"state", to_string(violation.state)},
      {"time", rfc3339(violation.time)},
      {"instance", text_or_null(process.instance)},
      {"pid", process.id.pid},
      {"server_pid", pid_or_null(process.server_pid)},
      {"backend_type", text_or_null(process.backend_type)},
      {"database", text_or_null(process.database)},
      {"user", text_or_null(process.user)},
      {"rule", violation.rule},
      {"severity", to_string(violation.severity)},
      {"context", text_or_null(violation.context)},
      {"path", text_or_null(violation.path)},
      {"ident", ident_of(violation, redacted)},
      {"phase", violation.phase ? Json(to_string(*violation.phase)) : Json(nullptr)},
      {"before_bytes", violation.before_bytes},
      {"after_bytes", violation.after_bytes},
      {"delta_bytes", violation.delta_bytes},
      {"shape", text_or_null(violation.shape)},
      {"occurrences", violation.occurrences},
      {"query_id", query_id_of(violation)},
      {"query", text_or_null(valid_utf8(query, kMaxQueryBytes))},
      {"stack", stack_of(violation)},
      {"module", text_or_null(violation.module)},
      {"segments", segments_of(violation)},
      {"detail", text_or_null(violation.detail)},
      {"advice", text_or_null(violation.advice)},
  };
}

Json process_summary(const ProcessSnapshot &snapshot)
{
  const ProcessIdentity &process = snapshot.process;
  return {
      {"pid", process.id.pid},
      {"instance", text_or_null(process.instance)},
      {"backend_type", text_or_null(process.backend_type)},
      {"database", text_or_null(process.database)},
      {"user", text_or_null(process.user)},
      {"total_bytes", total_bytes(snapshot)},
  };
}

Json server_summary(const ServerStatus &server)
{
  return {
      {"instance", text_or_null(server.instance)},
      {"postmaster", server.postmaster},
      {"version", text_or_null(server.version)},
      {"level", to_string(server.level)},
      {"wanted_level", to_string(server.wanted_level)},
      {"overhead_ratio", server.overhead_ratio},
      {"dsm_segments", server.dsm ? Json(server.dsm->segments.size()) : Json(nullptr)},
      {"dsm_bytes", server.dsm ? Json(total_bytes(*server.dsm)) : Json(nullptr)},
  };
}

Json status_line(const Snapshot &snapshot, const Status &status, std::size_t active)
{
  Json servers = Json::array();
  for (const ServerStatus &server : snapshot.servers)
    servers.push_back(server_summary(server));
  Json fastest = nullptr;
  if (status.fastest) {
    fastest = process_summary(*status.fastest);
    fastest["delta_bytes"] = status.fastest_bytes;
  }
  return {
      {"type", "status"},
      {"time", rfc3339(snapshot.taken_at)},
      {"servers", std::move(servers)},
      {"processes", snapshot.processes.size()},
      {"incomplete_processes", status.incomplete},
      {"contexts", status.contexts},
      {"total_bytes", status.total_bytes},
      {"used_bytes", status.used_bytes},
      {"private_bytes", status.private_bytes},
      {"violations_active", active},
      {"biggest", status.biggest ? process_summary(*status.biggest) : Json(nullptr)},
      {"fastest", std::move(fastest)},
      {"overhead_budget_ratio", snapshot.health.overhead_budget_ratio},
      {"events_lost", snapshot.health.events_lost},
      {"read_errors", snapshot.health.read_errors},
  };
}

std::string text_of(const Json &line)
{
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

} // namespace

std::string json_of(const Violation &violation, bool redacted)
{
  return text_of(violation_line(violation, redacted));
}

JsonSink::JsonSink(std::ostream &out, const JsonOptions &options)
    : out_(out), options_(options), status_(options.status_interval)
{
}

Result<> JsonSink::write(const Snapshot &snapshot, std::span<const Violation> changes,
                         std::span<const Violation> active)
{
  out_.clear(); // a disk that was full may have room again
  errno = 0;
  const auto put = [this](const Json &line) { out_ << text_of(line) << '\n' << std::flush; };
  for (const Violation &violation : changes)
    put(violation_line(violation, options_.redact));
  if (const auto status = status_.due(snapshot))
    put(status_line(snapshot, *status, active.size()));
  if (!out_)
    return Error{"write JSON lines", errno, "where does the standard output go?"};
  return Ok{};
}

} // namespace pgmemtrace
