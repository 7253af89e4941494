// SPDX-License-Identifier: BSD-2-Clause
// tree_print.h - one process's context tree as text, JSON or CSV.
//
// JSON and CSV have the columns of PostgreSQL 18's pg_backend_memory_contexts, for every
// major and in that view's order: breadth first, where a context's number (the last of its
// path) is its place.  What a context's exact pass would have said is null without one.
//
// Text is for reading: biggest first, siblings of one name folded into one line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

enum class PrintFormat { text, json, csv };
std::optional<PrintFormat> print_format_from_string(std::string_view text);

// "process 4711: client backend, database shop, user app, instance 15/main, PostgreSQL 15\n".
std::string print_heading(const ProcessIdentity &who);

// The whole tree.
std::string print_tree(const ProcessSnapshot &process, PrintFormat format);

// One line per name, over the whole tree, biggest first.
std::string print_summary(const ProcessSnapshot &process, PrintFormat format);

// What the view calls path: the numbers from the root to each context, by context.
std::vector<std::vector<std::uint32_t>> context_paths(const std::vector<Context> &contexts);

} // namespace pgmemtrace
