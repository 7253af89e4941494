// SPDX-License-Identifier: BSD-2-Clause
// known_contexts_csv.h - the table of core's contexts, as text.
#pragma once

#include <string_view>

namespace pgmemtrace {

std::string_view known_contexts_csv();

} // namespace pgmemtrace
