// SPDX-License-Identifier: BSD-2-Clause
// report_html.h - the page of HTML reports, compiled in.
#pragma once

#include <string_view>

namespace pgmemtrace {

std::string_view report_html(); // PGMT_DATA stands where the JSON goes

} // namespace pgmemtrace
