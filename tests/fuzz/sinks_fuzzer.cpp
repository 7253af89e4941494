// SPDX-License-Identifier: BSD-2-Clause
// sinks_fuzzer.cpp - any bytes as the names, idents and queries that sinks show.
//
// They come out of a server's memory.  None may break a line, a terminal, a JSON value or a scrape.
#include <set>
#include <sstream>

#include <fuzzer/FuzzedDataProvider.h>
#include <nlohmann/json.hpp>
#include <prometheus/text_serializer.h>

#include "fuzz.h"
#include "sinks/console.h"
#include "sinks/json_lines.h"
#include "sinks/metrics.h"
#include "sinks_fixture.h"
#include "snapshot/tree_print.h"
#include "util/text.h"

namespace pgmemtrace::test {
namespace {

class Scene {
public:
  explicit Scene(FuzzedDataProvider &in) : in_(in)
  {
    snapshot_.taken_at = some_time();
    snapshot_.health = health();
    for (int i = 0; i < 2; ++i)
      snapshot_.servers.push_back(some_server());
    for (int i = 0; i < 3; ++i)
      add_process(snapshot_, some_process());
    violations_ = {some_violation(), some_violation()};
  }

  const Snapshot &snapshot() const { return snapshot_; }
  const std::vector<Violation> &violations() const { return violations_; }

private:
  // With what terminals obey, what ends a line or a value, and half a character.
  std::string text()
  {
    const std::string text = in_.ConsumeRandomLengthString(160);
    return text + in_.PickValueInArray({"", "\x1b[2J",
                                        "\xc2\x9b"
                                        "2J",
                                        "\n", "\r", "\"\\", "\xe2\x82"});
  }
  std::uint64_t number() { return in_.ConsumeIntegral<std::uint64_t>(); }

  ServerStatus some_server()
  {
    ServerStatus out = server(text(), in_.ConsumeIntegralInRange(1, 3));
    out.data_directory = text();
    out.version = text();
    out.binary = text();
    return out;
  }

  ProcessSnapshot some_process()
  {
    ProcessSnapshot out = backend(in_.ConsumeIntegralInRange(1, 3), text());
    out.process.backend_type = text();
    out.process.database = text();
    out.process.user = text();
    out.complete = in_.ConsumeBool();
    out.incomplete_reason = text();
    out.activity.current_query = text();
    for (std::int32_t i = 0; i < 3; ++i) {
      Context child = context(text(), number(), number());
      child.parent = i;
      child.level = i + 2;
      child.exact = in_.ConsumeBool();
      if (in_.ConsumeBool())
        child.ident = text();
      out.contexts.push_back(child);
    }
    return out;
  }

  Violation some_violation()
  {
    Violation out = violation(in_.ConsumeBool() ? ViolationState::raised : ViolationState::cleared);
    out.process = some_process().process;
    out.context = text();
    out.path = text();
    out.ident = text();
    out.query = text();
    out.detail = text();
    out.before_bytes = number();
    out.delta_bytes = in_.ConsumeIntegral<std::int64_t>();
    if (in_.ConsumeBool())
      out.query_id.reset();
    return out;
  }

  FuzzedDataProvider &in_;
  Snapshot snapshot_;
  std::vector<Violation> violations_;
};

void check_lines(const Scene &scene, bool redact)
{
  std::ostringstream json;
  std::ostringstream console;
  JsonSink json_sink(json, {.redact = redact});
  ConsoleSink console_sink(console, {.color = false, .redact = redact});
  for (Sink *sink : {static_cast<Sink *>(&json_sink), static_cast<Sink *>(&console_sink)})
    must(static_cast<bool>(sink->write(scene.snapshot(), scene.violations(), scene.violations())),
         "a sink takes any text");

  std::istringstream lines(json.str());
  for (std::string line; std::getline(lines, line);)
    must(nlohmann::json::accept(line), "every line is JSON");
  const std::string shown = console.str();
  must(valid_utf8(shown) == shown, "the console gets UTF-8");
  for (std::size_t i = 0; i < shown.size(); ++i) {
    const auto c = static_cast<unsigned char>(shown[i]);
    const bool c1 =
        c == 0xC2 && static_cast<unsigned char>(shown[i + 1]) < 0xA0; // U+0080 to U+009F
    must(c == '\n' || (c >= ' ' && c != 0x7F && !c1), "no control character gets to the terminal");
  }
}

void check_metrics(const Scene &scene)
{
  Metrics metrics{MetricsOptions{}};
  const auto families = metrics.render(scene.snapshot(), scene.violations(), scene.violations());
  std::set<std::pair<std::string, std::vector<std::pair<std::string, std::string>>>> series;
  for (const auto &family : families) {
    for (const auto &metric : family.metric) {
      std::vector<std::pair<std::string, std::string>> labels;
      for (const auto &label : metric.label) {
        must(valid_utf8(label.value) == label.value, "labels are UTF-8");
        labels.emplace_back(label.name, label.value);
      }
      must(series.emplace(family.name, std::move(labels)).second, "no series is there twice");
    }
  }
  (void)prometheus::TextSerializer().Serialize(families);
}

void check_trees(const Scene &scene)
{
  for (const auto &process : scene.snapshot().processes) {
    must(nlohmann::json::accept(print_tree(*process, PrintFormat::json)), "a tree as JSON is JSON");
    for (const PrintFormat format : {PrintFormat::text, PrintFormat::csv}) {
      (void)print_tree(*process, format);
      (void)print_summary(*process, format);
    }
  }
}

} // namespace
} // namespace pgmemtrace::test

int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  FuzzedDataProvider in(bytes, size);
  const bool redact = in.ConsumeBool();
  const test::Scene scene(in);
  test::check_lines(scene, redact);
  test::check_metrics(scene);
  test::check_trees(scene);
  return 0;
}
