// SPDX-License-Identifier: BSD-2-Clause
// profile.h - a recording as what reports are made of: bytes by context and call stack.
//
// Instead of contexts, at level malloc, libraries that asked; or statements.  All processes
// together.  Functions instead of addresses, so that two recordings can be compared
// though the server was restarted or rebuilt in between.
//
// What of the growth is live at the end, or was at the peak, is known by context, not by block:
// it goes to the stacks by how much each raised the context's peak.  That is exact for what only
// grows.  At level malloc what is live is known by stack, and the peak is the process's; at level
// alloc what is live is known by caller.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "recording/recording.h"

namespace pgmemtrace {

enum class View : std::uint8_t {
  grown, // all that came from malloc
  live,  // what of it was not returned when the recording, or the process, ended
  peak,  // the most that each context was larger than at the start
  asked, // what palloc and repalloc were called for; level alloc
};
constexpr std::size_t kViews = 4;
std::string_view to_string(View view);
std::optional<View> view_from_string(std::string_view text);

// What bytes are told apart by, besides stacks.
enum class Grouping : std::uint8_t { context, module, query };
std::string_view to_string(Grouping grouping); // "context"
std::string_view plural(Grouping grouping);    // "contexts"

using ByView = std::array<std::int64_t, kViews>;

struct Profile {
  struct Function {
    std::string name;   // "repalloc"; without one "postgres+0x3a4f10", by where it begins
    std::string module; // file name
    std::string path, build_id;
    std::string file; // source; empty: unknown
    int line = 0;     // of one of its calls
  };
  struct Entry {
    std::uint32_t context = 0;
    std::vector<std::uint32_t> stack; // functions, innermost first; empty: not captured
    ByView bytes{};
    std::int64_t blocks = 0; // that were grown; level alloc: requests
    std::int64_t frees = 0;  // level alloc

    std::int64_t of(View view) const { return bytes[static_cast<std::size_t>(view)]; }
  };
  // Contexts of one name, a library, a statement.
  struct Context {
    std::string name;
    std::string query_id;  // of a statement, as violations show it; empty: none
    std::int64_t made = 0; // with fresh memory
    std::int64_t returned = 0;
    ByView bytes{};

    std::int64_t of(View view) const { return bytes[static_cast<std::size_t>(view)]; }
  };

  bool is_difference = false;
  Grouping grouping = Grouping::context;
  std::size_t views = kViews - 1; // that there are: without `asked`, but at level alloc
  std::vector<Function> functions;
  std::vector<Context> contexts; // the largest of `view` first
  std::vector<Entry> entries;    // the same
  ByView total{};

  std::int64_t of(View view) const { return total[static_cast<std::size_t>(view)]; }
};

struct ProfileOptions {
  View view = View::grown; // what is sorted by
  std::string context;     // only contexts, or the library, of this name; empty: all
  bool by_query = false;
};

Profile make_profile(const Recording &recording, const ProfileOptions &options);

// What there is more, or less, of in `now`.
Profile difference(const Profile &now, const Profile &older, View view);

// `bytes` by weight, to the byte; all zero if there is no weight.
std::vector<std::int64_t> spread(std::int64_t bytes, const std::vector<std::uint64_t> &weights);

// ---- as a tree ----

struct CallTree {
  std::uint32_t function = 0;
  std::int64_t bytes = 0;
  std::vector<CallTree> children; // the largest first
};

enum class Innermost : std::uint8_t { first, last };

// Of one context; what has no stack is in the root's bytes alone.
CallTree call_tree(const Profile &profile, std::uint32_t context, View view, Innermost innermost);

} // namespace pgmemtrace
