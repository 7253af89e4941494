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
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kGroupings{
    {{"context", "contexts"}, {"module", "modules"}, {"query", "queries"}}};
constexpr const char *kNoName = "(name not readable)";
constexpr const char *kNoModule = "(module not known)";
constexpr const char *kNoStatement = "(no statement, or not known)";
constexpr const char *kOtherStatements = "(other statements)";

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

  std::uint32_t context(const std::string &name, const std::string &query_id = {})
  {
    const auto [known, is_new] = contexts_.try_emplace(
        query_id.empty() ? std::pair(name, query_id) : std::pair(std::string(), query_id),
        profile_.contexts.size());
    if (is_new)
      profile_.contexts.push_back({.name = name, .query_id = query_id});
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
    // What contexts hold is level block's: here, what is outside of them comes first.
    std::ranges::stable_sort(order, std::ranges::greater(), [&](std::uint32_t i) {
      const auto &context = profile_.contexts[i];
      return std::pair(context.name != kContextBlocks, std::abs(context.of(view)));
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
  std::map<std::pair<std::string, std::string>, std::uint32_t> contexts_;
  std::map<std::pair<std::uint32_t, std::vector<std::uint32_t>>, std::size_t> entries_;
};

// Where the parts of contexts go: to the context, or to the statements that asked.
class Groups {
public:
  Groups(const Recording &recording, bool by_query, Builder &to)
      : recording_(recording), by_query_(by_query), to_(to)
  {
    to_.profile_.grouping = by_query                          ? Grouping::query
                            : recording.level == kLevelMalloc ? Grouping::module
                                                              : Grouping::context;
  }

  void add(const Recording::Context &context, const ByView &bytes)
  {
    const auto *unknown = recording_.level == kLevelMalloc ? kNoModule : kNoName;
    const auto &name = context.name.empty() ? unknown : context.name;
    if (by_query_) { // its name is the outermost function then, unless functions say the same
      outermost_ = recording_.level == kLevelMalloc
                       ? std::nullopt
                       : std::optional(to_.function({.name = name,
                                                     .module = "memory context",
                                                     .path = {},
                                                     .build_id = {},
                                                     .file = {}}));
      return;
    }
    context_ = to_.context(name);
    auto &sum = to_.context_at(context_);
    sum.made += static_cast<std::int64_t>(context.made);
    sum.returned += static_cast<std::int64_t>(context.returned);
    for (std::size_t i = 0; i < kViews; ++i)
      sum.bytes[i] += bytes[i];
  }

  void add_part(std::optional<std::uint32_t> query, std::vector<std::uint32_t> stack,
                const ByView &bytes, std::uint64_t blocks, std::uint64_t frees)
  {
    const auto group = by_query_ ? statement(query) : context_;
    if (outermost_)
      stack.push_back(*outermost_);
    auto &entry = to_.entry(group, stack);
    entry.blocks += static_cast<std::int64_t>(blocks);
    entry.frees += static_cast<std::int64_t>(frees);
    for (std::size_t i = 0; i < kViews; ++i) {
      entry.bytes[i] += bytes[i];
      if (by_query_)
        to_.context_at(group).bytes[i] += bytes[i];
    }
  }

private:
  std::uint32_t statement(std::optional<std::uint32_t> index)
  {
    if (!index)
      return to_.context(kNoStatement);
    const auto &query = recording_.queries[*index];
    if (query.id == 0 && query.text.empty())
      return to_.context(kOtherStatements);
    return to_.context(query.text, query.id ? std::to_string(query.id)
                                            : fmt::format("text:{:016x}", query.fingerprint));
  }

  const Recording &recording_;
  bool by_query_;
  Builder &to_;
  std::uint32_t context_ = 0;
  std::optional<std::uint32_t> outermost_;
};

// One process's contexts of one name.
class ContextReport {
public:
  ContextReport(const Recording::Context &context, Groups &to) : context_(context), to_(to)
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
    to_.add(context_, bytes_);
    const auto live = live_by_allocation();
    ByView left = bytes_;
    for (std::size_t i = 0; i < context_.allocations.size(); ++i) {
      const auto &one = context_.allocations[i];
      if (!one.stack && !one.query)
        continue;
      const ByView part{static_cast<std::int64_t>(one.bytes), live[i],
                        static_cast<std::int64_t>(one.raised),
                        static_cast<std::int64_t>(one.requests ? one.requests->asked : 0)};
      to_.add_part(one.query, one.stack ? stacks[*one.stack] : std::vector<std::uint32_t>(), part,
                   one.blocks, one.requests ? one.requests->frees : 0);
      for (std::size_t view = 0; view < kViews; ++view)
        left[view] -= part[view];
    }
    // Seen, but by whom is not known.
    for (auto &bytes : left)
      bytes = std::max<std::int64_t>(0, bytes);
    if (left != ByView{})
      to_.add_part(std::nullopt, {}, left, 0, 0);
  }

private:
  // Where it is known by allocation it is that; the rest goes by weight.
  std::vector<std::int64_t> live_by_allocation() const
  {
    std::vector<std::int64_t> live;
    std::vector<std::uint64_t> raised;
    for (const auto &one : context_.allocations) {
      raised.push_back(one.raised);
      if (one.returned)
        live.push_back(static_cast<std::int64_t>(one.bytes - std::min(one.bytes, *one.returned)));
    }
    if (live.size() == raised.size()) // it is known of all
      return live;
    const auto known = std::accumulate(raised.begin(), raised.end(), std::uint64_t{0});
    raised.push_back(context_.peak > known ? context_.peak - known : 0); // by nobody knows whom
    auto rest = bytes_[at(View::live)];
    for (const auto &one : context_.allocations)
      if (one.requests)
        rest -= static_cast<std::int64_t>(one.requests->live);
    live = spread(std::max<std::int64_t>(0, rest), raised);
    for (std::size_t i = 0; i < context_.allocations.size(); ++i)
      if (const auto &requests = context_.allocations[i].requests)
        live[i] += static_cast<std::int64_t>(requests->live);
    return live;
  }

  const Recording::Context &context_;
  Groups &to_;
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

std::string_view to_string(Grouping grouping)
{
  return kGroupings[static_cast<std::size_t>(grouping)].first;
}

std::string_view plural(Grouping grouping)
{
  return kGroupings[static_cast<std::size_t>(grouping)].second;
}

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
  Groups groups(recording, options.by_query, builder);
  for (const auto &process : recording.processes)
    for (const auto &context : process.contexts)
      if (options.context.empty() || context.name == options.context)
        ContextReport(context, groups).add(stacks);
  return std::move(builder).finish(options.view);
}

Profile difference(const Profile &now, const Profile &older, View view)
{
  Builder builder;
  builder.profile_.is_difference = true;
  builder.profile_.grouping = now.grouping;
  builder.profile_.views = std::min(now.views, older.views);
  const auto add = [&](const Profile &profile, std::int64_t sign) {
    for (const auto &context : profile.contexts) {
      auto &sum = builder.context_at(builder.context(context.name, context.query_id));
      sum.made += sign * context.made;
      sum.returned += sign * context.returned;
      for (std::size_t i = 0; i < kViews; ++i)
        sum.bytes[i] += sign * context.bytes[i];
    }
    for (const auto &entry : profile.entries) {
      std::vector<std::uint32_t> stack;
      for (const auto function : entry.stack)
        stack.push_back(builder.function(profile.functions[function]));
      const auto &context = profile.contexts[entry.context];
      auto &sum = builder.entry(builder.context(context.name, context.query_id), stack);
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
