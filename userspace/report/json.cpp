// SPDX-License-Identifier: BSD-2-Clause
// json.cpp - the whole report as one object.
#include <nlohmann/json.hpp>

#include "report/formats.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

using Json = nlohmann::ordered_json;

Json text_or_null(const std::string &text)
{
  return text.empty() ? Json(nullptr) : Json(valid_utf8(text));
}

Json to_json(const Profile::Function &function)
{
  return {{"function", valid_utf8(function.name)},
          {"module", text_or_null(function.path)},
          {"build_id", text_or_null(function.build_id)},
          {"file", text_or_null(function.file)},
          {"line", function.line ? Json(function.line) : Json(nullptr)}};
}

// A number, or "text:" and a fingerprint, as in violations; null: no statement.
Json query_id_of(const Profile::Context &context)
{
  if (context.query_id.empty() || context.query_id.starts_with("text:"))
    return text_or_null(context.query_id);
  return std::stoll(context.query_id);
}

void add_bytes(Json &to, const ByView &bytes, std::size_t views)
{
  for (std::size_t i = 0; i < views; ++i)
    to[std::string(to_string(static_cast<View>(i))) + "_bytes"] = bytes[i];
}

} // namespace

std::string to_json(const Recording &recording, const Profile &profile, View view)
{
  const bool of_requests = profile.views == kViews;
  Json contexts = Json::array();
  for (const auto &context : profile.contexts) {
    Json one{{"name", valid_utf8(context.name)}};
    if (profile.grouping == Grouping::context)
      one["contexts_made"] = context.made;
    if (profile.grouping == Grouping::query)
      one["query_id"] = query_id_of(context);
    else
      one["returned_bytes"] = context.returned;
    add_bytes(one, context.bytes, profile.views);
    contexts.push_back(std::move(one));
  }
  Json allocations = Json::array();
  for (const auto &entry : profile.entries) {
    Json stack = Json::array();
    for (const auto function : entry.stack)
      stack.push_back(to_json(profile.functions[function]));
    const auto &context = profile.contexts[entry.context];
    Json one{{to_string(profile.grouping), valid_utf8(context.name)},
             {of_requests ? "requests" : "blocks", entry.blocks}};
    if (of_requests)
      one["frees"] = entry.frees;
    if (profile.grouping == Grouping::query)
      one["query_id"] = query_id_of(context);
    add_bytes(one, entry.bytes, profile.views);
    one["stack"] = std::move(stack);
    allocations.push_back(std::move(one));
  }
  Json processes = Json::array();
  for (const auto &process : recording.processes)
    processes.push_back({{"pid", process.pid},
                         {"instance", text_or_null(process.instance)},
                         {"backend_type", text_or_null(process.backend_type)},
                         {"database", text_or_null(process.database)},
                         {"user", text_or_null(process.user)},
                         {"exited", process.exited}});
  Json report{{"started_ms", recording.started_ms},
              {"duration_ms", recording.duration_ms},
              {"host", recording.host},
              {"level", recording.level},
              {"sorted_by", to_string(view)},
              {"difference", profile.is_difference},
              {"lost", recording.losses},
              {"processes", std::move(processes)}};
  add_bytes(report, profile.total, profile.views);
  report[std::string(plural(profile.grouping))] = std::move(contexts);
  report["allocations"] = std::move(allocations);
  return report.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

} // namespace pgmemtrace
