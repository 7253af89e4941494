// SPDX-License-Identifier: BSD-2-Clause
// recording_fuzzer.cpp - any JSON as a recording, and every report of what is taken for one.
//
// The input is packed first: a mutated gzip file ends at its checksum and reaches nothing.
#include <string_view>

#include <nlohmann/json.hpp>

#include "fuzz.h"
#include "recording/recording_file.h"
#include "report/formats.h"
#include "util/gzip.h"

namespace pgmemtrace::test {
namespace {

void check_reports(const Recording &recording, View view)
{
  const Profile profile = make_profile(recording, {.view = view, .context = {}});
  must(nlohmann::json::accept(to_json(recording, profile, view)), "a report as JSON is JSON");
  (void)describe(recording);
  (void)to_text(profile, view, 10);
  (void)to_folded(profile, view);
  (void)to_html(recording, profile, view);
  must(static_cast<bool>(gunzip(to_pprof(recording, profile, view), kLargestRecording)),
       "a report for pprof can be unpacked");
  for (const auto &context : difference(profile, profile, view).contexts)
    must(context.of(view) == 0, "a recording does not differ from itself");
}

} // namespace
} // namespace pgmemtrace::test

int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  const std::string_view text(reinterpret_cast<const char *>(bytes), size);
  (void)unpack(text);
  const auto recording = unpack(gzip(text));
  if (!recording)
    return 0;
  test::must(static_cast<bool>(unpack(pack(*recording))), "what was read can be written and read");
  for (const View view : {View::grown, View::live, View::peak})
    test::check_reports(*recording, view);
  (void)to_massif(*recording, {});
  return 0;
}
