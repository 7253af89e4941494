// SPDX-License-Identifier: BSD-2-Clause
// recording_file.cpp - a recording to and from gzip'ed JSON: docs/recording.md.
#include "recording/recording_file.h"

#include <cerrno>
#include <concepts>
#include <stdexcept>
#include <utility>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "util/gzip.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char *kFormat = "pgmemtrace recording";
constexpr int kVersion = 1;
constexpr int kDeepest = 8; // levels of the document; a hostile one has more

// ---- to JSON ----

Json to_json(const Frame &frame)
{
  Json out{{"module", valid_utf8(frame.code.module)}, {"address", frame.code.offset}};
  if (!frame.code.build_id.empty())
    out["build_id"] = valid_utf8(frame.code.build_id);
  if (!frame.function.empty())
    out["function"] = valid_utf8(frame.function);
  out["offset"] = frame.offset;
  if (frame.start)
    out["start"] = frame.start;
  if (!frame.file.empty())
    out["file"] = valid_utf8(frame.file);
  if (frame.line)
    out["line"] = frame.line;
  if (frame.inlined)
    out["inlined"] = true;
  return out;
}

Json to_json(const Recording::Requests &requests)
{
  return {{"allocs", requests.allocs}, {"reallocs", requests.reallocs}, {"frees", requests.frees},
          {"resets", requests.resets}, {"deletes", requests.deletes},   {"asked", requests.asked},
          {"live", requests.live}};
}

Json to_json(const Recording::Context &context)
{
  Json allocations = Json::array();
  for (const auto &one : context.allocations) {
    Json allocation{{"stack", one.stack ? Json(*one.stack) : Json(nullptr)},
                    {"bytes", one.bytes},
                    {"blocks", one.blocks},
                    {"raised", one.raised}};
    if (one.returned)
      allocation["returned"] = *one.returned;
    if (one.query)
      allocation["query"] = *one.query;
    if (one.requests)
      allocation["requests"] = to_json(*one.requests);
    allocations.push_back(std::move(allocation));
  }
  return {{"name", valid_utf8(context.name)},
          {"made", context.made},
          {"grown", context.grown},
          {"returned", context.returned},
          {"peak", context.peak},
          {"allocations", std::move(allocations)}};
}

Json to_json(const Recording::Process &process)
{
  Json contexts = Json::array();
  for (const auto &context : process.contexts)
    contexts.push_back(to_json(context));
  return {{"pid", process.pid},
          {"server_pid", process.server_pid},
          {"instance", valid_utf8(process.instance)},
          {"backend_type", valid_utf8(process.backend_type)},
          {"database", valid_utf8(process.database)},
          {"user", valid_utf8(process.user)},
          {"exited", process.exited},
          {"contexts", std::move(contexts)}};
}

Json to_json(const Recording::Sample &sample)
{
  Json contexts = Json::array();
  for (const auto &held : sample.contexts)
    contexts.push_back({held.name, held.bytes, held.blocks});
  return {{"ms", sample.ms}, {"contexts", std::move(contexts)}};
}

Json to_json(const Recording::Query &query)
{
  return {{"id", query.id}, {"fingerprint", query.fingerprint}, {"text", valid_utf8(query.text)}};
}

template <typename T> Json all_to_json(const std::vector<T> &values)
{
  Json out = Json::array();
  for (const auto &value : values)
    out.push_back(to_json(value));
  return out;
}

// ---- from JSON: throws ----

// Whole numbers must be written as such: nlohmann::json casts 8e97 to any type that it is asked
// for.
template <std::integral T> T whole(const Json &value)
{
  if (!value.is_number_integer())
    throw std::runtime_error("a whole number is expected");
  const bool fits = value.is_number_unsigned() ? std::in_range<T>(value.get<std::uint64_t>())
                                               : std::in_range<T>(value.get<std::int64_t>());
  if (!fits)
    throw std::runtime_error("a number is too large");
  return value.get<T>();
}

template <typename T> T to(const Json &value)
{
  if constexpr (std::integral<T> && !std::same_as<T, bool>)
    return whole<T>(value);
  else
    return value.get<T>();
}

template <typename T> T get(const Json &object, const char *key) { return to<T>(object.at(key)); }

template <typename T> T get_or(const Json &object, const char *key, T otherwise)
{
  const auto found = object.find(key);
  return found == object.end() ? std::move(otherwise) : to<T>(*found);
}

std::uint32_t index_below(const Json &value, std::size_t count)
{
  const auto index = to<std::uint64_t>(value);
  if (index >= count)
    throw std::runtime_error("an index is too large");
  return static_cast<std::uint32_t>(index);
}

Frame frame_from(const Json &json)
{
  Frame frame;
  frame.code = {.module = get<std::string>(json, "module"),
                .build_id = get_or<std::string>(json, "build_id", {}),
                .offset = get<std::uint64_t>(json, "address")};
  frame.function = get_or<std::string>(json, "function", {});
  frame.offset = get<std::uint64_t>(json, "offset");
  frame.start = get_or<std::uint64_t>(json, "start", 0);
  frame.file = get_or<std::string>(json, "file", {});
  frame.line = get_or(json, "line", 0);
  frame.inlined = get_or(json, "inlined", false);
  return frame;
}

// What indexes in a document are below.
struct Counts {
  std::size_t stacks, queries;
};

std::optional<Recording::Requests> requests_from(const Json &allocation)
{
  const auto found = allocation.find("requests");
  if (found == allocation.end())
    return std::nullopt;
  return Recording::Requests{.allocs = get<std::uint64_t>(*found, "allocs"),
                             .reallocs = get<std::uint64_t>(*found, "reallocs"),
                             .frees = get<std::uint64_t>(*found, "frees"),
                             .resets = get<std::uint64_t>(*found, "resets"),
                             .deletes = get<std::uint64_t>(*found, "deletes"),
                             .asked = get<std::uint64_t>(*found, "asked"),
                             .live = get<std::uint64_t>(*found, "live")};
}

Recording::Context context_from(const Json &json, const Counts &counts)
{
  Recording::Context context{.name = get<std::string>(json, "name"),
                             .made = get<std::uint64_t>(json, "made"),
                             .grown = get<std::uint64_t>(json, "grown"),
                             .returned = get<std::uint64_t>(json, "returned"),
                             .peak = get<std::uint64_t>(json, "peak"),
                             .allocations = {}};
  for (const auto &one : json.at("allocations")) {
    const auto index = [&](const char *key, std::size_t count) {
      const auto value = one.value(key, Json());
      return value.is_null() ? std::nullopt : std::optional(index_below(value, count));
    };
    context.allocations.push_back(
        {.stack = index("stack", counts.stacks),
         .query = index("query", counts.queries),
         .bytes = get<std::uint64_t>(one, "bytes"),
         .blocks = get<std::uint64_t>(one, "blocks"),
         .raised = get<std::uint64_t>(one, "raised"),
         .returned = one.contains("returned") ? std::optional(get<std::uint64_t>(one, "returned"))
                                              : std::nullopt,
         .requests = requests_from(one)});
  }
  return context;
}

Recording::Process process_from(const Json &json, const Counts &counts)
{
  Recording::Process process{.pid = get<std::int64_t>(json, "pid"),
                             .server_pid = get<std::int64_t>(json, "server_pid"),
                             .instance = get<std::string>(json, "instance"),
                             .backend_type = get<std::string>(json, "backend_type"),
                             .database = get<std::string>(json, "database"),
                             .user = get<std::string>(json, "user"),
                             .exited = get<bool>(json, "exited"),
                             .contexts = {}};
  for (const auto &context : json.at("contexts"))
    process.contexts.push_back(context_from(context, counts));
  return process;
}

Recording::Sample sample_from(const Json &json, std::size_t names)
{
  Recording::Sample sample{.ms = get<std::uint64_t>(json, "ms"), .contexts = {}};
  for (const auto &held : json.at("contexts"))
    sample.contexts.push_back({.name = index_below(held.at(0), names),
                               .bytes = to<std::int64_t>(held.at(1)),
                               .blocks = to<std::int64_t>(held.at(2))});
  return sample;
}

Recording recording_from(const Json &json)
{
  Recording recording;
  recording.program = get<std::string>(json, "program");
  recording.host = get<std::string>(json, "host");
  recording.started_ms = get<std::uint64_t>(json, "started_ms");
  recording.duration_ms = get<std::uint64_t>(json, "duration_ms");
  recording.level = get<std::string>(json, "level");
  for (const auto &[reason, count] : json.at("losses").items())
    recording.losses[reason] = to<std::uint64_t>(count);
  for (const auto &server : json.at("servers"))
    recording.servers.push_back({.instance = get<std::string>(server, "instance"),
                                 .version = get<std::string>(server, "version")});
  for (const auto &frame : json.at("frames"))
    recording.frames.push_back(frame_from(frame));
  for (const auto &stack : json.at("stacks")) {
    auto &frames = recording.stacks.emplace_back();
    for (const auto &frame : stack)
      frames.push_back(index_below(frame, recording.frames.size()));
  }
  recording.by_query = json.contains("queries");
  for (const auto &query : json.value("queries", Json::array()))
    recording.queries.push_back({.id = get<std::int64_t>(query, "id"),
                                 .fingerprint = get<std::uint64_t>(query, "fingerprint"),
                                 .text = get<std::string>(query, "text")});
  const Counts counts{recording.stacks.size(), recording.queries.size()};
  for (const auto &process : json.at("processes"))
    recording.processes.push_back(process_from(process, counts));
  for (const auto &name : json.at("names"))
    recording.names.push_back(name.get<std::string>());
  for (const auto &sample : json.at("samples"))
    recording.samples.push_back(sample_from(sample, recording.names.size()));
  return recording;
}

Error not_a_recording(const std::string &why)
{
  return {"read the recording: " + why, 0, "`pgmemtrace record -o FILE` writes such files"};
}

} // namespace

std::string pack(const Recording &recording)
{
  Json servers = Json::array();
  for (const auto &server : recording.servers)
    servers.push_back(
        {{"instance", valid_utf8(server.instance)}, {"version", valid_utf8(server.version)}});
  Json names = Json::array();
  for (const auto &name : recording.names)
    names.push_back(valid_utf8(name));
  Json document{{"format", kFormat},
                {"version", kVersion},
                {"program", recording.program},
                {"host", valid_utf8(recording.host)},
                {"started_ms", recording.started_ms},
                {"duration_ms", recording.duration_ms},
                {"level", recording.level},
                {"losses", recording.losses},
                {"servers", std::move(servers)},
                {"frames", all_to_json(recording.frames)},
                {"stacks", recording.stacks},
                {"processes", all_to_json(recording.processes)},
                {"names", std::move(names)},
                {"samples", all_to_json(recording.samples)}};
  if (recording.by_query)
    document["queries"] = all_to_json(recording.queries);
  return gzip(document.dump() + "\n");
}

Result<Recording> unpack(std::string_view file)
{
  const auto text = gunzip(file, kLargestRecording);
  if (!text)
    return not_a_recording(text.error().what);
  try {
    const auto shallow = [](int depth, Json::parse_event_t, Json &) {
      if (depth > kDeepest)
        throw std::runtime_error("it is nested too deeply");
      return true;
    };
    const auto json = Json::parse(*text, shallow);
    if (!json.is_object() || json.value("format", Json()) != kFormat)
      return not_a_recording("it is none");
    if (const auto version = get<int>(json, "version"); version != kVersion)
      return Error{"read the recording: its format has version " + std::to_string(version) +
                       ", this program reads version " + std::to_string(kVersion),
                   0, "use the pgmemtrace that wrote it, or a later one"};
    return recording_from(json);
  } catch (const std::exception &wrong) {
    return not_a_recording(one_line(wrong.what(), 200));
  }
}

Result<Recording> read_recording(const std::string &path)
{
  const auto failed = [&] { return Error{"read " + path, errno, {}}; };
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!fd || fstat(fd.get(), &status))
    return failed();
  if (!S_ISREG(status.st_mode))
    return Error{"read " + path + ": it is no regular file", 0, {}};
  if (static_cast<std::size_t>(status.st_size) > kLargestRecording)
    return not_a_recording(path + " is larger than any");
  std::string file(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t have = 0;
  while (have < file.size()) {
    const auto got = read(fd.get(), file.data() + have, file.size() - have);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return failed();
    if (got == 0)
      break;
    have += static_cast<std::size_t>(got);
  }
  file.resize(have);
  return unpack(file);
}

} // namespace pgmemtrace
