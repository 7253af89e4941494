// SPDX-License-Identifier: BSD-2-Clause
// relation_names.h - what a server calls its relations.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "util/result.h"

namespace pgmemtrace {

// Names by OID, asked of the server behind `conninfo`, which must be of this major: catalogs and
// their indexes have the same OIDs in all databases of one, and in other majors they may not.
// Waits for a few seconds at most.
Result<std::map<std::uint32_t, std::string>> relation_names(const std::string &conninfo, int major,
                                                            const std::vector<std::uint32_t> &oids);

} // namespace pgmemtrace
