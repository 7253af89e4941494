// SPDX-License-Identifier: BSD-2-Clause
// tree_print.cpp - three forms of a tree.
#include "snapshot/tree_print.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <numeric>
#include <unordered_map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "util/text.h"

namespace pgmemtrace {

namespace {

using Json = nlohmann::ordered_json;
using Indexes = std::vector<std::size_t>;

constexpr std::size_t kIdentColumns = 80;
constexpr std::size_t kMaxIndent = 40; // levels: deeper ones stay readable

// Sums over contexts that are shown as one.
struct Sums {
  std::uint64_t contexts = 0;
  std::uint64_t total_bytes = 0, total_nblocks = 0, free_bytes = 0, free_chunks = 0, used_bytes = 0;
  bool exact = true;

  void add(const Context &context)
  {
    ++contexts;
    total_bytes += context.total_bytes;
    total_nblocks += context.total_nblocks;
    free_bytes += context.free_bytes;
    free_chunks += context.free_chunks;
    used_bytes += context.used_bytes();
    exact = exact && context.exact;
  }
};

std::vector<Indexes> children_of(const std::vector<Context> &contexts)
{
  std::vector<Indexes> children(contexts.size());
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    const std::int32_t parent = contexts[i].parent;
    if (parent >= 0 && static_cast<std::size_t>(parent) < i)
      children[static_cast<std::size_t>(parent)].push_back(i);
  }
  return children;
}

Indexes breadth_first(const std::vector<Context> &contexts)
{
  const auto children = children_of(contexts);
  Indexes order;
  if (!contexts.empty())
    order.push_back(0);
  for (std::size_t at = 0; at < order.size(); ++at)
    std::ranges::copy(children[order[at]], std::back_inserter(order));
  return order;
}

// ---- json, csv --------------------------------------------------------------------

std::string dump(const Json &object)
{
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// An array with one object per line: as good for grep as for jq.
template <typename Row> std::string json_array(std::size_t rows, Row row)
{
  std::string out = "[";
  for (std::size_t i = 0; i < rows; ++i)
    out += (i == 0 ? "\n" : ",\n") + dump(row(i));
  return out + (rows == 0 ? "]\n" : "\n]\n");
}

template <typename Counted> void put_counters(Json &object, const Counted &counted, bool exact)
{
  const auto known = [exact](std::uint64_t value) { return exact ? Json(value) : Json(nullptr); };
  object["total_bytes"] = counted.total_bytes;
  object["total_nblocks"] = known(counted.total_nblocks);
  object["free_bytes"] = known(counted.free_bytes);
  object["free_chunks"] = known(counted.free_chunks);
}

Json json_of(const Context &context, const std::vector<std::uint32_t> &path)
{
  Json object;
  object["name"] = context.name;
  object["ident"] = context.ident ? Json(*context.ident) : Json(nullptr);
  object["type"] = to_string(context.type);
  object["level"] = context.level;
  object["path"] = path;
  put_counters(object, context, context.exact);
  object["used_bytes"] = context.exact ? Json(context.used_bytes()) : Json(nullptr);
  return object;
}

Json json_of(const std::string &name, const Sums &sums)
{
  Json object;
  object["name"] = name;
  object["contexts"] = sums.contexts;
  put_counters(object, sums, sums.exact);
  object["used_bytes"] = sums.exact ? Json(sums.used_bytes) : Json(nullptr);
  return object;
}

// RFC 4180.
std::string csv_text(std::string_view text)
{
  std::string quoted = "\"";
  for (const char c : valid_utf8(text)) {
    if (c == '"')
      quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

std::string csv_counters(const Sums &sums)
{
  if (!sums.exact)
    return fmt::format("{},,,,", sums.total_bytes);
  return fmt::format("{},{},{},{},{}", sums.total_bytes, sums.total_nblocks, sums.free_bytes,
                     sums.free_chunks, sums.used_bytes);
}

std::string csv_of(const Context &context, const std::vector<std::uint32_t> &path)
{
  Sums sums;
  sums.add(context);
  return fmt::format("{},{},{},{},\"{{{}}}\",{}\n", csv_text(context.name),
                     context.ident ? csv_text(*context.ident) : "", to_string(context.type),
                     context.level, fmt::join(path, ","), csv_counters(sums));
}

// ---- text -------------------------------------------------------------------------

constexpr const char *kRow = "{:>12} {:>12} {:>12} {:>12} {:>8}  ";

std::string or_unknown(const std::string &text, const char *what)
{
  return text.empty() ? std::string() : fmt::format(", {} {}", what, one_line(text));
}

std::string footer(const ProcessSnapshot &process, const Sums &all)
{
  std::string line =
      fmt::format("total: {} in {} contexts, {} used, {} free", human_bytes(all.total_bytes),
                  all.contexts, human_bytes(all.used_bytes), human_bytes(all.free_bytes));
  if (process.private_bytes != 0)
    line += fmt::format("; private memory of the process: {}", human_bytes(process.private_bytes));
  return line + "\n";
}

Sums sum_of(const std::vector<Context> &contexts)
{
  Sums sums;
  for (const Context &context : contexts)
    sums.add(context);
  return sums;
}

class TextTree {
public:
  explicit TextTree(const ProcessSnapshot &process)
      : contexts_(process.contexts), children_(children_of(process.contexts)),
        subtree_(contexts_.size())
  {
    // Parents come first, so that one pass backwards adds up whole subtrees.
    for (std::size_t i = contexts_.size(); i-- > 0;) {
      subtree_[i] += contexts_[i].total_bytes;
      const std::int32_t parent = contexts_[i].parent;
      if (parent >= 0 && static_cast<std::size_t>(parent) < i)
        subtree_[static_cast<std::size_t>(parent)] += subtree_[i];
    }
  }

  std::string print()
  {
    struct Pending {
      Indexes group;
      std::size_t level = 0;
    };
    std::vector<Pending> stack;
    if (!contexts_.empty())
      stack.push_back({.group = {0}});
    while (!stack.empty()) {
      const Pending pending = std::move(stack.back());
      stack.pop_back();
      put_line(pending.group, pending.level);
      auto groups = groups_below(pending.group);
      for (auto group = groups.rbegin(); group != groups.rend(); ++group)
        stack.push_back({.group = std::move(*group), .level = pending.level + 1});
    }
    return std::move(out_);
  }

private:
  std::uint64_t with_children(const Indexes &group) const
  {
    return std::accumulate(group.begin(), group.end(), std::uint64_t{0},
                           [this](std::uint64_t sum, std::size_t i) { return sum + subtree_[i]; });
  }

  // All children of a group, those of one name together, biggest first.
  std::vector<Indexes> groups_below(const Indexes &group) const
  {
    std::unordered_map<std::string_view, std::size_t> by_name;
    std::vector<Indexes> groups;
    for (const std::size_t parent : group) {
      for (const std::size_t child : children_[parent]) {
        const auto [it, added] = by_name.try_emplace(contexts_[child].name, groups.size());
        if (added)
          groups.emplace_back();
        groups[it->second].push_back(child);
      }
    }
    std::ranges::stable_sort(groups, std::ranges::greater{},
                             [this](const Indexes &one) { return with_children(one); });
    return groups;
  }

  void put_line(const Indexes &group, std::size_t level)
  {
    Sums sums;
    for (const std::size_t i : group)
      sums.add(contexts_[i]);
    const Context &first = contexts_[group.front()];
    fmt::format_to(std::back_inserter(out_), kRow, human_bytes(with_children(group)),
                   human_bytes(sums.total_bytes), human_bytes(sums.used_bytes),
                   human_bytes(sums.free_bytes),
                   sums.exact ? std::to_string(sums.total_nblocks) : "?");
    out_.append(2 * std::min(level, kMaxIndent), ' ');
    out_ += one_line(first.name);
    if (group.size() > 1)
      out_ += fmt::format(" x {}", group.size());
    else if (first.ident)
      out_ += ": " + one_line(*first.ident, kIdentColumns);
    out_ += '\n';
  }

  const std::vector<Context> &contexts_;
  std::vector<Indexes> children_;
  std::vector<std::uint64_t> subtree_;
  std::string out_;
};

std::vector<std::pair<std::string, Sums>> by_name(const std::vector<Context> &contexts)
{
  std::map<std::string, Sums> names;
  for (const Context &context : contexts)
    names[context.name].add(context);
  std::vector<std::pair<std::string, Sums>> rows(names.begin(), names.end());
  std::ranges::stable_sort(rows, std::ranges::greater{},
                           [](const auto &row) { return row.second.total_bytes; });
  return rows;
}

std::string summary_text(const ProcessSnapshot &process,
                         const std::vector<std::pair<std::string, Sums>> &rows)
{
  std::string out = print_heading(process.process);
  out += fmt::format(kRow, "contexts", "total", "used", "free", "blocks") + "name\n";
  for (const auto &[name, sums] : rows) {
    out += fmt::format(kRow, sums.contexts, human_bytes(sums.total_bytes),
                       human_bytes(sums.used_bytes), human_bytes(sums.free_bytes),
                       sums.exact ? std::to_string(sums.total_nblocks) : "?") +
           one_line(name) + "\n";
  }
  return out + footer(process, sum_of(process.contexts));
}

} // namespace

std::optional<PrintFormat> print_format_from_string(std::string_view text)
{
  if (text == "text")
    return PrintFormat::text;
  if (text == "json")
    return PrintFormat::json;
  if (text == "csv")
    return PrintFormat::csv;
  return std::nullopt;
}

std::string print_heading(const ProcessIdentity &who)
{
  std::string line =
      fmt::format("process {}: {}", who.id.pid,
                  who.backend_type.empty() ? "PostgreSQL process" : one_line(who.backend_type));
  line += or_unknown(who.database, "database");
  line += or_unknown(who.user, "user");
  line += or_unknown(who.instance, "instance");
  if (who.major != 0)
    line += fmt::format(", PostgreSQL {}", who.major);
  return line + "\n";
}

std::vector<std::vector<std::uint32_t>> context_paths(const std::vector<Context> &contexts)
{
  std::vector<std::vector<std::uint32_t>> paths(contexts.size());
  std::uint32_t number = 0;
  for (const std::size_t i : breadth_first(contexts)) {
    if (contexts[i].parent >= 0)
      paths[i] = paths[static_cast<std::size_t>(contexts[i].parent)];
    paths[i].push_back(++number);
  }
  return paths;
}

std::string print_tree(const ProcessSnapshot &process, PrintFormat format)
{
  const auto &contexts = process.contexts;
  if (format == PrintFormat::text) {
    return print_heading(process.process) +
           fmt::format(kRow, "with below", "total", "used", "free", "blocks") + "context\n" +
           TextTree(process).print() + footer(process, sum_of(contexts));
  }
  const Indexes order = breadth_first(contexts);
  const auto paths = context_paths(contexts);
  if (format == PrintFormat::json)
    return json_array(order.size(),
                      [&](std::size_t i) { return json_of(contexts[order[i]], paths[order[i]]); });
  std::string out = "name,ident,type,level,path,total_bytes,total_nblocks,free_bytes,free_chunks,"
                    "used_bytes\n";
  for (const std::size_t i : order)
    out += csv_of(contexts[i], paths[i]);
  return out;
}

std::string print_summary(const ProcessSnapshot &process, PrintFormat format)
{
  const auto rows = by_name(process.contexts);
  if (format == PrintFormat::text)
    return summary_text(process, rows);
  if (format == PrintFormat::json)
    return json_array(rows.size(),
                      [&](std::size_t i) { return json_of(rows[i].first, rows[i].second); });
  std::string out = "name,contexts,total_bytes,total_nblocks,free_bytes,free_chunks,used_bytes\n";
  for (const auto &[name, sums] : rows)
    out += fmt::format("{},{},{}\n", csv_text(name), sums.contexts, csv_counters(sums));
  return out;
}

} // namespace pgmemtrace
