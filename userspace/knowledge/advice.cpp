// SPDX-License-Identifier: BSD-2-Clause
// advice - one sentence for the contexts that people meet, and one per kind for the rest.
#include <algorithm>
#include <array>

#include "knowledge/known_contexts.h"

namespace pgmemtrace {
namespace {

struct Advice {
  std::string_view name;
  std::string_view sentence;
};

constexpr std::string_view kPreparedStatements =
    "Deallocate prepared statements that are no longer used, or limit the client's statement "
    "cache (prepareThreshold, max_prepared_statements, ...); DEALLOCATE ALL or DISCARD ALL "
    "frees them, and so does a shorter connection lifetime.";
constexpr std::string_view kRelations =
    "The session keeps an entry for every table, index and partition that it has touched: limit "
    "the relations per session (fewer partitions or schemas per connection, a shorter connection "
    "lifetime in the pool).";
constexpr std::string_view kFunctions =
    "Compiled functions stay for the session: do not create, replace or drop functions in a loop, "
    "look for ones that fail to compile, and end long-lived connections now and then.";
constexpr std::string_view kCursors =
    "Close cursors when they are read, WITH HOLD ones above all: each keeps its portal, and a "
    "held one its whole result, until CLOSE or the end of the session.";
constexpr std::string_view kPlVariables =
    "A procedural function collects data in its variables: process the rows in a loop over a "
    "cursor, or collect them in a temporary table, which can go to disk.";
constexpr std::string_view kResultInPl =
    "A procedural function fetches a whole result into memory, beyond work_mem: fetch it through "
    "a cursor in parts.";
constexpr std::string_view kHash =
    "The hash table does not fit work_mem x hash_mem_multiplier: look for one frequent key or a "
    "wrong row estimate (ANALYZE, extended statistics), or make the planner choose a merge join.";
constexpr std::string_view kSavepoints =
    "Each open savepoint or PL exception block keeps a context until the transaction ends: release "
    "savepoints, and commit in smaller batches.";

constexpr std::array kAdvice{
    Advice{"", "Memory grows outside every context (malloc): a library or language runtime of the "
               "session does not free; record it with `pgmemtrace record --level malloc`, and try "
               "jit = off if JIT is on."},
    Advice{"TopMemoryContext",
           "Nothing that a statement needs belongs here, and nothing here is freed before the "
           "session ends: look for an extension that allocates in it on every call."},
    Advice{"ErrorContext", "It is emptied after each error: look for an extension that allocates "
                           "in it outside of error handling."},
    Advice{"CacheMemoryContext",
           "Catalog and relation caches are never evicted: avoid creating and dropping objects "
           "(temporary tables above all) in a loop, limit the relations that one session touches, "
           "and end long-lived connections now and then."},
    Advice{"index info", kRelations},
    Advice{"relation rules", kRelations},
    Advice{"partition descriptor", kRelations},
    Advice{"partition key", kRelations},
    Advice{"partition constraint", kRelations},
    Advice{"Relcache by OID", kRelations},
    Advice{"smgr relation table", kRelations},
    Advice{"CachedPlan", kPreparedStatements},
    Advice{"CachedPlanSource", kPreparedStatements},
    Advice{"CachedPlanQuery", kPreparedStatements},
    Advice{"Prepared Queries", kPreparedStatements},
    Advice{"SPI Plan", "Saved SPI plans pile up: look for functions that are created anew instead "
                       "of reused, or C code that does not free its plans (SPI_freeplan)."},
    Advice{"PL/pgSQL function", kFunctions},
    Advice{"PL/Perl function", kFunctions},
    Advice{"PL/Python function", kFunctions},
    Advice{"PL/Tcl function", kFunctions},
    Advice{"PL/Perl spi_prepare query", "Free plans with spi_freeplan, or keep and reuse them."},
    Advice{"PortalContext", kCursors},
    Advice{"PortalHoldContext", kCursors},
    Advice{"TopPortalContext", kCursors},
    Advice{"ExecutorState",
           "Memory of one statement: look at its plan (many nodes or partitions, materialised "
           "results) and for a function that allocates per row; it is freed when the statement "
           "ends."},
    Advice{"ExprContext", "An expression or aggregate holds much at once: look for large values, "
                          "string_agg, array_agg or jsonb_agg over many rows, or a function that "
                          "leaks per row."},
    Advice{"HashBatchContext", kHash},
    Advice{"HashTableContext", kHash},
    Advice{"HashSpillContext", "A hash join spills into very many batches and buffers each: raise "
                               "work_mem for this query, or reduce its input."},
    Advice{"Subplan HashTable Context", "A hashed NOT IN or IN subquery exceeds work_mem: write it "
                                        "as NOT EXISTS or a join."},
    Advice{"RecursiveUnion hash table", "A recursive query keeps all distinct rows in memory: use "
                                        "UNION ALL, or limit the recursion."},
    Advice{"Caller tuples", "A sort uses its whole work_mem (maintenance_work_mem for an index): "
                            "lower that setting if memory is short."},
    Advice{"TupleSort sort", "A sort uses its whole work_mem (maintenance_work_mem for an index): "
                             "lower that setting if memory is short."},
    Advice{"MessageContext",
           "The text, parse tree and plan of one message: shorten giant IN or "
           "VALUES lists (use = ANY with an array, or COPY), and prune partitions."},
    Advice{"TopTransactionContext",
           "A transaction keeps this until it ends: commit in smaller batches; if nothing large "
           "happens in it, look for an extension that allocates in it per call."},
    Advice{"CurTransactionContext", kSavepoints},
    Advice{
        "AfterTriggerEvents",
        "Every row that waits for an AFTER or deferred trigger (foreign keys too) is queued in "
        "memory: change fewer rows per statement and transaction, or SET CONSTRAINTS IMMEDIATE."},
    Advice{"Combo CIDs", "Rows are changed again and again in one transaction: commit more often."},
    Advice{"expanded array", kPlVariables},
    Advice{"expanded record", kPlVariables},
    Advice{"SPI Proc", kPlVariables},
    Advice{"PLpgSQL per-statement data", kPlVariables},
    Advice{"SPI TupTable", kResultInPl},
    Advice{"SPI Exec", kResultInPl},
    Advice{"LocalBufferContext", "Buffers of temporary tables are kept until the session ends, up "
                                 "to temp_buffers: lower it, or reconnect."},
    Advice{"LOCALLOCK hash", "The session held very many locks in one transaction or never "
                             "releases advisory locks: commit earlier, unlock."},
    Advice{"TS dictionary", "Ispell and thesaurus dictionaries are loaded by every session: use "
                            "fewer or smaller ones, and a pool that reuses sessions."},
    Advice{"Record information cache", "Every distinct ROW() type is kept for the session: use "
                                       "named composite types."},
    Advice{"ReorderBuffer", "Logical decoding buffers large transactions: lower "
                            "logical_decoding_work_mem, stream, or commit in smaller batches."},
};

std::string_view advice_for_lifetime(Lifetime lifetime)
{
  switch (lifetime) {
  case Lifetime::process:
    return "It should not grow once the process is up: look for what the session calls each time, "
           "and end long-lived connections until that is found.";
  case Lifetime::session_cache:
  case Lifetime::cache_entry:
    return "A cache of the session that is not evicted: reduce the distinct objects that one "
           "session uses, or end long-lived connections now and then.";
  case Lifetime::transaction:
    return "It is freed when the transaction ends: commit in smaller batches.";
  case Lifetime::portal: return kCursors;
  case Lifetime::message:
    return "It is freed with the client's next message: send smaller statements.";
  case Lifetime::statement:
  case Lifetime::scratch:
    return "It is freed when the statement ends: look at the statement's plan and at functions "
           "that it calls per row.";
  case Lifetime::unknown: break;
  }
  return "PostgreSQL itself has no context of this name: look for the extension that makes it "
         "(record the session with --level block to see the call stack).";
}

} // namespace

std::string_view advice_for(std::string_view name, int major)
{
  const auto *const own = std::ranges::find(kAdvice, name, &Advice::name);
  if (own != kAdvice.end())
    return own->sentence;
  const KnownContext *known = lookup(name, major);
  return advice_for_lifetime(known != nullptr ? known->lifetime : Lifetime::unknown);
}

} // namespace pgmemtrace
