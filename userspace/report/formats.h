// SPDX-License-Identifier: BSD-2-Clause
// formats.h - reports: pure functions from a recording, or a profile of it, to text.
//
// One file each.  Strings that came from servers are shown as they are but for control characters.
#pragma once

#include <cstddef>
#include <string>

#include "recording/recording.h"
#include "report/profile.h"

namespace pgmemtrace {

// "recorded 30.0s on host at ...", what was not seen.  Ends with a newline.
std::string describe(const Recording &recording);

// A table of contexts, then the tree of who asked for each of the `top` largest.
std::string to_text(const Profile &profile, View view, std::size_t top);

// For flamegraph.pl and its like: "context;outermost;...;innermost bytes".
std::string to_folded(const Profile &profile, View view);

std::string to_json(const Recording &recording, const Profile &profile, View view);

// For ms_print: samples over time, trees where most was held and at the end.  `context`: only
// contexts of this name; empty: all.
std::string to_massif(const Recording &recording, const std::string &context);

// One page that needs nothing else.
std::string to_html(const Recording &recording, const Profile &profile, View view);

// For pprof: gzip'ed profile.proto, with a sample type for each view.
std::string to_pprof(const Recording &recording, const Profile &profile, View view);

} // namespace pgmemtrace
