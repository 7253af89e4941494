// SPDX-License-Identifier: BSD-2-Clause
// html.cpp - one page that works offline: report.html with the numbers in it.
#include <algorithm>

#include <nlohmann/json.hpp>

#include "report/formats.h"
#include "report/report_html.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kPlace = "PGMT_DATA";

Json contexts_of(const Profile &profile)
{
  Json out = Json::array();
  for (const auto &context : profile.contexts)
    out.push_back({valid_utf8(context.name), context.made, context.of(View::grown),
                   context.of(View::live), context.of(View::peak), context.of(View::asked),
                   context.returned, context.query_id});
  return out;
}

Json functions_of(const Profile &profile)
{
  Json out = Json::array();
  for (const auto &function : profile.functions)
    out.push_back(
        {valid_utf8(function.name), valid_utf8(function.module), valid_utf8(function.file)});
  return out;
}

Json entries_of(const Profile &profile)
{
  Json out = Json::array();
  for (const auto &entry : profile.entries)
    out.push_back({entry.context, entry.stack, entry.of(View::grown), entry.of(View::live),
                   entry.of(View::peak), entry.of(View::asked)});
  return out;
}

// Only of contexts that the profile has.
Json samples_of(const Recording &recording, const Profile &profile)
{
  const auto shown = [&](const std::string &name) {
    return profile.grouping == Grouping::query || // samples do not know them
           std::ranges::find(profile.contexts, name, &Profile::Context::name) !=
               profile.contexts.end();
  };
  std::vector<bool> wanted;
  for (const auto &name : recording.names)
    wanted.push_back(shown(name));
  Json out = Json::array();
  for (const auto &sample : recording.samples) {
    Json held = Json::array();
    for (const auto &one : sample.contexts)
      if (wanted[one.name])
        held.push_back({one.name, one.bytes});
    out.push_back({sample.ms, std::move(held)});
  }
  return out;
}

// Inside a script element: nothing in it may look like the element's end.
std::string embedded(const Json &json)
{
  std::string out;
  for (const char c : json.dump(-1, ' ', false, Json::error_handler_t::replace))
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  return out;
}

} // namespace

std::string to_html(const Recording &recording, const Profile &profile, View view)
{
  Json names = Json::array();
  for (const auto &name : recording.names)
    names.push_back(valid_utf8(name));
  Json views = Json::array();
  for (std::size_t i = 0; i < profile.views; ++i)
    views.push_back(to_string(static_cast<View>(i)));
  const Json data{{"view", to_string(view)},
                  {"grouping", to_string(profile.grouping)},
                  {"sampled", recording.level == kLevelMalloc ? "modules" : "contexts"},
                  {"views", std::move(views)},
                  {"about", valid_utf8(describe(recording))},
                  {"contexts", contexts_of(profile)},
                  {"functions", functions_of(profile)},
                  {"entries", entries_of(profile)},
                  {"names", std::move(names)},
                  {"samples", samples_of(recording, profile)}};
  std::string page(report_html());
  page.replace(page.find(kPlace), kPlace.size(), embedded(data));
  return page;
}

} // namespace pgmemtrace
