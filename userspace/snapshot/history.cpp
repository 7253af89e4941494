// SPDX-License-Identifier: BSD-2-Clause
#include "snapshot/history.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

namespace pgmemtrace {
namespace {

constexpr std::size_t kIdentBytes = 96;
// A group that was absent that often keeps nothing but its last point.
constexpr std::uint32_t kForgetAfter = 64;
// An interval counts as active for at most that long: an idle process that did one thing
// in ten seconds was not busy for ten seconds.
constexpr double kMaxActive = 1.0;

bool is_any(std::string_view name, std::initializer_list<std::string_view> names)
{
  return std::ranges::find(names, name) != names.end();
}

// Names that carry a lifetime, wherever an extension hangs its own contexts below them.
Scope scope_of(std::string_view name, Scope parent)
{
  switch (parent) {
  case Scope::session:
    if (name == "TopTransactionContext")
      return Scope::transaction;
    if (is_any(name, {"PortalContext", "PortalHoldContext"}))
      return Scope::portal;
    if (is_any(name, {"MessageContext", "Parallel worker", "Autovacuum Portal"}))
      return Scope::statement;
    return Scope::session;
  case Scope::transaction:
    // PL functions called atomically: SPI hangs its state below the transaction.
    if (is_any(name, {"SPI Proc", "SPI Exec", "ExecutorState", "ExprContext", "Vacuum",
                      "TID storage", "expanded array", "expanded record"}))
      return Scope::statement;
    return Scope::transaction;
  case Scope::portal: return Scope::statement;
  case Scope::statement:
    // START_REPLICATION holds these for as long as the walsender runs.
    return name == "Replication command context" ? Scope::session : Scope::statement;
  }
  return parent;
}

bool same_values(const HistoryPoint &a, const HistoryPoint &b)
{
  return a.count == b.count && a.used == b.used && a.total == b.total;
}
bool same_values(const OutsidePoint &a, const OutsidePoint &b)
{
  return a.private_bytes == b.private_bytes && a.context_bytes == b.context_bytes &&
         a.context_high == b.context_high;
}

// Which of two neighbours to keep: what was given back in between is the better witness
// against growth.
std::uint64_t level(const HistoryPoint &p) { return p.used; }
std::uint64_t level(const OutsidePoint &p) { return p.private_bytes; }

// Halves the older three quarters, the first point excepted.
template <typename Point> void thin(std::vector<Point> &points)
{
  const std::size_t recent = points.size() - points.size() / 4;
  std::size_t out = 1;
  std::size_t in = 1;
  for (; in + 1 < recent; in += 2)
    points[out++] = level(points[in]) <= level(points[in + 1]) ? points[in] : points[in + 1];
  for (; in < points.size(); ++in)
    points[out++] = points[in];
  points.resize(out);
}

// A level stretch is two points: where it began and where it is now.
template <typename Point>
void append(std::vector<Point> &points, const Point &point, std::size_t max)
{
  const std::size_t n = points.size();
  if (n >= 2 && same_values(points[n - 1], point) && same_values(points[n - 2], point)) {
    points.back() = point;
    return;
  }
  if (n >= max)
    thin(points);
  if (points.size() == points.capacity()) // most groups never need more than a few
    points.reserve(points.size() < 4 ? points.size() + 2 : points.size() + 8);
  points.push_back(point);
}

} // namespace

void ProcessHistory::push(const ProcessSnapshot &snapshot)
{
  if (snapshot.contexts.empty() || (snapshots_ > 0 && snapshot.moment <= moment_))
    return;
  process_ = snapshot.process;
  advance_time(snapshot);
  work_mem_bytes_ = snapshot.work_mem_bytes;
  jit_loaded_ = snapshot.jit_loaded;
  in_statement_ = snapshot.activity.in_statement;
  current_query_ = snapshot.activity.current_query;
  current_query_id_ = snapshot.activity.current_query_id;

  if (groups_.size() >= limits_.groups)
    drop_stale_groups();
  const std::vector<Sum> sums = sum_by_group(snapshot);
  add_points(snapshot, sums);
  note_stacks(snapshot.block_growth);
  note_callers(snapshot.alloc_calls);
  add_outside(snapshot);
  merge_queries(snapshot.activity);
  note_statement(snapshot);
  ++snapshots_;
}

void ProcessHistory::advance_time(const ProcessSnapshot &snapshot)
{
  const Activity &activity = snapshot.activity;
  before_ = now_;
  const std::uint64_t events = activity.requests + activity.statements + activity.transactions;
  if (snapshots_ == 0) {
    first_statements_ = activity.statements;
  } else {
    const std::chrono::duration<double> step = snapshot.moment - moment_;
    const bool active =
        events != last_events_ || snapshot.cpu_ticks != last_cpu_ticks_ || activity.in_statement;
    now_.seconds += step.count();
    if (active)
      now_.active += static_cast<float>(std::min(step.count(), kMaxActive));
  }
  // A daemon that lost its counters begins anew; the axis must not run backwards.
  const std::uint64_t statements =
      activity.statements > first_statements_ ? activity.statements - first_statements_ : 0;
  now_.statements = std::max(
      now_.statements, static_cast<std::uint32_t>(std::min<std::uint64_t>(statements, UINT32_MAX)));
  last_events_ = events;
  last_cpu_ticks_ = snapshot.cpu_ticks;
  taken_at_ = snapshot.taken_at;
  moment_ = snapshot.moment;
}

std::vector<ProcessHistory::Sum> ProcessHistory::sum_by_group(const ProcessSnapshot &snapshot)
{
  const std::vector<Context> &contexts = snapshot.contexts;
  std::vector<Seen> in_order(contexts.size());
  std::vector<Sum> sums(groups_.size());
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    const Context &context = contexts[i];
    std::int32_t parent = -1;
    if (i > 0) // a parent that does not come before its child is a torn read: use the root
      parent =
          context.parent >= 0 && static_cast<std::size_t>(context.parent) < i
              ? static_cast<std::int32_t>(in_order[static_cast<std::size_t>(context.parent)].group)
              : 0;

    const auto known = std::ranges::lower_bound(seen_, context.address, {}, &Seen::address);
    bool kept = known != seen_.end() && known->address == context.address;
    std::uint32_t group = kept ? known->group : 0;
    const auto is_of = [&](const ContextGroup &g, auto index) {
      return g.name == context.name &&
             (g.parent == parent || static_cast<std::int32_t>(index) == parent);
    };
    kept = kept && is_of(groups_[group], group);
    if (!kept) {
      // Siblings of one kind hang side by side.
      const std::uint32_t neighbour = i > 0 ? in_order[i - 1].group : 0;
      group = i > 0 && is_of(groups_[neighbour], neighbour) ? neighbour : group_of(context, parent);
      sums.resize(groups_.size());
    }
    in_order[i] = {context.address, group};
    Sum &sum = sums[group];
    ++sum.count;
    sum.kept += kept ? 1 : 0;
    sum.used += context.used_bytes();
    sum.total += context.total_bytes;
    sum.largest = std::max(sum.largest, context.total_bytes);
    if (!kept && sum.newest == nullptr)
      sum.newest = &context;
  }
  // What an incomplete walk did not reach is still there: it must not come back as new.
  if (snapshot.complete) {
    std::ranges::sort(in_order, {}, &Seen::address);
    seen_ = std::move(in_order);
  }
  return sums;
}

std::uint32_t ProcessHistory::group_of(const Context &context, std::int32_t parent)
{
  if (parent < 0)
    return groups_.empty() ? add_group(context.name, -1) : 0;
  const auto parent_index = static_cast<std::size_t>(parent);
  if (groups_[parent_index].name == context.name)
    return static_cast<std::uint32_t>(parent);
  for (std::size_t i = parent_index + 1; i < groups_.size(); ++i)
    if (groups_[i].parent == parent && groups_[i].name == context.name)
      return static_cast<std::uint32_t>(i);
  // Recursive functions nest A/B/A/B: below some depth a name joins the ancestor that bears it.
  if (context.level > 16)
    for (std::int32_t up = groups_[parent_index].parent; up > 0;
         up = groups_[static_cast<std::size_t>(up)].parent)
      if (groups_[static_cast<std::size_t>(up)].name == context.name)
        return static_cast<std::uint32_t>(up);
  if (groups_.size() >= limits_.groups)
    return static_cast<std::uint32_t>(parent);
  return add_group(context.name, parent);
}

std::uint32_t ProcessHistory::add_group(std::string_view name, std::int32_t parent)
{
  ContextGroup group;
  group.name = name;
  group.parent = parent;
  if (parent >= 0)
    group.scope = scope_of(name, groups_[static_cast<std::size_t>(parent)].scope);
  // It was not there before: growth starts at nothing.
  if (snapshots_ > 0)
    group.points.push_back({.time = before_});
  groups_.push_back(std::move(group));
  return static_cast<std::uint32_t>(groups_.size() - 1);
}

void ProcessHistory::add_points(const ProcessSnapshot &snapshot, const std::vector<Sum> &sums)
{
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    ContextGroup &group = groups_[i];
    const Sum &sum = sums[i];
    // What an incomplete walk did not reach is not gone.
    if (!snapshot.complete && !group.points.empty() && sum.used < group.points.back().used)
      continue;
    group.largest = sum.largest;
    group.absent = sum.count > 0 ? 0 : group.absent + 1;
    if (sum.newest != nullptr && sum.newest->ident)
      group.ident = sum.newest->ident->substr(0, kIdentBytes);
    append(group.points, {now_, sum.count, sum.kept, sum.used, sum.total}, limits_.points);
    if (group.absent == kForgetAfter) {
      group.points = {group.points.back()};
      group.ident = {};
    }
  }
}

void ProcessHistory::add_outside(const ProcessSnapshot &snapshot)
{
  std::uint64_t total = 0;
  for (const Context &context : snapshot.contexts)
    total += context.total_bytes;
  std::uint64_t high = total;
  if (snapshot.activity.peak)
    high += snapshot.activity.peak->bytes;
  context_high_ = std::max(context_high_, high);
  // Without the sum over all contexts there is nothing to subtract.
  if (snapshot.complete && snapshot.private_bytes > 0)
    append(outside_, {now_, snapshot.private_bytes, total, context_high_}, limits_.points);
}

// Large contexts are told by address.  Small ones and new ones, which may be thousands and often
// move to another parent, are told by their name.
void ProcessHistory::note_stacks(std::span<const BlockGrowth> growth)
{
  using PerStack = std::map<std::uint64_t, std::uint64_t>;
  std::map<std::uint32_t, PerStack> grown; // by group
  std::map<std::string_view, PerStack> small, made;
  for (const BlockGrowth &g : growth) {
    const auto seen = std::ranges::lower_bound(seen_, g.context, {}, &Seen::address);
    if (g.stack == 0)
      continue;
    if (g.made)
      made[g.name][g.stack] += g.blocks;
    else if (g.context == 0)
      small[g.name][g.stack] += g.bytes;
    else if (seen != seen_.end() && seen->address == g.context)
      grown[seen->group][g.stack] += g.bytes;
  }
  const auto most = [](const PerStack &stacks) {
    return std::ranges::max_element(stacks, {}, &PerStack::value_type::second)->first;
  };
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    auto &group = groups_[i];
    if (const auto stacks = made.find(group.name); stacks != made.end())
      group.made_by = most(stacks->second);
    PerStack all = grown[static_cast<std::uint32_t>(i)];
    if (const auto stacks = small.find(group.name); stacks != small.end())
      for (const auto &[stack, bytes] : stacks->second)
        all[stack] += bytes;
    if (!all.empty())
      group.grown_by = most(all);
  }
}

// What is known by caller lies in contexts that are there once: their names tell them.
void ProcessHistory::note_callers(std::span<const AllocCalls> calls)
{
  for (ContextGroup &group : groups_) {
    if (group.scope != Scope::session)
      continue;
    std::vector<const AllocCalls *> held;
    for (const AllocCalls &one : calls)
      if (one.name == group.name && one.caller != 0)
        held.push_back(&one);
    if (held.empty() && group.callers.empty())
      continue;
    std::ranges::sort(held, std::ranges::greater{},
                      [](const auto *one) { return one->live_bytes; });
    held.resize(std::min(held.size(), limits_.callers));
    std::vector<CallerSeries> next;
    for (const AllocCalls *one : held) {
      const auto known = std::ranges::find(group.callers, one->caller, &CallerSeries::caller);
      CallerSeries series{.caller = one->caller, .points = {}};
      if (known != group.callers.end())
        series = std::move(*known);
      append(series.points,
             {.time = now_,
              .count = static_cast<std::uint32_t>(one->live_chunks),
              .used = one->live_bytes,
              .total = one->live_bytes},
             limits_.points);
      next.push_back(std::move(series));
    }
    std::ranges::sort(next, {}, &CallerSeries::caller);
    group.callers = std::move(next);
  }
}

void ProcessHistory::merge_queries(const Activity &activity)
{
  for (const QueryGrowth &growth : activity.growth) {
    const auto same = std::ranges::find_if(queries_, [&](const QueryGrowth &q) {
      return q.query_id == growth.query_id && q.phase == growth.phase && q.query == growth.query;
    });
    if (same != queries_.end()) {
      same->bytes += growth.bytes;
      same->new_contexts += growth.new_contexts;
      same->occurrences += growth.occurrences;
    } else {
      queries_.push_back(growth);
    }
  }
  std::ranges::stable_sort(queries_, std::ranges::greater{}, &QueryGrowth::bytes);
  if (queries_.size() > limits_.queries) {
    // The last place is for the newest: a new grower must be able to climb.
    if (!activity.growth.empty())
      queries_[limits_.queries - 1] = queries_.back();
    queries_.resize(limits_.queries);
  }
}

// The statement's contexts as this snapshot found them, and what the kernel half saw at
// statement ends in between.
void ProcessHistory::note_statement(const ProcessSnapshot &snapshot)
{
  std::uint64_t bytes = 0;
  std::size_t largest = kNone;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const ContextGroup &group = groups_[i];
    // Held and open cursors outlive statements: they are not this one's.
    if (group.absent > 0 || group.scope == Scope::session || group.scope == Scope::portal)
      continue;
    bytes += group.points.back().total;
    if (largest == kNone || group.largest > groups_[largest].largest)
      largest = i;
  }
  if (largest != kNone && std::max(groups_[largest].largest, bytes / 4) >= limits_.high_bytes)
    note_high({.context = groups_[largest].name,
               .path = path(largest),
               .context_bytes = groups_[largest].largest,
               .bytes = bytes,
               .query = snapshot.activity.current_query,
               .query_id = snapshot.activity.current_query_id,
               .seen = now_,
               .occurrences = 1});
  if (const auto &peak = snapshot.activity.peak; peak && peak->bytes >= limits_.high_bytes)
    note_high({.context = peak->context,
               .path = {},
               .context_bytes = peak->context_bytes,
               .bytes = peak->bytes,
               .query = peak->query,
               .query_id = peak->query_id,
               .seen = now_,
               .occurrences = 1});
}

void ProcessHistory::note_high(StatementHigh high)
{
  const auto same = std::ranges::find(highs_, high.context, &StatementHigh::context);
  if (same == highs_.end()) {
    if (highs_.size() >= limits_.highs)
      highs_.erase(std::ranges::min_element(highs_, {},
                                            [](const StatementHigh &h) { return h.seen.seconds; }));
    highs_.push_back(std::move(high));
    return;
  }
  const std::uint64_t occurrences = same->occurrences + 1;
  if (high.bytes >= same->bytes || high.context_bytes >= same->context_bytes) {
    if (high.path.empty())
      high.path = same->path;
    if (high.query.empty() && high.query_id == 0) {
      high.query = same->query;
      high.query_id = same->query_id;
    }
    high.bytes = std::max(high.bytes, same->bytes);
    high.context_bytes = std::max(high.context_bytes, same->context_bytes);
    *same = std::move(high);
  } else {
    if (same->path.empty())
      same->path = high.path;
    if (high.context_bytes >= same->context_bytes / 2)
      same->seen = high.seen;
  }
  same->occurrences = occurrences;
}

// Makes room when names are many: groups without contexts and children go.
void ProcessHistory::drop_stale_groups()
{
  std::vector<bool> needed(groups_.size(), false);
  for (std::size_t i = groups_.size(); i-- > 0;) {
    if (groups_[i].absent < kForgetAfter / 2)
      needed[i] = true;
    if (needed[i] && groups_[i].parent >= 0)
      needed[static_cast<std::size_t>(groups_[i].parent)] = true;
  }
  std::vector<std::uint32_t> moved(groups_.size(), 0);
  std::size_t out = 0;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (!needed[i])
      continue;
    moved[i] = static_cast<std::uint32_t>(out);
    if (groups_[i].parent >= 0)
      groups_[i].parent =
          static_cast<std::int32_t>(moved[static_cast<std::size_t>(groups_[i].parent)]);
    if (out != i)
      groups_[out] = std::move(groups_[i]);
    ++out;
  }
  groups_.resize(out);
  for (Seen &seen : seen_)
    seen.group = moved[seen.group]; // all of these have contexts, so they stayed
}

std::string ProcessHistory::path(std::size_t group) const
{
  std::vector<std::size_t> up;
  for (auto i = static_cast<std::int32_t>(group); i >= 0;
       i = groups_[static_cast<std::size_t>(i)].parent)
    up.push_back(static_cast<std::size_t>(i));
  std::ranges::reverse(up);
  std::string text;
  for (const std::size_t i : up) {
    if (!text.empty())
      text += '/';
    text += groups_[i].name;
  }
  return text;
}

std::size_t ProcessHistory::find(std::string_view wanted) const
{
  // Names may contain slashes: compare whole paths.
  for (std::size_t i = 0; i < groups_.size(); ++i)
    if (wanted.ends_with(groups_[i].name) && path(i) == wanted)
      return i;
  return kNone;
}

bool ProcessHistory::is_below(std::size_t group, std::size_t ancestor) const
{
  for (std::int32_t up = groups_[group].parent; up >= 0;
       up = groups_[static_cast<std::size_t>(up)].parent)
    if (static_cast<std::size_t>(up) == ancestor)
      return true;
  return false;
}

} // namespace pgmemtrace
