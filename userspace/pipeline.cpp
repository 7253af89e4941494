// SPDX-License-Identifier: BSD-2-Clause
#include "pipeline.h"

#include <algorithm>
#include <cerrno>
#include <ctime>

#include <unistd.h>

#include <fmt/format.h>

#include "name_code.h"

namespace pgmemtrace {

namespace {

using namespace std::chrono_literals;

constexpr auto kCountsAtMostEvery = 50ms; // reading what levels block and alloc counted, and
constexpr int kCountsShare = 50;          // at most 1/50 of the time
constexpr auto kNewcomerPause = 50ms;     // looking at /proc because the kernel half saw a new one
constexpr int kLookShare = 2000;          // looking at /proc otherwise: 1/2000 of the time,
constexpr int kLookShareAlone = 400;      // 1/400 without probes: nobody else tells who came,
constexpr auto kLookAtLeast = 100ms;      // not more often than that,
constexpr auto kLookAtMost = 2s;          // nor less often
constexpr auto kIdleTick = 200ms;         // ... when nobody works: events wake us anyway
constexpr auto kTick = 50ms;              // look at the slots of working processes
constexpr auto kGovernEvery = 1s;
constexpr std::chrono::nanoseconds kTidyAtMostEvery = 1s; // when slots or events are being lost
constexpr auto kExactShare = 200;                         // exact passes: 1/200 of the time, and
constexpr auto kExactEvery = 2s;                          // exact pass over what changed
constexpr auto kWriteAtMostEvery = 1s;                    // unless there is a violation to tell

std::chrono::nanoseconds thread_cpu()
{
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

double seconds(std::chrono::nanoseconds duration)
{
  return std::chrono::duration<double>(duration).count();
}

// What is worth a point more on a curve: a tenth, and not a trifle.
bool grew(std::uint64_t before, std::uint64_t after)
{
  constexpr std::uint64_t kTrifle = 65536;
  return after > before + std::max(kTrifle, before / 10);
}

SweepSchedule::Found compare(const ProcessSnapshot &before, const ProcessSnapshot &after)
{
  if (grew(used_bytes(before), used_bytes(after)) ||
      grew(before.private_bytes, after.private_bytes))
    return SweepSchedule::Found::growth;
  const bool same = before.contexts.size() == after.contexts.size() &&
                    used_bytes(before) == used_bytes(after) &&
                    total_bytes(before) == total_bytes(after);
  return same ? SweepSchedule::Found::the_same : SweepSchedule::Found::a_change;
}

// Until the next look into /proc, given what this one took.
std::chrono::nanoseconds pause_after(std::chrono::nanoseconds cost, bool probes)
{
  return std::clamp<std::chrono::nanoseconds>(cost * (probes ? kLookShare : kLookShareAlone),
                                              kLookAtLeast, kLookAtMost);
}

template <typename T> std::map<std::string, T> by_name(const T (&values)[PGMT_PROBES])
{
  std::map<std::string, T> named;
  for (int probe = 0; probe < PGMT_PROBES; ++probe)
    named[std::string(name_of(static_cast<pgmt_probe>(probe)))] = values[probe];
  return named;
}

// Stacks are taken at level block alone.
KernelMaps::Options maps_for(const Pipeline::Options &options)
{
  auto maps = options.maps;
  maps.takes_stacks = options.attachments.level >= Level::block || options.escalation.on;
  if (!maps.takes_stacks)
    maps.copies_bytes = static_cast<std::uint32_t>(sysconf(_SC_PAGESIZE)); // the least there can be
  return maps;
}

// A context's name for events of the kernel half, which hand over its address.
std::string name_at(pid_t pid, std::uint64_t address)
{
  constexpr std::size_t kLongestName = 64;
  ForeignMemory memory(pid);
  return memory.read_string(address, kLongestName).value_or("");
}

} // namespace

Result<std::unique_ptr<Pipeline>> Pipeline::create(ServerList servers, RuleSet rules,
                                                   std::vector<std::unique_ptr<Sink>> sinks,
                                                   Options options)
{
  std::unique_ptr<Pipeline> pipeline(
      new Pipeline(std::move(servers), std::move(rules), std::move(sinks), std::move(options)));
  if (pipeline->options_.direct_reads)
    if (auto direct = DirectMap::load())
      pipeline->direct_ = std::move(*direct);
  if (auto started = pipeline->attachments_.start(pipeline->servers_, pipeline->options_.warn);
      !started)
    return started.error();
  const auto now = std::chrono::steady_clock::now();
  pipeline->apply(pipeline->servers_.everybody(), now);
  if (pipeline->extension_)
    pipeline->extension_->follow(pipeline->servers_, {});
  pipeline->followed_ = now;
  return pipeline;
}

Pipeline::Pipeline(ServerList servers, RuleSet rules, std::vector<std::unique_ptr<Sink>> sinks,
                   Options options)
    : options_(std::move(options)), servers_(std::move(servers)), maps_(maps_for(options_)),
      attachments_(maps_, options_.attachments), blocks_(maps_, name_at), allocs_(maps_, name_at),
      dsm_([this](const Error &error) { options_.warn(error); }),
      symbols_({.proc = Proc(), .modules = {}, .debug_files = {}}),
      escalation_(options_.escalation), schedule_(options_.schedule), rules_(std::move(rules)),
      sinks_(std::move(sinks)), extension_(options_.extension)
{
  if (extension_)
    events_.add(extension_->poll_fd());
}

Pipeline::~Pipeline() = default;

void Pipeline::step()
{
  const auto now = std::chrono::steady_clock::now();

  if (extension_ && extension_->receive(servers_))
    follow_after_ = now; // somebody asks whom we have not met
  follow_servers(now);   // attach: who came, who went
  if (reader_)
    reader_->drain(); // collect: what the kernel half saw ...
  if (copies_)
    copies_->drain();
  notice_activity(now);
  look_closely(now);
  read_counts(now);
  serve_extension(now); // who asks, waits
  sweep_due(now);       // ... and the trees of who is due: snapshots
  look_at_dsm(now);
  govern(now); // what our probes cost, and whether that is allowed

  const auto pause = std::min<Duration>(kWriteAtMostEvery, options_.schedule.interval);
  const bool due =
      (changed_ && now - written_ >= pause) || now - written_ >= options_.schedule.interval;
  if (!news_ && !due)
    return;
  news_ = false;
  auto snapshot = assemble();
  auto changes = rules_.apply(snapshot); // rules: snapshots -> violations
  name_code(changes, maps_, servers_, symbols_);
  escalate(changes, now);
  if (changes.empty() && !due)
    return;
  written_ = now;
  changed_ = false;
  snapshot.health = health();
  write(snapshot, changes); // sinks
}

void Pipeline::write(const Snapshot &snapshot, std::span<const Violation> changes)
{
  const auto active = rules_.active();
  for (auto &sink : sinks_)
    if (auto written = sink->write(snapshot, changes, active); !written)
      options_.warn(written.error()); // one broken sink never stops the rest
}

std::chrono::milliseconds Pipeline::idle_time() const { return working_ ? kTick : kIdleTick; }

// ---- attach -----------------------------------------------------------------

void Pipeline::follow_servers(Time now)
{
  const bool newcomers = reader_ && !reader_->take_new_processes().empty();
  newcomers_ |= newcomers;
  if (now < follow_after_ && !(newcomers_ && now - followed_ >= kNewcomerPause))
    return;
  followed_ = now;
  newcomers_ = false;
  const auto began = thread_cpu();
  const auto changes = servers_.refresh();
  follow_after_ = now + pause_after(thread_cpu() - began, reader_ != nullptr);
  for (const auto &error : attachments_.follow(servers_, changes))
    options_.warn(error);
  for (const auto &refused : changes.refused)
    options_.warn(refused);
  apply(changes, now);
  if (extension_)
    extension_->follow(servers_, changes);
}

void Pipeline::apply(const ServerList::Changes &changes, Time now)
{
  if (!reader_ && maps_.created()) {
    auto reader = KernelReader::create(
        maps_, name_at, [this](const pgmt_process &process) { return server_of(process); });
    if (reader) {
      reader_ = std::move(*reader);
      events_.add(reader_->poll_fd());
    } else {
      options_.warn(reader.error());
    }
    auto copies = StackCopies::create(maps_, symbols_, [this](pid_t pid) {
      const auto *process = servers_.find_process(pid);
      return process ? Symbolizer::Target{process->identity.id,
                                          servers_.postmaster(process->identity.postmaster)}
                     : Symbolizer::Target{.process = {.pid = pid}, .postmaster = {}};
    });
    if (copies)
      copies_ = std::move(*copies);
    else
      options_.warn(copies.error());
  }
  news_ |= !changes.vanished.empty();
  changed_ |= !changes.vanished.empty() || !changes.servers_vanished.empty() ||
              !changes.servers_appeared.empty();
  for (const auto &gone : changes.vanished) {
    if (reader_)
      reader_->forget(gone.pid); // while we know whose it was
    if (const auto found = watched_.find(gone); found != watched_.end()) {
      sweep_stats_ += found->second.sweeper.stats();
      watched_.erase(found);
    }
    schedule_.remove(gone);
    if (!dsm_.made_by(gone))
      symbols_.forget(gone);
    escalation_.forget(gone);
    close_looks_.forget(gone);
  }
  for (const pid_t postmaster : changes.servers_vanished)
    if (reader_)
      reader_->forget_server(postmaster);
  for (const auto &id : changes.appeared) {
    const auto *process = servers_.find_process(id.pid);
    if (!process)
      continue;
    watched_.try_emplace(id, Watched{.binary = process->binary,
                                     .postmaster = process->identity.postmaster,
                                     .sweeper = Sweeper(*process, options_.sweep_limits, direct_),
                                     .reader = ProcessReader(*process, Proc())});
    schedule_.add(id, now);
  }
}

// Of processes too short-lived for us to have met them, too: all forks of a postmaster are loaded
// where it is.
pid_t Pipeline::server_of(const pgmt_process &process) const
{
  const auto pid = static_cast<pid_t>(process.tgid);
  if (const auto met = watched_.lower_bound({pid, 0});
      met != watched_.end() && met->first.pid == pid)
    return met->second.postmaster;
  pid_t found = 0;
  for (const auto &[postmaster, server] : servers_.servers()) {
    if (server.load_bias != process.load_bias)
      continue;
    if (found)
      return 0; // executables that are always loaded in one place: it may be either
    found = postmaster;
  }
  return found;
}

// ---- collect ----------------------------------------------------------------

Probes *Pipeline::probes_of(const ProcessId &id) const
{
  const auto watched = watched_.find(id);
  auto *attachment =
      watched == watched_.end() ? nullptr : attachments_.find(watched->second.binary);
  return attachment ? &attachment->probes : nullptr;
}

// Does the kernel half see this process now?
bool Pipeline::probed(const Watched &watched) const
{
  const auto *attachment = reader_ ? attachments_.find(watched.binary) : nullptr;
  return attachment && attachment->probes.level() > Level::sweep;
}

// Who works is swept sooner.  With probes the slots say so; without them, the CPU time that it had
// used when we looked at /proc.
void Pipeline::notice_activity(Time now)
{
  const bool cpu_known = followed_ == now;
  working_ = false;
  if (reader_ &&
      now - tidied_ >= (reader_->untidy() ? kTidyAtMostEvery : options_.schedule.interval)) {
    tidied_ = now;
    reader_->tidy();
    const auto alive = [&](pid_t pid) { return servers_.find_process(pid) || reader_->slot(pid); };
    blocks_.tidy(alive);
    allocs_.tidy(alive);
  }
  for (auto &[id, watched] : watched_) {
    const auto *slot = probed(watched) ? reader_->slot(id.pid) : nullptr;
    if (slot && slot->hits[PGMT_PROBE_SETTLE]) {
      const auto boundaries =
          slot->requests + slot->statements + slot->transactions + slot->hits[PGMT_PROBE_SAMPLE];
      // A long statement has no boundary of its own until it ends.
      const auto *process = cpu_known && watched.last ? servers_.find_process(id.pid) : nullptr;
      const bool used_cpu = process && process->cpu_ticks != watched.last->cpu_ticks;
      if (boundaries != watched.boundaries || slot->busy_since_ns || used_cpu) {
        schedule_.active(id);
        working_ = true;
      }
      watched.boundaries = boundaries;
      if (slot->event_ns != watched.grew_ns)
        close_looks_.grew(id, now);
      watched.grew_ns = slot->event_ns;
      if (const auto bytes = reader_->growth_bytes(id.pid); bytes && watched.last) {
        const auto used = used_bytes(*watched.last);
        if (grew(used, used + bytes))
          schedule_.growing(id);
      }
      continue;
    }
    if (!cpu_known || !watched.last)
      continue;
    if (const auto *process = servers_.find_process(id.pid);
        process && process->cpu_ticks != watched.last->cpu_ticks)
      schedule_.active(id);
  }
  changed_ |= working_;
}

// Who grows has the starts of its statements probed, too.  Whose level fell meanwhile gets them
// again when it rises.
void Pipeline::look_closely(Time now)
{
  for (const auto &id : close_looks_.over(now))
    if (auto *probes = probes_of(id))
      probes->detach_starts(id.pid);
  for (const auto &id : close_looks_.wanted()) {
    auto *probes = probes_of(id);
    if (!probes)
      continue;
    if (auto attached = probes->attach_starts(id.pid); !attached) {
      close_looks_.forget(id);
      if (attached.error().err != ESRCH)
        options_.warn(attached.error());
    }
  }
}

// What levels block and alloc counted, before the sweeps that take it.
void Pipeline::read_counts(Time now)
{
  if (!reader_ || now < read_counts_after_)
    return;
  const auto hits = reader_->hits(PGMT_PROBE_BLOCK) + reader_->hits(PGMT_PROBE_ALLOC);
  if (hits != counted_hits_) {
    counted_hits_ = hits;
    const auto began = thread_cpu();
    blocks_.refresh();
    allocs_.refresh();
    read_counts_after_ =
        now + std::max<Duration>(kCountsAtMostEvery, (thread_cpu() - began) * kCountsShare);
  }
}

// Who made it may be gone before anybody asks: where its code lies is looked up at once.
void Pipeline::note_dsm_made()
{
  if (!reader_)
    return;
  for (auto &made : reader_->take_dsm_made()) {
    const auto stat = Proc().stat(made.pid);
    made.origin.process = {made.pid, stat ? stat->start : 0};
    for (const auto address : made.origin.stack)
      symbols_.locate({made.origin.process, servers_.postmaster(made.postmaster)}, address,
                      Symbolizer::Kind::return_address);
    dsm_.made(made.postmaster, made.handle, std::move(made.origin));
  }
}

std::uint64_t Pipeline::requests_of(pid_t pid) const
{
  const auto *slot = reader_ ? reader_->slot(pid) : nullptr;
  return slot ? slot->requests : 0;
}

// Once per interval, and nothing in between: it only matters what stays.
void Pipeline::look_at_dsm(Time now)
{
  note_dsm_made();
  if (looked_at_dsm_ != Time{} && now - looked_at_dsm_ < options_.schedule.interval)
    return;
  looked_at_dsm_ = now;
  dsm_.look(servers_, [this](pid_t pid) { return requests_of(pid); });
  news_ = true;
}

void Pipeline::sweep_due(Time now)
{
  const auto began = thread_cpu();
  bool any = false;
  for (const auto &id : schedule_.due(now)) {
    const auto *process = servers_.find_process(id.pid);
    const auto watched = watched_.find(id);
    if (!process || watched == watched_.end())
      continue;
    sweep(*process, watched->second, now);
    any = true;
  }
  if (any)
    sweep_seconds_ = seconds(thread_cpu() - began);
}

bool Pipeline::sweep(const ServerProcess &process, Watched &watched, Time now,
                     std::optional<Pass> pass)
{
  const auto began = thread_cpu();
  const bool first = !watched.last;
  const bool exact = first || pass || now >= watched.exact_after;
  auto tree = watched.sweeper.sweep(first ? Pass::exact
                                          : pass.value_or(exact ? Pass::changed : Pass::header));

  if (!tree) {
    // Gone, or not a context tree yet: the next look at /proc tells.
    schedule_.swept(process.identity.id, now, thread_cpu() - began, SweepSchedule::Found::the_same);
    return false;
  }
  auto snapshot = std::make_shared<ProcessSnapshot>();
  snapshot->process = process.identity;
  snapshot->taken_at = Clock::now();
  snapshot->moment = std::chrono::steady_clock::now();
  snapshot->first = first;
  snapshot->contexts = std::move(tree->contexts);
  snapshot->complete = tree->complete;
  snapshot->incomplete_reason = std::move(tree->incomplete_reason);
  const auto *attachment = attachments_.find(process.binary);
  watched.reader.read(*snapshot,
                      attachment ? attachment->probes.probed_pages(process.identity.id.pid) : 0);
  const auto pid = process.identity.id.pid;
  if (reader_)
    snapshot->activity = reader_->take_activity(
        pid, attachment ? attachment->probes.statements_since() : UINT64_MAX);
  watched.reader.read_statement(reader_ ? reader_->slot(pid) : nullptr, snapshot->activity);
  if (reader_) {
    snapshot->block_growth = blocks_.growth(pid);
    snapshot->alloc_calls = allocs_.holders(pid);
  }
  if (extension_)
    extension_->saw(*snapshot);

  const auto found = first ? SweepSchedule::Found::a_change : compare(*watched.last, *snapshot);
  watched.last = std::move(snapshot);
  news_ = true;
  changed_ |= found != SweepSchedule::Found::the_same;
  const auto cost = thread_cpu() - began;
  if (exact)
    watched.exact_after = now + std::max<Duration>(kExactEvery, cost * kExactShare);
  else
    watched.header_cost = cost;
  // Exact passes have a share of their own: the schedule plans with what the usual one costs.
  schedule_.swept(process.identity.id, now,
                  exact && watched.header_cost.count() ? watched.header_cost : cost, found);
  return true;
}

// ---- extension ----

void Pipeline::serve_extension(Time now)
{
  if (extension_)
    extension_->serve(servers_, {.look = [&](const ProcessId &id) { return look(id, now); },
                                 .look_at_dsm =
                                     [&](pid_t postmaster) {
                                       note_dsm_made(); // look() has drained what told of it
                                       return dsm_.look(servers_, postmaster, [&](pid_t pid) {
                                         return requests_of(pid);
                                       });
                                     },
                                 .name_code =
                                     [&](std::span<Violation> violations) {
                                       name_code(violations, maps_, servers_, symbols_);
                                     }});
}

Extension::View Pipeline::look(const ProcessId &id, Time now)
{
  const auto *process = servers_.find_process(id.pid);
  const auto watched = watched_.find(id);
  if (!process || watched == watched_.end())
    return {};
  if (reader_)
    reader_->drain(); // what it did until it asked
  blocks_.refresh();
  allocs_.refresh();
  const bool read = sweep(*process, watched->second, now, Pass::exact);
  return {.snapshot = watched->second.last, .now = read};
}

// ---- escalate ----

// Suspects get probes of their own for a while.
void Pipeline::escalate(std::span<const Violation> changes, Time now)
{
  for (const auto &id : escalation_.lower(now))
    if (auto *probes = probes_of(id))
      probes->detach_blocks(id.pid);
  for (const auto &id : escalation_.raise(changes, now))
    if (auto *probes = probes_of(id))
      if (auto attached = probes->attach_blocks(id.pid); !attached && attached.error().err != ESRCH)
        options_.warn(attached.error());
}

// ---- govern -----------------------------------------------------------------

// What the probes cost one process since the last look, and what CPU time it used.
Governor::Period Pipeline::measure(const ServerProcess &process, Watched &watched) const
{
  Governor::Period period;
  const auto *slot = reader_->slot(process.identity.id.pid);
  const auto *attachment = attachments_.find(process.binary);
  if (!slot || !attachment)
    return period;
  const auto totals = KernelReader::totals(*slot);
  const bool hit = !watched.measured || !std::equal(totals.hits, totals.hits + PGMT_PROBES,
                                                    watched.measured->totals.hits);
  if (!hit)
    return period; // spares idle processes the look into /proc
  const auto stat = Proc().stat(process.identity.id.pid);
  if (!stat)
    return period;
  if (watched.measured) {
    const auto &before = *watched.measured;
    for (int probe = 0; probe < PGMT_PROBES; ++probe) {
      const double hits = static_cast<double>(totals.hits[probe] - before.totals.hits[probe]);
      period.probe_seconds += hits * attachment->probes.hit_seconds(static_cast<pgmt_probe>(probe),
                                                                    options_.calibration);
      // An estimate from samples: it may fall when a later sample was quicker.
      period.probe_seconds +=
          std::max(0.0, totals.run_seconds[probe] - before.totals.run_seconds[probe]);
    }
    period.probe_seconds += totals.walk_seconds - before.totals.walk_seconds;
    period.cpu_seconds = static_cast<double>(stat->cpu_ticks - before.cpu_ticks) /
                         static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  watched.measured = Watched::Measured{.totals = totals, .cpu_ticks = stat->cpu_ticks};
  return period;
}

void Pipeline::govern(Time now)
{
  if (!reader_ || now - governed_ < kGovernEvery)
    return;
  const double length = governed_ == Time{} ? seconds(kGovernEvery) : seconds(now - governed_);
  governed_ = now;
  periods_.clear();
  for (auto &[id, watched] : watched_)
    if (const auto *process = servers_.find_process(id.pid)) {
      const auto period = measure(*process, watched);
      auto &server = periods_[process->identity.postmaster];
      server.seconds = length;
      server.probe_seconds += period.probe_seconds;
      server.cpu_seconds += period.cpu_seconds;
    }

  for (const auto &attachment : attachments_.all()) {
    // Servers of one file share its breakpoints: the dearest decides.
    Governor::Period dearest;
    for (const auto &[postmaster, server] : servers_.servers()) {
      const auto &period = periods_[postmaster];
      if (attachment->binaries.contains(server.binary) &&
          attachment->governor.ratio_of(period) > attachment->governor.ratio_of(dearest))
        dearest = period;
    }
    if (const auto level = attachment->governor.judge(dearest, now)) {
      changed_ = true;
      if (auto done = attachment->probes.set_level(*level); !done)
        options_.warn(done.error());
    }
  }
}

// ---- snapshot ---------------------------------------------------------------

Snapshot Pipeline::assemble() const
{
  Snapshot snapshot{.taken_at = Clock::now()};
  const auto totals = reader_ ? reader_->totals() : std::map<pid_t, KernelReader::Totals>();
  for (const auto &[postmaster, server] : servers_.servers()) {
    ServerStatus status{.postmaster = postmaster,
                        .instance = server.instance,
                        .data_directory = server.data_directory,
                        .binary = server.binary->path,
                        .version = server.binary->version,
                        .major = server.binary->major,
                        .port = server.port,
                        .wanted_level = options_.attachments.level};
    if (const auto *attachment = attachments_.find(server.binary)) {
      status.level = attachment->probes.level();
      status.wanted_level = attachment->governor.wanted();
      if (const auto period = periods_.find(postmaster); period != periods_.end()) {
        status.cpu_seconds = period->second.cpu_seconds;
        status.overhead_ratio = attachment->governor.ratio_of(period->second);
      }
    }
    if (const auto of_server = totals.find(postmaster); of_server != totals.end())
      status.probe_hits = by_name(of_server->second.hits);
    status.dsm = dsm_.last(postmaster);
    snapshot.servers.push_back(std::move(status));
  }
  for (const auto &[id, watched] : watched_)
    if (watched.last)
      snapshot.processes.push_back(watched.last);
  return snapshot;
}

Health Pipeline::health() const
{
  Health health{.overhead_budget_ratio = options_.attachments.governor.budget,
                .direct_reads = direct_ != nullptr,
                .sweep_seconds = sweep_seconds_,
                .calibrated_hit_seconds = options_.calibration.emulated_seconds * kColdFactor};
  auto stats = sweep_stats_;
  for (const auto &[id, watched] : watched_)
    stats += watched.sweeper.stats();
  health.sweeps = stats.sweeps;
  health.incomplete_snapshots = stats.incomplete;
  health.read_errors["sweep"] = stats.read_errors;
  for (int i = 0; i < PGMT_PROBES; ++i) {
    const auto probe = static_cast<pgmt_probe>(i);
    auto &sites = health.probes_attached[std::string(name_of(probe))];
    for (const auto &attachment : attachments_.all())
      sites += attachment->probes.attached_sites(probe);
  }
  if (extension_)
    extension_->report(health);
  if (!reader_)
    return health;

  KernelReader::Totals totals;
  const auto by_server = reader_->totals();
  for (const auto &[postmaster, of_server] : by_server)
    totals += of_server;
  if (const auto stray = by_server.find(0); stray != by_server.end())
    health.stray_hits = by_name(stray->second.hits);
  health.program_run_seconds = by_name(totals.run_seconds);
  health.program_run_seconds["walk"] = totals.walk_seconds;
  auto losses = maps_.losses();
  health.events_lost.merge(losses.unrecorded);
  health.events_lost["dsm_origin"] += dsm_.forgotten();
  if (copies_)
    health.events_lost.merge(copies_->losses());
  health.read_errors.merge(losses.unreadable);
  health.map_entries["processes"] = {reader_->slots_used(), maps_.options().processes};
  health.map_entries["contexts"] = {reader_->contexts_used(), maps_.options().contexts};
  health.map_entries["growths"] = {blocks_.growths_used(), maps_.options().growths};
  health.map_entries["calls"] = {allocs_.calls_used(), maps_.options().calls};
  health.map_entries["lives"] = {allocs_.lives_used(), maps_.options().lives};
  health.map_entries["chunks"] = {allocs_.chunks_used(), maps_.options().chunks};
  health.map_entries["stacks"] = {blocks_.stacks_used(), maps_.options().stacks};
  return health;
}

} // namespace pgmemtrace
