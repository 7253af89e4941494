// SPDX-License-Identifier: BSD-2-Clause
// pprof.cpp - for `go tool pprof` and its like: a gzip'ed profile.proto.
//
// Each view is a sample type; a sample's context is its label "context" (-tagfocus, -tagroot), a
// library "module", a statement "query".
#include <map>
#include <string>

#include "profile.pb.h"

#include "report/formats.h"
#include "util/gzip.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

class Writer {
public:
  Writer() { string(""); }

  // Ids of everything begin with 1: 0 is none.
  pprof::Profile &profile() { return profile_; }

  std::int64_t string(const std::string &text)
  {
    const auto [known, is_new] = strings_.try_emplace(text, profile_.string_table_size());
    if (is_new)
      profile_.add_string_table(valid_utf8(text));
    return known->second;
  }

  void sample_type(const std::string &type, const std::string &unit)
  {
    auto &added = *profile_.add_sample_type();
    added.set_type(string(type));
    added.set_unit(string(unit));
  }

  // One location for each function: its lines are not told apart.
  void function(const Profile::Function &function)
  {
    auto &added = *profile_.add_function();
    added.set_id(static_cast<std::uint64_t>(profile_.function_size()));
    added.set_name(string(function.name));
    added.set_system_name(string(function.name));
    added.set_filename(string(function.file));
    auto &location = *profile_.add_location();
    location.set_id(added.id());
    location.set_mapping_id(mapping(function));
    auto &line = *location.add_line();
    line.set_function_id(added.id());
    line.set_line(function.line);
  }

  void sample(const Profile &from, const Profile::Entry &entry)
  {
    auto &added = *profile_.add_sample();
    for (const auto function : entry.stack)
      added.add_location_id(function + 1);
    for (std::size_t i = 0; i < from.views; ++i)
      added.add_value(entry.bytes[i]);
    added.add_value(entry.blocks);
    auto &label = *added.add_label();
    label.set_key(string(std::string(to_string(from.grouping))));
    label.set_str(string(from.contexts[entry.context].name));
  }

private:
  std::uint64_t mapping(const Profile::Function &function)
  {
    const auto next = static_cast<std::uint64_t>(profile_.mapping_size()) + 1;
    const auto [known, is_new] = mappings_.try_emplace(function.path, next);
    if (is_new) {
      auto &added = *profile_.add_mapping();
      added.set_id(next);
      added.set_filename(string(function.path));
      added.set_build_id(string(function.build_id));
      added.set_has_functions(true);
    }
    return known->second;
  }

  pprof::Profile profile_;
  std::map<std::string, std::int64_t> strings_;
  std::map<std::string, std::uint64_t> mappings_;
};

} // namespace

std::string to_pprof(const Recording &recording, const Profile &profile, View view)
{
  Writer writer;
  for (std::size_t i = 0; i < profile.views; ++i)
    writer.sample_type(std::string(to_string(static_cast<View>(i))), "bytes");
  writer.sample_type(profile.views == kViews ? "requests" : "blocks", "count");
  auto &out = writer.profile();
  out.set_default_sample_type(writer.string(std::string(to_string(view))));
  out.set_time_nanos(static_cast<std::int64_t>(recording.started_ms * 1'000'000));
  out.set_duration_nanos(static_cast<std::int64_t>(recording.duration_ms * 1'000'000));
  out.add_comment(writer.string(describe(recording)));
  for (const auto &function : profile.functions)
    writer.function(function);
  for (const auto &entry : profile.entries)
    writer.sample(profile, entry);
  return gzip(out.SerializeAsString());
}

} // namespace pgmemtrace
