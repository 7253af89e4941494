// SPDX-License-Identifier: BSD-2-Clause
// peak - one statement's contexts went far beyond what settings allow, though they are
// freed after.
//
// A single context is compared with work_mem x hash_mem_multiplier, since that is what one
// plan node may take; all contexts of a statement together may be several times that.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "knowledge/known_contexts.h"
#include "rules/describe.h"
#include "rules/rules.h"

namespace pgmemtrace {
namespace {

class Peak final : public Rule {
public:
  explicit Peak(const PeakLimits &limits) : limits_(limits) {}

  std::string_view name() const override { return "peak"; }

  std::vector<Finding> check(const ProcessHistory &history) const override
  {
    std::vector<Finding> findings;
    for (const StatementHigh &high : history.highs())
      if (recent(history, high))
        if (auto finding = check_high(history, high))
          findings.push_back(std::move(*finding));
    return findings;
  }

  bool holds(const ProcessHistory & /*history*/, const Violation & /*violation*/) const override
  {
    return false; // check() goes on reporting it for as long as it is recent
  }

private:
  bool recent(const ProcessHistory &history, const StatementHigh &high) const
  {
    return history.now().seconds - high.seen.seconds < limits_.forget_seconds;
  }

  std::optional<Finding> check_high(const ProcessHistory &history, const StatementHigh &high) const
  {
    const KnownContext *known = lookup(high.context, history.process().major);
    // The kernel half sees the whole tree: caches that a statement filled are no peak.
    if (high.path.empty() && known != nullptr && outlives_statement(known->lifetime))
      return std::nullopt;
    const bool maintenance = (known != nullptr && known->growth == Growth::maintenance) ||
                             high.context == "TopTransactionContext";
    const std::uint64_t work_mem =
        history.work_mem_bytes() != 0 ? history.work_mem_bytes() : limits_.default_work_mem_bytes;
    std::uint64_t info = std::max(limits_.info_bytes, limits_.info_work_mems * work_mem);
    std::uint64_t warning = std::max(limits_.warning_bytes, limits_.warning_work_mems * work_mem);
    if (maintenance) {
      info = std::max(info, limits_.maintenance_info_bytes);
      warning = std::max(warning, limits_.maintenance_warning_bytes);
    }
    const auto beyond = [&](std::uint64_t limit) {
      return high.context_bytes > limit || high.bytes / limits_.sum_factor > limit;
    };
    if (!beyond(info))
      return std::nullopt;
    return describe(history, high, beyond(warning) ? Severity::warning : Severity::info);
  }

  static bool outlives_statement(Lifetime lifetime)
  {
    return lifetime == Lifetime::process || lifetime == Lifetime::session_cache ||
           lifetime == Lifetime::cache_entry;
  }

  Finding describe(const ProcessHistory &history, const StatementHigh &high,
                   Severity severity) const
  {
    Finding finding;
    Violation &v = finding.violation;
    v.process = history.process();
    v.rule = name();
    v.severity = severity;
    v.context = high.context;
    v.path = high.path.empty() ? high.context : high.path;
    set_bytes(v, 0, static_cast<double>(std::max(high.bytes, high.context_bytes)));
    v.shape = "peak";
    v.phase = Phase::execute;
    v.occurrences = high.occurrences;
    v.query = high.query;
    if (high.query_id != 0)
      v.query_id = high.query_id;
    if (const std::size_t group = history.find(v.path); group != ProcessHistory::kNone)
      blame_code(v, history.groups()[group], false);
    v.detail = fmt::format("a statement held {}, {} of it in one {}",
                           human_bytes(static_cast<double>(v.after_bytes)),
                           human_bytes(static_cast<double>(high.context_bytes)), high.context);
    if (history.work_mem_bytes() != 0)
      v.detail += fmt::format("; a plan node may take {}",
                              human_bytes(static_cast<double>(history.work_mem_bytes())));
    v.advice = advice_for(high.context, history.process().major);
    return finding;
  }

  PeakLimits limits_;
};

} // namespace

std::unique_ptr<Rule> make_peak(const PeakLimits &limits) { return std::make_unique<Peak>(limits); }

} // namespace pgmemtrace
