// SPDX-License-Identifier: BSD-2-Clause
// known_contexts.h - what PostgreSQL's own contexts are for.
//
// The facts are in known_contexts.csv, written by people from the sources of 13 to 18.
// Its prose is mapped to the closed sets below by the rules in known_contexts.cpp; a
// name that is not in the table belongs to an extension (or to a newer major).
#pragma once

#include <cstdint>
#include <string_view>

namespace pgmemtrace {

// How long core lets a context of this name live.
enum class Lifetime : std::uint8_t {
  unknown,
  process,       // made once, never deleted: TopMemoryContext, ErrorContext
  session_cache, // one per process, filled as objects are used: CacheMemoryContext
  cache_entry,   // one per cached object or handle: index info, CachedPlanSource
  transaction,   // AfterTriggerEvents
  portal,        // PortalContext, PortalHoldContext
  message,       // one protocol message: MessageContext
  statement,     // ExecutorState, SPI Proc, HashBatchContext
  scratch,       // reset or deleted within a statement: ExprContext
};
std::string_view to_string(Lifetime lifetime);

// What may make it large without anything being wrong.
enum class Growth : std::uint8_t {
  constant,    // should stay as it is
  objects,     // relations, functions, prepared statements that the session has used
  data,        // rows that the statement or transaction works on
  work_mem,    // data, up to work_mem x hash_mem_multiplier
  maintenance, // data, up to maintenance_work_mem
};
std::string_view to_string(Growth growth);

// Contexts that grow for one and the same reason.
enum class Family : std::uint8_t {
  none,
  relations, // catalog and relation caches: CacheMemoryContext, index info, partition key
  plans,     // prepared statements and saved plans: CachedPlan*, SPI Plan
  functions, // compiled functions: PL/pgSQL function
};

struct KnownContext {
  std::string_view name;
  std::string_view lifetime_text; // as the table has it
  std::string_view growth_text;
  int since_major = 0; // 0: older than what we support
  int until_major = 0; // 0: still there
  Lifetime lifetime = Lifetime::unknown;
  Growth growth = Growth::constant;
  Family family = Family::none;
};

// The context of that name in that major (0: any), or nullptr.
const KnownContext *lookup(std::string_view name, int major);

// One sentence: what to do when contexts of that name grow.  Never empty.
std::string_view advice_for(std::string_view name, int major);

} // namespace pgmemtrace
