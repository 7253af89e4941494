// SPDX-License-Identifier: BSD-2-Clause
// rules.h - the rules there are; each is documented in its own file.
#pragma once

#include <memory>

#include "rules/limits.h"
#include "rules/rule.h"
#include "snapshot/dsm_history.h"

namespace pgmemtrace {

std::unique_ptr<Rule> make_context_leak(const ContextLeakLimits &limits);
std::unique_ptr<Rule> make_wrong_ctx_alloc(const WrongContextLimits &limits);
std::unique_ptr<Rule> make_ctx_bloat(const ContextBloatLimits &limits);
std::unique_ptr<Rule> make_cache_growth(const CacheGrowthLimits &limits);
std::unique_ptr<Rule> make_peak(const PeakLimits &limits);
std::unique_ptr<Rule> make_unattributed_growth(const UnattributedGrowthLimits &limits);

// Asked of a server's dynamic shared memory instead of a process's contexts.
class ServerRule {
public:
  virtual ~ServerRule() = default;
  virtual std::string_view name() const = 0;
  virtual std::vector<Violation> check(const DsmHistory &history) const = 0;
  virtual bool holds(const DsmHistory &history, const Violation &violation) const = 0;
};
std::unique_ptr<ServerRule> make_dsm_leak(const DsmLeakLimits &limits);

} // namespace pgmemtrace
