// SPDX-License-Identifier: BSD-2-Clause
// report_test.cpp - reports say what was recorded: read back, and added up.
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "profile.pb.h"
#include "recording_fixture.h"
#include "report/formats.h"
#include "util/gzip.h"

namespace pgmemtrace::test {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

Profile profile_of(const Recording &recording, View view = View::grown,
                   const std::string &context = {})
{
  return make_profile(recording, {.view = view, .context = context});
}

std::vector<std::string> lines(const std::string &text)
{
  std::vector<std::string> out;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    out.push_back(line);
  return out;
}

TEST(Spread, gives_all_and_by_weight)
{
  EXPECT_THAT(spread(100, {1, 3}), ElementsAre(25, 75));
  const auto parts = spread(1000, {1, 1, 1, 1, 1, 1, 1});
  EXPECT_EQ(std::accumulate(parts.begin(), parts.end(), std::int64_t{0}), 1000);
  EXPECT_THAT(spread(100, {0, 0}), ElementsAre(0, 0));
  EXPECT_TRUE(spread(100, {}).empty());
}

TEST(Profile, views_add_up)
{
  const auto profile = profile_of(small_recording());
  EXPECT_EQ(profile.of(View::grown), 7000);
  EXPECT_EQ(profile.of(View::live), 1400);
  EXPECT_EQ(profile.of(View::peak), 5000);
  for (const auto view : {View::grown, View::live, View::peak}) {
    std::int64_t sum = 0;
    for (const auto &entry : profile.entries)
      sum += entry.of(view);
    EXPECT_EQ(sum, profile.of(view)) << to_string(view);
  }
}

TEST(Profile, the_view_decides_what_comes_first)
{
  EXPECT_EQ(profile_of(small_recording(), View::grown).contexts.at(0).name, "Busy");
  EXPECT_EQ(profile_of(small_recording(), View::live).contexts.at(0).name, "Leaky");
}

TEST(Profile, what_is_live_goes_to_those_who_raised_the_peak)
{
  for (const auto &entry : profile_of(small_recording(), View::live, "Busy").entries)
    EXPECT_EQ(entry.of(View::live), 200); // of 400, each raised the peak of process 8 by a half
}

TEST(Profile, knows_a_context_by_its_name_alone)
{
  const auto profile = profile_of(small_recording(), View::grown, "Leaky");
  ASSERT_EQ(profile.contexts.size(), 1u);
  EXPECT_EQ(profile.of(View::grown), 1000);
}

TEST(Profile, more_returned_than_grown_is_nothing_live)
{
  auto recording = small_recording();
  recording.processes[1].contexts[0].returned = 1'000'000;
  EXPECT_EQ(profile_of(recording, View::live, "Busy").of(View::live), 0);
}

TEST(Difference, of_a_recording_and_itself_is_nothing)
{
  const auto profile = profile_of(small_recording());
  const auto same = difference(profile, profile, View::grown);
  EXPECT_EQ(same.total, ByView{});
  for (const auto &entry : same.entries)
    EXPECT_EQ(entry.bytes, ByView{});
}

TEST(Difference, finds_functions_again_at_other_addresses)
{
  auto later = small_recording();
  for (auto &frame : later.frames)
    frame.code.offset += 0x1000;
  later.processes[0].contexts[0].grown += 500;
  later.processes[0].contexts[0].allocations[0].bytes += 500;
  const auto more = difference(profile_of(later), profile_of(small_recording()), View::grown);
  EXPECT_EQ(more.of(View::grown), 500);
  EXPECT_EQ(more.entries.at(0).of(View::grown), 500);
  EXPECT_EQ(more.functions.at(more.entries.at(0).stack.at(0)).name, "leak");
  EXPECT_EQ(more.entries.at(1).of(View::grown), 0);
}

TEST(Folded, names_the_context_and_the_outermost_function_first)
{
  const auto all = lines(to_folded(profile_of(small_recording()), View::grown));
  EXPECT_THAT(all, testing::UnorderedElementsAre("Busy;run;sort 5000", "Leaky;run;leak 950",
                                                 "Busy;run;library.so+0x50;hash 1000",
                                                 "Leaky;(no call stack) 50"));
}

TEST(Folded, a_name_cannot_break_a_line)
{
  auto recording = small_recording();
  recording.frames[0].function = "operator;()\nx";
  const auto folded = to_folded(profile_of(recording), View::live);
  EXPECT_THAT(folded, HasSubstr("Leaky;run;operator:() x 950\n"));
}

TEST(Text, names_contexts_shares_functions_and_losses)
{
  const auto recording = small_recording();
  const auto text = to_text(profile_of(recording, View::live), View::live, 20);
  EXPECT_LT(text.find("Leaky"), text.find("Busy"));
  EXPECT_THAT(text, HasSubstr("leak"));
  EXPECT_THAT(text, HasSubstr("95.0%"));
  EXPECT_THAT(text, HasSubstr("(no call stack)"));
  EXPECT_THAT(describe(recording), HasSubstr("stack_cut 3"));
}

TEST(Text, top_leaves_out_the_rest_and_says_so)
{
  const auto text = to_text(profile_of(small_recording(), View::live), View::live, 1);
  EXPECT_THAT(text, Not(HasSubstr("Busy")));
  EXPECT_THAT(text, HasSubstr("contexts more: 1"));
}

TEST(Json, has_every_allocation)
{
  const auto recording = small_recording();
  const auto report = json::parse(to_json(recording, profile_of(recording), View::grown));
  EXPECT_EQ(report["grown_bytes"], 7000);
  EXPECT_EQ(report["lost"]["stack_cut"], 3);
  std::int64_t sum = 0;
  for (const auto &one : report["allocations"])
    sum += one["grown_bytes"].get<std::int64_t>();
  EXPECT_EQ(sum, 7000);
  EXPECT_EQ(report["allocations"][0]["stack"][0]["function"], "sort");
  EXPECT_EQ(report["processes"][0]["exited"], true);
}

// What a program prints of `text` given as a file.
std::string output_of(const std::string &program, const std::string &text, int &status)
{
  std::string path = "/tmp/pgmt-report.XXXXXX";
  close(mkstemp(path.data()));
  std::ofstream(path) << text;
  FILE *pipe = popen((program + " " + path + " 2>&1").c_str(), "r");
  std::string out;
  for (int c = 0; pipe && (c = fgetc(pipe)) != EOF;)
    out.push_back(static_cast<char>(c));
  status = pipe ? pclose(pipe) : -1;
  unlink(path.c_str());
  return out;
}

std::map<std::string, std::int64_t> numbers_of_peak(const std::string &massif)
{
  std::map<std::string, std::int64_t> last;
  for (const auto &line : lines(massif)) {
    const auto equals = line.find('=');
    if (line == "heap_tree=peak")
      return last;
    if (equals != std::string::npos && line.starts_with("mem_"))
      last[line.substr(0, equals)] = std::stoll(line.substr(equals + 1));
  }
  return {};
}

TEST(Massif, tells_useful_bytes_from_headers)
{
  const auto peak = numbers_of_peak(to_massif(small_recording(), ""));
  EXPECT_EQ(peak.at("mem_heap_B"), 4500 - 6 * 40);
  EXPECT_EQ(peak.at("mem_heap_extra_B"), 6 * (40 + 8));
  const auto leaky = numbers_of_peak(to_massif(small_recording(), "Leaky"));
  EXPECT_EQ(leaky.at("mem_heap_B"), 1000 - 3 * 40);
}

TEST(Massif, ms_print_reads_it)
{
  int status = -1;
  const auto printed = output_of("ms_print", to_massif(small_recording(), ""), status);
  ASSERT_EQ(status, 0) << printed;
  EXPECT_THAT(printed, HasSubstr("(peak)"));
  EXPECT_THAT(printed, HasSubstr("sort"));
  EXPECT_THAT(printed, HasSubstr("87.95% (4,000B) Busy"));
}

// What html.cpp put into the page.
json data_of(const std::string &page)
{
  const std::string begin = R"(<script type="application/json" id="data">)";
  const auto from = page.find(begin) + begin.size();
  return json::parse(page.substr(from, page.find("</script>", from) - from));
}

TEST(Html, carries_the_numbers)
{
  const auto recording = small_recording();
  const auto data = data_of(to_html(recording, profile_of(recording), View::live));
  EXPECT_EQ(data["view"], "live");
  std::int64_t grown = 0;
  for (const auto &entry : data["entries"])
    grown += entry[2].get<std::int64_t>();
  EXPECT_EQ(grown, 7000);
  EXPECT_EQ(data["contexts"][0][0], "Busy");
  EXPECT_EQ(data["samples"][1][1].size(), 2u);
}

TEST(Html, a_name_cannot_leave_its_place_and_nothing_is_fetched)
{
  auto recording = small_recording();
  recording.processes[0].contexts[0].name = "</script><img src=x onerror=alert(1)>";
  const auto page = to_html(recording, profile_of(recording), View::grown);
  EXPECT_THAT(page, Not(HasSubstr("<img")));
  EXPECT_EQ(data_of(page)["contexts"][1][0], recording.processes[0].contexts[0].name);
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
}

TEST(Pprof, says_who_grew_what_in_which_context)
{
  const auto recording = small_recording();
  const auto packed = to_pprof(recording, profile_of(recording), View::live);
  const auto bytes = gunzip(packed, 1 << 20);
  ASSERT_TRUE(bytes);
  pprof::Profile profile;
  ASSERT_TRUE(profile.ParseFromString(*bytes));
  const auto string = [&](std::int64_t index) {
    return profile.string_table(static_cast<int>(index));
  };
  EXPECT_EQ(string(0), "");
  EXPECT_EQ(string(profile.default_sample_type()), "live");
  ASSERT_EQ(profile.sample_type_size(), 4);
  EXPECT_EQ(string(profile.sample_type(0).type()), "grown");
  EXPECT_EQ(string(profile.sample_type(0).unit()), "bytes");

  std::map<std::string, std::int64_t> grown;
  for (const auto &sample : profile.sample()) {
    ASSERT_EQ(sample.value_size(), profile.sample_type_size());
    std::string key = string(sample.label(0).str());
    for (const auto id : sample.location_id()) {
      const auto &location = profile.location(static_cast<int>(id) - 1);
      EXPECT_EQ(location.id(), id);
      const auto function = location.line(0).function_id();
      EXPECT_EQ(profile.function(static_cast<int>(function) - 1).id(), function);
      key += ' ' + string(profile.function(static_cast<int>(function) - 1).name());
      EXPECT_EQ(profile.mapping(static_cast<int>(location.mapping_id()) - 1).id(),
                location.mapping_id());
    }
    grown[key] += sample.value(0);
  }
  EXPECT_EQ(grown, (std::map<std::string, std::int64_t>{{"Busy sort run", 5000},
                                                        {"Busy hash library.so+0x50 run", 1000},
                                                        {"Leaky leak run", 950},
                                                        {"Leaky", 50}}));
}

// ---- level malloc, and statements ----

Profile by_query(const Recording &recording, View view = View::grown)
{
  return make_profile(recording, {.view = view, .context = {}, .by_query = true});
}

std::map<std::string, std::int64_t> bytes_by_id(const Profile &profile, View view)
{
  std::map<std::string, std::int64_t> out;
  for (const auto &query : profile.contexts)
    out[query.query_id.empty() ? query.name : query.query_id] = query.of(view);
  return out;
}

TEST(Malloc, what_is_live_is_known_by_stack)
{
  const auto profile = profile_of(heap_recording(), View::live, "library.so");
  ASSERT_EQ(profile.entries.size(), 1u); // one stack, of two statements
  EXPECT_EQ(profile.entries[0].bytes, (ByView{3000, 2000, 2500}));
}

TEST(Malloc, what_is_outside_of_contexts_comes_first)
{
  auto recording = heap_recording();
  recording.processes[0].contexts[0].grown = 1'000'000;
  const auto profile = profile_of(recording);
  EXPECT_EQ(profile.contexts.at(0).name, "library.so");
  EXPECT_EQ(profile.contexts.at(1).name, kContextBlocks);
}

TEST(Malloc, reports_speak_of_modules)
{
  const auto recording = heap_recording();
  const auto profile = profile_of(recording);
  const auto report = json::parse(to_json(recording, profile, View::grown));
  EXPECT_EQ(report["modules"][0]["name"], "library.so");
  EXPECT_EQ(report["modules"][0]["returned_bytes"], 1000);
  EXPECT_EQ(report["allocations"][0]["module"], "library.so");
  EXPECT_FALSE(report.contains("contexts"));
  EXPECT_THAT(to_text(profile, View::grown, 20), Not(HasSubstr("made")));
  EXPECT_EQ(data_of(to_html(recording, profile, View::grown))["grouping"], "module");
}

TEST(Malloc, massif_takes_off_no_block_headers)
{
  auto recording = heap_recording();
  recording.samples = {{.ms = 5, .contexts = {{1, 2000, 3}}}};
  const auto massif = to_massif(recording, "");
  EXPECT_THAT(massif, HasSubstr("mem_heap_B=2000\nmem_heap_extra_B=24\n"));
}

TEST(ByQuery, every_view_adds_up)
{
  const auto recording = heap_recording();
  const auto profile = by_query(recording);
  EXPECT_EQ(bytes_by_id(profile, View::grown),
            (std::map<std::string, std::int64_t>{
                {"-42", 2000}, {"text:0000000000000abc", 1000}, {"(other statements)", 500}}));
  EXPECT_EQ(bytes_by_id(profile, View::live)["-42"], 2000);
  EXPECT_EQ(bytes_by_id(profile, View::live)["text:0000000000000abc"], 0);
  for (const auto view : {View::grown, View::live, View::peak})
    EXPECT_EQ(profile.of(view), profile_of(recording).of(view));
}

// Statements of one id are one, however their texts differ.
TEST(ByQuery, the_server_s_id_decides)
{
  auto recording = heap_recording();
  recording.queries[1].id = -42;
  EXPECT_EQ(bytes_by_id(by_query(recording), View::grown)["-42"], 3000);
}

TEST(ByQuery, contexts_are_the_outermost_function_and_the_rest_has_no_statement)
{
  auto recording = small_recording();
  recording.by_query = true;
  recording.queries = {{.fingerprint = 1, .text = "COPY t FROM STDIN"}};
  recording.processes[0].contexts[0].allocations[0].query = 0;
  const auto all = lines(to_folded(by_query(recording), View::grown));
  EXPECT_THAT(all, testing::Contains("COPY t FROM STDIN;Leaky;run;leak 950"));
  EXPECT_THAT(all, testing::Contains("(no statement, or not known);Leaky 50"));
}

TEST(ByQuery, is_in_every_format)
{
  const auto recording = heap_recording();
  const auto profile = by_query(recording);
  const auto report = json::parse(to_json(recording, profile, View::grown));
  EXPECT_EQ(report["queries"][0]["query_id"], -42);
  EXPECT_EQ(report["queries"][1]["query_id"], "text:0000000000000abc");
  EXPECT_TRUE(report["queries"][2]["query_id"].is_null());
  EXPECT_EQ(report["allocations"][0]["query_id"], -42);
  EXPECT_THAT(to_text(profile, View::grown, 20), HasSubstr("[-42] SELECT ?"));
  EXPECT_EQ(data_of(to_html(recording, profile, View::grown))["contexts"][0][7], "-42");
  const auto more = difference(profile, profile, View::grown);
  EXPECT_EQ(more.total, ByView{});
  EXPECT_EQ(more.contexts.size(), profile.contexts.size());
}

TEST(EveryFormat, takes_an_empty_recording)
{
  const Recording nothing;
  const auto profile = profile_of(nothing);
  EXPECT_FALSE(to_text(profile, View::peak, 20).empty());
  EXPECT_EQ(to_folded(profile, View::peak), "");
  EXPECT_TRUE(json::accept(to_json(nothing, profile, View::peak)));
  EXPECT_THAT(to_massif(nothing, ""), HasSubstr("desc:"));
  EXPECT_TRUE(gunzip(to_pprof(nothing, profile, View::peak), 1 << 20));
  EXPECT_TRUE(data_of(to_html(nothing, profile, View::peak))["entries"].empty());
}

// ---- level alloc ----

TEST(Requests, what_is_live_is_known_by_caller)
{
  const auto profile = make_profile(requests_recording(), {.view = View::live, .context = "Leaky"});
  EXPECT_EQ(profile.views, kViews);
  ASSERT_EQ(profile.entries.size(), 2U);
  EXPECT_EQ(profile.entries[0].of(View::live), 768); // though others raised the peak as well
  EXPECT_EQ(profile.entries[1].of(View::live), 0);
  EXPECT_EQ(profile.of(View::asked), 1200);
}

// Of 1000 bytes in chunks 1200/1536 were asked for; three chunks have a header of 16 bytes each.
TEST(Requests, massif_tells_what_nobody_asked_for)
{
  const auto massif = to_massif(requests_recording(), "Leaky");
  EXPECT_THAT(massif, HasSubstr("mem_heap_B=781\nmem_heap_extra_B=267\n"));
}

TEST(Requests, blocks_have_no_view_of_them)
{
  const auto profile = make_profile(small_recording(), {});
  EXPECT_LT(profile.views, kViews);
  EXPECT_THAT(to_json(small_recording(), profile, View::peak), Not(HasSubstr("asked")));
}

} // namespace
} // namespace pgmemtrace::test
