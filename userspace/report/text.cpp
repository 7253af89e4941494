// SPDX-License-Identifier: BSD-2-Clause
// text.cpp - for a terminal: contexts, and below each who asked, innermost function first.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "report/formats.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

constexpr double kLeastShare = 0.01; // of a context: smaller branches are summed up
constexpr std::size_t kNameBytes = 80;
constexpr std::size_t kLongestChain = 12; // calls shown of a chain; other formats have all

std::string bytes_text(const Profile &profile, std::int64_t bytes)
{
  return profile.is_difference
             ? human_delta(bytes)
             : human_bytes(static_cast<std::uint64_t>(std::max<std::int64_t>(0, bytes)));
}

class Printer {
public:
  Printer(const Profile &profile, View view) : profile_(profile), view_(view) {}

  void table(std::size_t top)
  {
    row({.asked = "asked",
         .grown = "grown",
         .returned = "returned",
         .live = "live",
         .peak = "peak",
         .made = "made",
         .name = std::string(to_string(profile_.grouping))});
    for (std::size_t i = 0; i < std::min(top, profile_.contexts.size()); ++i) {
      const auto &context = profile_.contexts[i];
      row({.asked = text(context.of(View::asked)),
           .grown = text(context.of(View::grown)),
           .returned = text(context.returned),
           .live = text(context.of(View::live)),
           .peak = text(context.of(View::peak)),
           .made = std::to_string(context.made),
           .name = title(context)});
    }
    rest(top);
  }

  void trees(std::size_t top)
  {
    for (std::uint32_t i = 0; i < std::min(top, profile_.contexts.size()); ++i) {
      const auto &context = profile_.contexts[i];
      if (context.of(view_) == 0)
        continue;
      const auto all = profile_.of(view_);
      out_ += fmt::format("\n{}: {}", title(context), text(context.of(view_)));
      if (!profile_.is_difference && all > 0)
        out_ += fmt::format(", {:.1f}% of all", 100.0 * static_cast<double>(context.of(view_)) /
                                                    static_cast<double>(all));
      out_ += '\n';
      const auto tree = call_tree(profile_, i, view_, Innermost::first);
      whole_ = static_cast<double>(std::abs(context.of(view_)));
      branches(tree, 0);
      auto unknown = tree.bytes;
      for (const auto &child : tree.children)
        unknown -= child.bytes;
      if (unknown != 0)
        line(unknown, 0, "(no call stack)");
    }
  }

  std::string take() && { return std::move(out_); }

private:
  std::string text(std::int64_t bytes) const { return bytes_text(profile_, bytes); }

  static std::string title(const Profile::Context &context)
  {
    auto name = one_line(context.name, kNameBytes);
    return context.query_id.empty() ? name : fmt::format("[{}] {}", context.query_id, name);
  }

  struct Row {
    std::string asked, grown, returned, live, peak, made, name;
  };

  // What is returned is not known by statement; only contexts are made, and only at level alloc
  // is anything asked for.
  void row(const Row &row)
  {
    if (profile_.views == kViews)
      out_ += fmt::format("{:>12} ", row.asked);
    out_ += fmt::format("{:>12} ", row.grown);
    if (profile_.grouping != Grouping::query)
      out_ += fmt::format("{:>12} ", row.returned);
    out_ += fmt::format("{:>12} {:>12} ", row.live, row.peak);
    if (profile_.grouping == Grouping::context)
      out_ += fmt::format("{:>10} ", row.made);
    out_ += ' ' + row.name + '\n';
  }

  void rest(std::size_t top)
  {
    if (profile_.contexts.size() <= top)
      return;
    std::int64_t left = 0;
    for (std::size_t i = top; i < profile_.contexts.size(); ++i)
      left += profile_.contexts[i].of(view_);
    out_ += fmt::format("{} more: {}, {} {}; --top shows more of them\n", plural(profile_.grouping),
                        profile_.contexts.size() - top, text(left), to_string(view_));
  }

  void line(std::int64_t bytes, std::size_t depth, const std::string &words)
  {
    out_ += fmt::format("{:>7.1f}% {:>10}  {:{}}{}\n", 100.0 * static_cast<double>(bytes) / whole_,
                        text(bytes), "", 2 * depth, words);
  }

  std::string words(const Profile::Function &function, std::string &module) const
  {
    auto out = one_line(function.name, kNameBytes);
    if (!function.file.empty())
      out += fmt::format(" ({}:{})", function.file.substr(function.file.rfind('/') + 1),
                         function.line);
    else if (function.module != module && !function.name.starts_with(function.module))
      out += fmt::format(" ({})", one_line(function.module, kNameBytes));
    module = function.module;
    return out;
  }

  // Calls without a branch are one line, "callee < caller": stacks are deep.
  void branch(const CallTree &tree, std::size_t depth)
  {
    std::string module;
    auto chain = words(profile_.functions[tree.function], module);
    const CallTree *last = &tree;
    std::size_t calls = 1;
    while (last->children.size() == 1 && last->children.front().bytes == last->bytes) {
      last = &last->children.front();
      if (++calls <= kLongestChain)
        chain += " < " + words(profile_.functions[last->function], module);
    }
    if (calls > kLongestChain)
      chain += " < ...";
    line(tree.bytes, depth, chain);
    branches(*last, depth + 1);
  }

  void branches(const CallTree &tree, std::size_t depth)
  {
    std::int64_t small = 0;
    std::size_t small_ones = 0;
    for (const auto &child : tree.children) {
      if (static_cast<double>(std::abs(child.bytes)) >= kLeastShare * whole_) {
        branch(child, depth);
        continue;
      }
      small += child.bytes;
      ++small_ones;
    }
    if (small_ones > 0)
      line(small, depth, fmt::format("(places of less than 1%: {})", small_ones));
  }

  const Profile &profile_;
  View view_;
  double whole_ = 1;
  std::string out_;
};

} // namespace

std::string describe(const Recording &recording)
{
  const auto started = static_cast<std::time_t>(recording.started_ms / 1000);
  auto text = fmt::format("recorded {:.1f}s at level {} on {} from {:%Y-%m-%d %H:%M:%S} UTC\n",
                          static_cast<double>(recording.duration_ms) / 1000,
                          one_line(recording.level, kNameBytes),
                          one_line(recording.host, kNameBytes), fmt::gmtime(started));
  for (const auto &server : recording.servers)
    text += fmt::format("server {}: PostgreSQL {}\n", one_line(server.instance, kNameBytes),
                        one_line(server.version, kNameBytes));
  const auto ended = std::ranges::count(recording.processes, true, &Recording::Process::exited);
  text += fmt::format("processes that grew: {}", recording.processes.size());
  if (ended > 0)
    text += fmt::format(", ended meanwhile: {} (live is what they held at their end)", ended);
  text += '\n';
  for (const auto &[reason, count] : recording.losses)
    text += fmt::format("not seen: {} {}\n", one_line(reason, kNameBytes), count);
  return text;
}

std::string to_text(const Profile &profile, View view, std::size_t top)
{
  Printer printer(profile, view);
  printer.table(top);
  printer.trees(top);
  return std::move(printer).take();
}

} // namespace pgmemtrace
