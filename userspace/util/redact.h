// SPDX-License-Identifier: BSD-2-Clause
// redact.h - SQL text without what its users typed into it.
//
// A lexer, not a parser: it knows PostgreSQL's literals, comments and quoted names
// (src/backend/parser/scan.l) and nothing else, so it works on text that was cut at any
// byte: a literal without an end is a literal.  It takes standard_conforming_strings as on,
// the default since 9.1: a backslash does not escape in '...'.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pgmemtrace {

// Literals ('..', E'..', B'..', X'..', N'..', U&'..', $tag$..$tag$, numbers) become "?";
// comments become a blank.  Names, "quoted names", $1 and operators stay.
std::string redact(std::string_view sql);

// The same for statements that differ only in literals, comments and white space.
// Stable across runs and hosts.
std::uint64_t fingerprint(std::string_view sql);

} // namespace pgmemtrace
