// SPDX-License-Identifier: BSD-2-Clause
// snapshot.cpp - words and sums.
#include "snapshot/snapshot.h"

#include <array>
#include <utility>

namespace pgmemtrace {

namespace {

constexpr std::array kLevels{
    std::pair{Level::sweep, std::string_view("sweep")},
    std::pair{Level::request, std::string_view("request")},
    std::pair{Level::statement, std::string_view("statement")},
    std::pair{Level::block, std::string_view("block")},
    std::pair{Level::alloc, std::string_view("alloc")},
};

} // namespace

std::string_view to_string(ContextType type)
{
  switch (type) {
  case ContextType::alloc_set: return "AllocSet";
  case ContextType::generation: return "Generation";
  case ContextType::slab: return "Slab";
  case ContextType::bump: return "Bump";
  case ContextType::unknown: break;
  }
  return "???";
}

std::string_view to_string(Phase phase)
{
  switch (phase) {
  case Phase::idle: return "idle";
  case Phase::plan: return "plan";
  case Phase::execute: return "execute";
  case Phase::utility: return "utility";
  }
  return "idle";
}

std::string_view to_string(Level level)
{
  for (const auto &[value, name] : kLevels)
    if (value == level)
      return name;
  return "sweep";
}

std::optional<Level> level_from_string(std::string_view text)
{
  for (const auto &[value, name] : kLevels)
    if (name == text)
      return value;
  return std::nullopt;
}

std::uint64_t total_bytes(const ProcessSnapshot &process)
{
  std::uint64_t sum = 0;
  for (const Context &context : process.contexts)
    sum += context.total_bytes;
  return sum;
}

std::uint64_t used_bytes(const ProcessSnapshot &process)
{
  std::uint64_t sum = 0;
  for (const Context &context : process.contexts)
    sum += context.used_bytes();
  return sum;
}

std::string path_of(const ProcessSnapshot &process, std::size_t context)
{
  std::vector<std::string_view> names;
  // Parents come before their children: a value that says otherwise must not loop.
  for (std::size_t at = context; at < process.contexts.size();) {
    names.push_back(process.contexts[at].name);
    const std::int32_t parent = process.contexts[at].parent;
    if (parent < 0 || static_cast<std::size_t>(parent) >= at)
      break;
    at = static_cast<std::size_t>(parent);
  }
  std::string path;
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    if (!path.empty())
      path += '/';
    path += *name;
  }
  return path;
}

} // namespace pgmemtrace
