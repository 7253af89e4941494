// SPDX-License-Identifier: BSD-2-Clause
#include "report/profile.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <utility>

#include <fmt/format.h>

namespace pgmemtrace {

namespace {

constexpr std::array<std::string_view, kViews> kNames{"grown", "live", "peak", "asked"};
constexpr const char *kNoName = "(name not readable)";

std::size_t at(View view) { return static_cast<std::size_t>(view); }

Profile::Function function_of(const Frame &frame)
{
  const auto &path = frame.code.module;
  Profile::Function function{.name = frame.function,
                             .module = path.substr(path.rfind('/') + 1), // npos + 1 is 0
                             .path = path,
                             .build_id = frame.code.build_id,
                             .file = frame.file,
                             .line = frame.line};
  if (function.name.empty())
    function.name =
        function.module.starts_with('[')
            ? function.module
            : fmt::format("{}+{:#x}", function.module, frame.start ? frame.start : frame.offset);
  return function;
}

// Builds profiles: what is alike is kept once.
class Builder {
public:
  std::uint32_t function(const Profile::Function &function)
  {
    const auto [known, is_new] =
        functions_.try_emplace({function.module, function.name}, profile_.functions.size());
    if (is_new)
      profile_.functions.push_back(function);
    return known->second;
  }

  std::uint32_t context(const std::string &name)
  {
    const auto [known, is_new] = contexts_.try_emplace(name, profile_.contexts.size());
    if (is_new)
      profile_.contexts.push_back({.name = name});
    return known->second;
  }

  Profile::Context &context_at(std::uint32_t index) { return profile_.contexts[index]; }

  Profile::Entry &entry(std::uint32_t context, const std::vector<std::uint32_t> &stack)
  {
    const auto [known, is_new] = entries_.try_emplace({context, stack}, profile_.entries.size());
    if (is_new)
      profile_.entries.push_back({.context = context, .stack = stack});
    return profile_.entries[known->second];
  }

  Profile finish(View view) &&
  {
    std::vector<std::uint32_t> order(profile_.contexts.size()), place(order.size());
    for (std::uint32_t i = 0; i < order.size(); ++i)
      order[i] = i;
    std::ranges::stable_sort(order, std::ranges::greater(), [&](std::uint32_t i) {
      return std::abs(profile_.contexts[i].of(view));
    });
    std::vector<Profile::Context> sorted;
    for (std::uint32_t i = 0; i < order.size(); ++i) {
      place[order[i]] = i;
      sorted.push_back(std::move(profile_.contexts[order[i]]));
    }
    profile_.contexts = std::move(sorted);
    for (auto &entry : profile_.entries)
      entry.context = place[entry.context];
    std::ranges::stable_sort(profile_.entries, std::ranges::greater(),
                             [&](const Profile::Entry &entry) { return std::abs(entry.of(view)); });
    for (const auto &context : profile_.contexts)
      for (std::size_t i = 0; i < kViews; ++i)
        profile_.total[i] += context.bytes[i];
    return std::move(profile_);
  }

  Profile profile_;

private:
  std::map<std::pair<std::string, std::string>, std::uint32_t> functions_;
  std::map<std::string, std::uint32_t> contexts_;
  std::map<std::pair<std::uint32_t, std::vector<std::uint32_t>>, std::size_t> entries_;
};

// One process's contexts of one name.
class ContextReport {
public:
  ContextReport(const Recording::Context &context, Builder &to) : context_(context), to_(to)
  {
    const auto signed_bytes = [](std::uint64_t bytes) { return static_cast<std::int64_t>(bytes); };
    bytes_[at(View::grown)] = signed_bytes(context.grown);
    bytes_[at(View::live)] =
        std::max<std::int64_t>(0, signed_bytes(context.grown - context.returned));
    bytes_[at(View::peak)] = signed_bytes(context.peak);
    for (const auto &one : context.allocations)
      if (one.requests)
        bytes_[at(View::asked)] += signed_bytes(one.requests->asked);
  }

  void add(const std::vector<std::vector<std::uint32_t>> &stacks)
  {
    const auto index = to_.context(context_.name.empty() ? kNoName : context_.name);
    auto &sum = to_.context_at(index);
    sum.made += static_cast<std::int64_t>(context_.made);
    sum.returned += static_cast<std::int64_t>(context_.returned);
    for (std::size_t i = 0; i < kViews; ++i)
      sum.bytes[i] += bytes_[i];

    std::vector<std::uint64_t> raised;
    for (const auto &one : context_.allocations)
      raised.push_back(one.raised);
    const auto known = std::accumulate(raised.begin(), raised.end(), std::uint64_t{0});
    raised.push_back(context_.peak > known ? context_.peak - known : 0); // by nobody knows whom
    const auto live = live_of(raised);
    ByView left = bytes_;
    for (std::size_t i = 0; i < context_.allocations.size(); ++i) {
      const auto &one = context_.allocations[i];
      if (!one.stack)
        continue;
      const ByView part{static_cast<std::int64_t>(one.bytes), live[i],
                        static_cast<std::int64_t>(one.raised),
                        static_cast<std::int64_t>(one.requests ? one.requests->asked : 0)};
      auto &entry = to_.entry(index, stacks[*one.stack]);
      entry.blocks += static_cast<std::int64_t>(one.blocks);
      entry.frees += static_cast<std::int64_t>(one.requests ? one.requests->frees : 0);
      for (std::size_t view = 0; view < kViews; ++view) {
        entry.bytes[view] += part[view];
        left[view] -= part[view];
      }
    }
    // Seen, but by whom is not known.
    if (std::ranges::any_of(left, [](std::int64_t bytes) { return bytes > 0; })) {
      auto &entry = to_.entry(index, {});
      for (std::size_t view = 0; view < kViews; ++view)
        entry.bytes[view] += std::max<std::int64_t>(0, left[view]);
    }
  }

private:
  // Known by caller, as far as it is; the rest goes by weight.
  std::vector<std::int64_t> live_of(const std::vector<std::uint64_t> &raised) const
  {
    auto rest = bytes_[at(View::live)];
    for (const auto &one : context_.allocations)
      if (one.requests)
        rest -= static_cast<std::int64_t>(one.requests->live);
    auto live = spread(std::max<std::int64_t>(0, rest), raised);
    for (std::size_t i = 0; i < context_.allocations.size(); ++i)
      if (const auto &requests = context_.allocations[i].requests)
        live[i] += static_cast<std::int64_t>(requests->live);
    return live;
  }

  const Recording::Context &context_;
  Builder &to_;
  ByView bytes_{};
};

void add(CallTree &tree, const Profile::Entry &entry, View view, Innermost innermost)
{
  CallTree *node = &tree;
  const auto step = [&](std::uint32_t function) {
    auto child = std::ranges::find(node->children, function, &CallTree::function);
    if (child == node->children.end())
      child = node->children.insert(child, {.function = function, .bytes = 0, .children = {}});
    child->bytes += entry.of(view);
    node = &*child;
  };
  if (innermost == Innermost::first)
    std::for_each(entry.stack.begin(), entry.stack.end(), step);
  else
    std::for_each(entry.stack.rbegin(), entry.stack.rend(), step);
}

// As deep as a stack is, no deeper.
void sort(CallTree &tree)
{
  std::ranges::stable_sort(tree.children, std::ranges::greater(),
                           [](const CallTree &child) { return std::abs(child.bytes); });
  for (auto &child : tree.children)
    sort(child);
}

} // namespace

std::string_view to_string(View view) { return kNames[at(view)]; }

std::optional<View> view_from_string(std::string_view text)
{
  const auto found = std::ranges::find(kNames, text);
  if (found == kNames.end())
    return std::nullopt;
  return static_cast<View>(found - kNames.begin());
}

std::vector<std::int64_t> spread(std::int64_t bytes, const std::vector<std::uint64_t> &weights)
{
  double all = 0, so_far = 0;
  for (const auto weight : weights)
    all += static_cast<double>(weight);
  std::vector<std::int64_t> parts(weights.size());
  std::int64_t given = 0;
  for (std::size_t i = 0; i < weights.size() && all > 0; ++i) {
    so_far += static_cast<double>(weights[i]);
    const auto until = std::llround(static_cast<double>(bytes) * (so_far / all));
    parts[i] = until - given;
    given = until;
  }
  return parts;
}

Profile make_profile(const Recording &recording, const ProfileOptions &options)
{
  Builder builder;
  if (recording.level == "alloc")
    builder.profile_.views = kViews;
  std::vector<std::vector<std::uint32_t>> stacks;
  for (const auto &stack : recording.stacks) {
    auto &functions = stacks.emplace_back();
    for (const auto frame : stack)
      functions.push_back(builder.function(function_of(recording.frames[frame])));
  }
  for (const auto &process : recording.processes)
    for (const auto &context : process.contexts)
      if (options.context.empty() || context.name == options.context)
        ContextReport(context, builder).add(stacks);
  return std::move(builder).finish(options.view);
}

Profile difference(const Profile &now, const Profile &older, View view)
{
  Builder builder;
  builder.profile_.is_difference = true;
  builder.profile_.views = std::min(now.views, older.views);
  const auto add = [&](const Profile &profile, std::int64_t sign) {
    for (const auto &context : profile.contexts) {
      auto &sum = builder.context_at(builder.context(context.name));
      sum.made += sign * context.made;
      sum.returned += sign * context.returned;
      for (std::size_t i = 0; i < kViews; ++i)
        sum.bytes[i] += sign * context.bytes[i];
    }
    for (const auto &entry : profile.entries) {
      std::vector<std::uint32_t> stack;
      for (const auto function : entry.stack)
        stack.push_back(builder.function(profile.functions[function]));
      auto &sum = builder.entry(builder.context(profile.contexts[entry.context].name), stack);
      sum.blocks += sign * entry.blocks;
      sum.frees += sign * entry.frees;
      for (std::size_t i = 0; i < kViews; ++i)
        sum.bytes[i] += sign * entry.bytes[i];
    }
  };
  add(now, 1);
  add(older, -1);
  return std::move(builder).finish(view);
}

CallTree call_tree(const Profile &profile, std::uint32_t context, View view, Innermost innermost)
{
  CallTree root{.bytes = profile.contexts[context].of(view), .children = {}};
  for (const auto &entry : profile.entries)
    if (entry.context == context && entry.of(view) != 0)
      add(root, entry, view, innermost);
  sort(root);
  return root;
}

} // namespace pgmemtrace
