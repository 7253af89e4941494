// SPDX-License-Identifier: BSD-2-Clause
// limits.h - from where on each rule speaks, and how loud.
//
// The scale of a rule's severities is in bytes of growth.  A finding is at most INFO until
// it was seen to grow at kConfirmedRises points, whatever its size.
#pragma once

#include <cstdint>

#include "rules/violation.h"

namespace pgmemtrace {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;
inline constexpr std::uint32_t kConfirmedRises = 8;

struct Scale {
  std::uint64_t info = 8 * kKiB;     // at least
  std::uint64_t warning = 64 * kKiB; // more than
  std::uint64_t error = kMiB;        // more than
};

Severity severity_of(double bytes, const Scale &scale);
// The same, held back until growth is confirmed.
Severity severity_of(double bytes, const Scale &scale, std::uint32_t rises);

struct ContextLeakLimits {
  // Contexts that nobody but the process's end frees.
  Scale session{};
  double session_contexts = 16;
  // Prepared statements, compiled functions: some are kept on purpose.
  Scale cached{.info = 256 * kKiB, .warning = 4 * kMiB, .error = 64 * kMiB};
  double cached_contexts = 64;
  // Open or held cursors.
  Scale portal{.info = 64 * kKiB, .warning = kMiB, .error = 16 * kMiB};
  double portal_contexts = 32;
  // Savepoints: freed when the transaction ends.
  Scale transaction{.info = 256 * kKiB, .warning = 4 * kMiB, .error = 64 * kMiB};
  double transaction_contexts = 64;
  // Freed when the statement ends.
  Scale statement{.info = 4 * kMiB, .warning = 64 * kMiB, .error = kGiB};
  double statement_contexts = 500;
};

struct WrongContextLimits {
  std::uint64_t min_bytes = 16 * kKiB;
  std::uint64_t min_caller_bytes = 4 * kKiB; // that chunks of a single caller hold: level alloc
  std::uint64_t warning_bytes = 64 * kKiB;   // more than
};

struct ContextBloatLimits {
  Scale session{};
  Scale bounded{.info = 96 * kMiB, .warning = 512 * kMiB, .error = 4 * kGiB}; // temp_buffers, ...
  Scale transaction{.info = kMiB, .warning = 32 * kMiB, .error = 256 * kMiB};
  // Variables and results of procedural functions.
  Scale variables{.info = 4 * kMiB, .warning = 16 * kMiB, .error = 256 * kMiB};
  // Other contexts of a statement, besides twice its work_mem.
  Scale statement{.info = 16 * kMiB, .warning = 256 * kMiB, .error = 4 * kGiB};
  // Blocks that are kept although their use does not grow.
  Scale retained{.info = 8 * kMiB, .warning = 64 * kMiB, .error = kGiB};
};

struct CacheGrowthLimits {
  std::uint64_t min_bytes = 256 * kKiB;    // of growth, catalog and relation caches
  std::uint64_t other_bytes = 2 * kMiB;    // of growth, each other cache or hash table
  std::uint64_t warning_bytes = 64 * kMiB; // of growth, more than
  std::uint64_t held_bytes = 256 * kMiB;   // held by one family of caches, growing or not
  std::uint64_t held_warning_bytes = kGiB;
  double forget_seconds = 300; // without growth: it was warm-up
};

struct PeakLimits {
  std::uint64_t info_bytes = 16 * kMiB; // or info_work_mems x work_mem, if that is more
  std::uint64_t info_work_mems = 2;
  std::uint64_t warning_bytes = 64 * kMiB;
  std::uint64_t warning_work_mems = 8;
  // All contexts of a statement may add up to that many times the limits of a single one.
  std::uint64_t sum_factor = 4;
  // Sorts for indexes, VACUUM and ANALYZE follow maintenance_work_mem (64 MiB by default).
  std::uint64_t maintenance_info_bytes = 160 * kMiB;
  std::uint64_t maintenance_warning_bytes = 4 * kGiB;
  std::uint64_t default_work_mem_bytes = 8 * kMiB; // where it is not known
  double forget_seconds = 60;
};

struct UnattributedGrowthLimits {
  Scale scale{.info = 4 * kMiB, .warning = 16 * kMiB, .error = 128 * kMiB};
  // malloc's own overhead and fragmentation when the contexts themselves grow.
  double share_of_contexts = 0.5;
  // LLVM's contexts are recycled every 100 queries (PostgreSQL llvmjit.c,
  // LLVMJIT_LLVM_CONTEXT_REUSE_MAX).
  std::uint32_t jit_statements = 300;
  double jit_seconds = 60; // where statements are not counted
  double forget_seconds = 600;
};

struct DsmLeakLimits {
  // Looks in a row that find a segment so: what is only on its way passes before.
  std::uint32_t left_behind_looks = 2;
  std::uint32_t orphaned_looks = 3;
  std::uint32_t abandoned_looks = 4;
  // A busy session that is never seen idle: a pinned mapping outlived its query for certain.
  std::uint64_t requests = 2;
  std::size_t pile = 3;                // segments of one process that may each be meant
  std::uint64_t area_bytes = 8 * kMiB; // of growth: statistics and registries take some
};

struct RuleLimits {
  ContextLeakLimits context_leak;
  WrongContextLimits wrong_ctx_alloc;
  ContextBloatLimits ctx_bloat;
  CacheGrowthLimits cache_growth;
  PeakLimits peak;
  UnattributedGrowthLimits unattributed_growth;
  DsmLeakLimits dsm_leak;
};

} // namespace pgmemtrace
