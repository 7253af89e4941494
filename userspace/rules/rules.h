// SPDX-License-Identifier: BSD-2-Clause
// rules.h - the rules there are; each is documented in its own file.
#pragma once

#include <memory>

#include "rules/limits.h"
#include "rules/rule.h"

namespace pgmemtrace {

std::unique_ptr<Rule> make_context_leak(const ContextLeakLimits &limits);
std::unique_ptr<Rule> make_wrong_ctx_alloc(const WrongContextLimits &limits);
std::unique_ptr<Rule> make_ctx_bloat(const ContextBloatLimits &limits);
std::unique_ptr<Rule> make_cache_growth(const CacheGrowthLimits &limits);
std::unique_ptr<Rule> make_peak(const PeakLimits &limits);
std::unique_ptr<Rule> make_unattributed_growth(const UnattributedGrowthLimits &limits);

} // namespace pgmemtrace
