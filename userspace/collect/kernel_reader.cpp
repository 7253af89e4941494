// SPDX-License-Identifier: BSD-2-Clause
#include "collect/kernel_reader.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include <bpf/libbpf.h>

#include "collect/bpf_hash.h"
#include "util/clock.h"

namespace pgmemtrace {

namespace {

// Distinct queries kept per process and snapshot; what comes after them is folded into the
// smallest one's place under an empty text.
constexpr std::size_t kMaxQueries = 32;

constexpr std::size_t kMaxDsmMade = 4096; // more than the ring buffer holds

template <std::size_t N> std::string_view text_of(const char (&text)[N])
{
  return {text, strnlen(text, N)};
}

// Zombies are not: their parent has not looked yet.
bool is_gone(pid_t pid) { return kill(pid, 0) != 0 && errno == ESRCH; }

Phase phase_of(std::uint32_t phase)
{
  switch (phase) {
  case PGMT_PHASE_PLAN: return Phase::plan;
  case PGMT_PHASE_EXECUTE: return Phase::execute;
  case PGMT_PHASE_UTILITY: return Phase::utility;
  default: return Phase::idle;
  }
}

} // namespace

std::string statement_text(std::string_view query, std::int32_t location, std::int32_t length)
{
  if (location > 0)
    query.remove_prefix(std::min(query.size(), static_cast<std::size_t>(location)));
  if (length > 0)
    query = query.substr(0, static_cast<std::size_t>(length));
  const auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; };
  while (!query.empty() && is_space(query.front()))
    query.remove_prefix(1);
  while (!query.empty() && (is_space(query.back()) || query.back() == ';'))
    query.remove_suffix(1);
  return std::string(query);
}

void KernelReader::FreeRing::operator()(ring_buffer *ring) const { ring_buffer__free(ring); }

Result<std::unique_ptr<KernelReader>> KernelReader::create(KernelMaps &maps, NameAt name_at,
                                                           ServerOf server_of)
{
  std::unique_ptr<KernelReader> reader(
      new KernelReader(maps, std::move(name_at), std::move(server_of)));
  reader->ring_.reset(ring_buffer__new(maps.events_fd(), on_event, reader.get(), nullptr));
  if (!reader->ring_)
    return Error{"read the BPF ring buffer", errno, {}};
  return reader;
}

KernelReader::~KernelReader() = default;

int KernelReader::poll_fd() const { return ring_buffer__epoll_fd(ring_.get()); }

void KernelReader::drain()
{
  ring_buffer__consume(ring_.get());
  bury_the_exiting();
}

int KernelReader::on_event(void *self, void *event, std::size_t size)
{
  static_cast<KernelReader *>(self)->take(*static_cast<const pgmt_event_header *>(event), size);
  return 0;
}

void KernelReader::take(const pgmt_event_header &event, std::size_t size)
{
  const auto pid = static_cast<pid_t>(event.tgid);
  if (event.slot != PGMT_NO_SLOT)
    know_slot(pid, event.slot);
  switch (event.type) {
  case PGMT_EVENT_PROCESS: new_processes_.push_back(pid); break;
  case PGMT_EVENT_GROWTH:
    if (size >= sizeof(pgmt_growth_event))
      take_growth(reinterpret_cast<const pgmt_growth_event &>(event));
    break;
  case PGMT_EVENT_PEAK:
    if (size >= sizeof(pgmt_peak_event))
      take_peak(reinterpret_cast<const pgmt_peak_event &>(event));
    break;
  case PGMT_EVENT_DSM:
    if (size >= sizeof(pgmt_dsm_event))
      take_dsm(reinterpret_cast<const pgmt_dsm_event &>(event));
    break;
  case PGMT_EVENT_EXIT: exiting_.push_back(pid); break;
  default: break;
  }
}

void KernelReader::take_dsm(const pgmt_dsm_event &event)
{
  const auto pid = static_cast<pid_t>(event.header.tgid);
  const auto *process = slot(pid); // now: it may be gone when somebody asks
  const auto ago = std::chrono::nanoseconds(monotonic_ns() - event.header.time_ns);
  if (dsm_made_.size() == kMaxDsmMade)
    dsm_made_.clear();
  DsmMade made{.pid = pid,
               .postmaster = process ? server_of_(*process) : 0,
               .handle = event.handle,
               .origin = {}};
  made.origin.time = Clock::now() - std::chrono::duration_cast<Clock::duration>(ago);
  made.origin.process.pid = pid;
  made.origin.request = event.request;
  made.origin.bytes = event.size;
  made.origin.query = statement_text(text_of(event.query), event.stmt_location, event.stmt_len);
  made.origin.query_id = event.query_id;
  made.origin.stack.assign(std::begin(event.stack), std::ranges::find(event.stack, 0U));
  dsm_made_.push_back(std::move(made));
}

void KernelReader::bury_the_exiting()
{
  std::erase_if(exiting_, [this](pid_t pid) {
    const bool gone = is_gone(pid);
    if (gone)
      forget(pid);
    return gone;
  });
}

void KernelReader::take_growth(const pgmt_growth_event &event)
{
  auto &growth = pending_[static_cast<pid_t>(event.header.tgid)].growth;
  QueryGrowth seen{.query =
                       statement_text(text_of(event.query), event.stmt_location, event.stmt_len),
                   .query_id = event.query_id,
                   .phase = phase_of(event.header.phase),
                   .bytes = event.bytes,
                   .new_contexts = event.new_children,
                   .occurrences = event.occurrences};
  if (growth.size() >= kMaxQueries)
    seen.query.clear();
  auto same = std::find_if(growth.begin(), growth.end(), [&](const QueryGrowth &known) {
    return known.query == seen.query && known.query_id == seen.query_id &&
           known.phase == seen.phase;
  });
  if (same == growth.end()) {
    growth.push_back(std::move(seen));
    return;
  }
  same->bytes += seen.bytes;
  same->new_contexts += seen.new_contexts;
  same->occurrences += seen.occurrences;
}

void KernelReader::take_peak(const pgmt_peak_event &event)
{
  const auto pid = static_cast<pid_t>(event.header.tgid);
  auto &peak = pending_[pid].peak;
  if (peak && peak->bytes >= event.bytes)
    return;
  peak = StatementPeak{
      .query = statement_text(text_of(event.query), event.stmt_location, event.stmt_len),
      .query_id = event.query_id,
      .bytes = event.bytes,
      .context_bytes = event.context_bytes,
      .context = name_at_(pid, event.context_name)};
}

void KernelReader::know_slot(pid_t pid, std::uint32_t slot)
{
  const auto slots = maps_.processes();
  if (slot >= slots.size() || slots[slot].tgid != static_cast<std::uint32_t>(pid))
    return;
  auto [known, inserted] = slots_.try_emplace(pid, slot);
  if (inserted || known->second == slot)
    return;
  // The pid was reused before we saw its first owner die.
  const bool newer = slots[slot].first_hit_ns > slots[known->second].first_hit_ns;
  release(newer ? known->second : slot);
  if (newer)
    known->second = slot;
}

void KernelReader::release(std::uint32_t slot)
{
  const auto &gone = maps_.processes()[slot];
  retired_[server_of_(gone)] += totals(gone);
  maps_.release(slot);
}

std::uint64_t KernelReader::losses_of_slots() const
{
  return maps_.losses(PGMT_LOSS_RING_FULL) + maps_.losses(PGMT_LOSS_SLOTS_FULL);
}

bool KernelReader::untidy() const { return losses_of_slots() != losses_seen_; }

void KernelReader::tidy()
{
  losses_seen_ = losses_of_slots();
  const auto slots = maps_.processes();
  for (std::uint32_t slot = 0; slot < slots.size(); ++slot)
    if (slots[slot].tgid)
      know_slot(static_cast<pid_t>(slots[slot].tgid), slot);
  for (auto it = slots_.begin(); it != slots_.end();) {
    const auto pid = (it++)->first;
    if (is_gone(pid))
      forget(pid);
  }

  constexpr std::uint64_t kUnchangedNs = 60'000'000'000;
  const auto now = monotonic_ns();
  std::vector<pgmt_context_key> stale, unchanged; // the latter go if there is little room left
  contexts_used_ = 0;
  const auto look_at = [&](const pgmt_context_key &key, const pgmt_context &context) {
    ++contexts_used_;
    if (!slot(static_cast<pid_t>(key.tgid)))
      stale.push_back(key);
    else if (context.seen_ns + kUnchangedNs < now)
      unchanged.push_back(key);
  };
  bpf_hash::for_each<pgmt_context_key, pgmt_context>(maps_.contexts_fd(), look_at);
  if (contexts_used_ > maps_.options().contexts / 2)
    stale.insert(stale.end(), unchanged.begin(), unchanged.end());
  contexts_used_ -= bpf_hash::erase(maps_.contexts_fd(), stale);
}

const pgmt_process *KernelReader::slot(pid_t pid) const
{
  const auto known = slots_.find(pid);
  return known == slots_.end() ? nullptr : &maps_.processes()[known->second];
}

std::uint64_t KernelReader::growth_bytes(pid_t pid) const
{
  std::uint64_t bytes = 0;
  if (const auto pending = pending_.find(pid); pending != pending_.end())
    for (const auto &growth : pending->second.growth)
      bytes += growth.bytes;
  return bytes;
}

Activity KernelReader::take_activity(pid_t pid, std::uint64_t current_since)
{
  Activity activity;
  const auto *process = slot(pid);
  if (!process)
    return activity;
  activity.requests = process->requests;
  activity.statements = process->statements;
  activity.transactions = process->transactions;
  for (auto hits : process->hits)
    activity.hits += hits;
  const auto busy_since = process->busy_since_ns >= current_since ? process->busy_since_ns : 0;
  const auto now = monotonic_ns();
  activity.in_statement = busy_since != 0;
  if (busy_since && busy_since < now)
    activity.busy = std::chrono::nanoseconds(now - busy_since);
  if (auto pending = pending_.extract(pid)) {
    activity.growth = std::move(pending.mapped().growth);
    activity.peak = std::move(pending.mapped().peak);
    std::sort(activity.growth.begin(), activity.growth.end(),
              [](const QueryGrowth &a, const QueryGrowth &b) { return a.bytes > b.bytes; });
  }
  return activity;
}

void KernelReader::forget(pid_t pid)
{
  pending_.erase(pid);
  if (auto known = slots_.extract(pid))
    release(known.mapped());
}

std::vector<KernelReader::DsmMade> KernelReader::take_dsm_made()
{
  return std::exchange(dsm_made_, {});
}

std::vector<pid_t> KernelReader::take_new_processes() { return std::exchange(new_processes_, {}); }

KernelReader::Totals KernelReader::totals(const pgmt_process &process)
{
  Totals totals;
  for (int probe = 0; probe < PGMT_PROBES; ++probe) {
    totals.hits[probe] = process.hits[probe];
    if (const auto samples = process.run_samples[probe])
      totals.run_seconds[probe] = 1e-9 * static_cast<double>(process.run_ns[probe]) /
                                  static_cast<double>(samples) *
                                  static_cast<double>(process.hits[probe]);
  }
  totals.walk_seconds = 1e-9 * static_cast<double>(process.walk_total_ns);
  return totals;
}

KernelReader::Totals &KernelReader::Totals::operator+=(const Totals &other)
{
  for (int probe = 0; probe < PGMT_PROBES; ++probe) {
    hits[probe] += other.hits[probe];
    run_seconds[probe] += other.run_seconds[probe];
  }
  walk_seconds += other.walk_seconds;
  return *this;
}

std::uint64_t KernelReader::hits(pgmt_probe probe) const
{
  std::uint64_t sum = 0;
  for (const auto &[postmaster, totals] : retired_)
    sum += totals.hits[probe];
  for (const auto &[pid, slot] : slots_)
    sum += maps_.processes()[slot].hits[probe];
  return sum;
}

std::map<pid_t, KernelReader::Totals> KernelReader::totals() const
{
  auto sums = retired_;
  for (const auto &[pid, slot] : slots_) {
    const auto &process = maps_.processes()[slot];
    sums[server_of_(process)] += totals(process);
  }
  return sums;
}

} // namespace pgmemtrace
