// SPDX-License-Identifier: BSD-2-Clause
#include "recording/recorder.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>

#include <bpf/bpf.h>
#include <unistd.h>

#include "collect/block_reader.h"
#include "collect/heap_reader.h"
#include "util/foreign_memory.h"
#include "util/redact.h"

namespace pgmemtrace {

namespace {

using namespace std::chrono_literals;

constexpr auto kReadEvery = 250ms;
constexpr auto kTick = 50ms;
constexpr auto kTidyEvery = 2s;
constexpr auto kTidyChunksEvery = 10s;           // they may be a million
constexpr std::uint64_t kRereadNs = 200'000'000; // mappings, where an address is in none

std::string host_name()
{
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) ? std::string() : std::string(name);
}

std::uint64_t unix_ms()
{
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

std::uint64_t ms(std::chrono::steady_clock::duration duration)
{
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

// The numbers of contexts of one name; addresses of a name differ between libraries.
Recording::Context &context_named(Recording::Process &process, const std::string &name)
{
  const auto found = std::ranges::find(process.contexts, name, &Recording::Context::name);
  if (found != process.contexts.end())
    return *found;
  process.contexts.push_back({.name = name, .allocations = {}});
  return process.contexts.back();
}

void add(Recording::Context &to, const Recording::Allocation &one)
{
  const auto same = std::ranges::find_if(to.allocations, [&](const Recording::Allocation &other) {
    return other.stack == one.stack && other.query == one.query;
  });
  if (same == to.allocations.end()) {
    to.allocations.push_back(one);
    return;
  }
  same->bytes += one.bytes;
  same->blocks += one.blocks;
  same->raised += one.raised;
  if (one.returned)
    same->returned = same->returned.value_or(0) + *one.returned;
  if (!one.requests)
    return;
  if (!same->requests)
    same->requests = Recording::Requests{};
  auto &sum = *same->requests;
  sum.allocs += one.requests->allocs;
  sum.reallocs += one.requests->reallocs;
  sum.frees += one.requests->frees;
  sum.resets += one.requests->resets;
  sum.deletes += one.requests->deletes;
  sum.asked += one.requests->asked;
  sum.live += one.requests->live;
}

void add(Recording::Process &to, const Recording::Process &one)
{
  for (const auto &context : one.contexts) {
    auto &sum = context_named(to, context.name);
    sum.made += context.made;
    sum.grown += context.grown;
    sum.returned += context.returned;
    sum.peak += context.peak;
    for (const auto &allocation : context.allocations)
      add(sum, allocation);
  }
}

} // namespace

Recorder::Recorder(ServerList servers, Options options)
    : options_(std::move(options)), servers_(std::move(servers)), maps_(options_.maps),
      attachments_(maps_, options_.attachments),
      allocs_(maps_, [this](pid_t pid, std::uint64_t address) { return name_at(pid, address); }),
      symbols_({.proc = Proc(), .modules = {}, .debug_files = {}, .reread_after_ns = kRereadNs})
{
  recording_.host = host_name();
  recording_.started_ms = unix_ms();
  recording_.level =
      options_.attachments.heap ? kLevelMalloc : to_string(options_.attachments.level);
  recording_.by_query = options_.attachments.by_query;
  if (options_.attachments.heap)
    growths_ = std::make_unique<HeapReader>(
        maps_,
        [this](pid_t pid, std::uint64_t id) { return copies_ ? copies_->id_of_call(pid, id) : id; },
        [this](pid_t pid, std::uint64_t stack) { return asker_at(pid, stack); });
  else
    growths_ = std::make_unique<BlockReader>(
        maps_, [this](pid_t pid, std::uint64_t address) { return name_at(pid, address); });
  began_ = std::chrono::steady_clock::now();
}

Result<std::unique_ptr<Recorder>> Recorder::start(ServerList servers, Options options)
{
  options.attachments.record_all = true;
  std::unique_ptr<Recorder> recorder(new Recorder(std::move(servers), std::move(options)));
  if (auto attached = recorder->attach(); !attached)
    return attached.error();
  return recorder;
}

Result<> Recorder::attach()
{
  if (auto started = attachments_.start(servers_, options_.warn); !started)
    return started.error();
  follow({});
  return Ok{};
}

std::chrono::milliseconds Recorder::idle_time() const { return kTick; }

bool Recorder::over() const
{
  return !options_.attachments.selection.all && servers_.processes().empty();
}

void Recorder::step()
{
  const auto now = std::chrono::steady_clock::now();
  if (reader_)
    reader_->drain();
  if (copies_)
    copies_->drain();
  newcomers_ |= reader_ && !reader_->take_new_processes().empty();
  const bool due = now - read_ >= kReadEvery;
  if (!due && !(newcomers_ && now - followed_ >= kTick))
    return;
  followed_ = now;
  newcomers_ = false;
  refresh_servers();
  if (due)
    read(now);
}

// ---- who is there ----

void Recorder::refresh_servers()
{
  const auto changes = servers_.refresh();
  for (const auto &error : attachments_.follow(servers_, changes))
    options_.warn(error);
  for (const auto &refused : changes.refused)
    options_.warn(refused);
  follow(changes);
}

void Recorder::follow(const ServerList::Changes &changes)
{
  if (!reader_ && maps_.created()) {
    auto reader = KernelReader::create(
        maps_, [this](pid_t pid, std::uint64_t address) { return name_at(pid, address); },
        [](const pgmt_process &) { return 0; }); // hits are not told by server
    if (reader)
      events_.add((reader_ = std::move(*reader))->poll_fd());
    else
      options_.warn(reader.error());
    auto copies =
        StackCopies::create(maps_, symbols_, [this](pid_t pid) { return target_of(pid); });
    if (copies) // what is unwound soon need not be copied again
      events_.add((copies_ = std::move(*copies))->poll_fd());
    else
      options_.warn(copies.error());
  }
  for (const auto &[id, process] : servers_.processes())
    know(process);
  if (changes.vanished.empty())
    return;
  refresh_counts(); // their last ones
  for (const auto &gone : changes.vanished)
    retire(gone.pid);
}

// Its user and database become known a moment after it came.
void Recorder::know(const ServerProcess &process)
{
  auto [seen, is_new] = seen_.try_emplace(process.identity.id.pid);
  seen->second.identity = process.identity;
  if (!is_new)
    return;
  seen->second.target = {.process = process.identity.id,
                         .postmaster = servers_.postmaster(process.identity.postmaster)};
  symbols_.remember(seen->second.target);
  const auto server = servers_.servers().find(process.identity.postmaster);
  if (server == servers_.servers().end())
    return;
  const Recording::Server known{.instance = server->second.instance,
                                .version = server->second.binary->version};
  if (std::ranges::find(recording_.servers, known.instance, &Recording::Server::instance) ==
      recording_.servers.end())
    recording_.servers.push_back(known);
}

// A process that is gone had its names where its postmaster has them, but for those of libraries
// that it loaded later.
std::string Recorder::name_at(pid_t pid, std::uint64_t address) const
{
  constexpr std::size_t kLongestName = 64;
  if (auto name = ForeignMemory(pid).read_string(address, kLongestName))
    return *name;
  const auto postmaster = target_of(pid).postmaster.pid;
  if (postmaster == 0)
    return {};
  return ForeignMemory(postmaster).read_string(address, kLongestName).value_or("");
}

std::string Recorder::asker_at(pid_t pid, std::uint64_t stack)
{
  auto &known = askers_[{pid, stack}];
  if (known.empty())
    known = asker_of(symbols_.frames(target_of(pid), maps_.stack(pid, stack)), heap_of(pid));
  if (known == kUnmapped) // a library that was loaded a moment ago is found at the next look
    known.clear();
  return known;
}

Heap Recorder::heap_of(pid_t pid)
{
  Heap heap;
  const auto server = servers_.servers().find(target_of(pid).postmaster.pid);
  if (server == servers_.servers().end())
    return heap;
  for (const auto &library : attachments_.heap_libraries(server->first))
    heap.libraries.push_back(library.path);
  const auto *binary = server->second.binary;
  heap.executable = binary->path;
  const auto *attachment = attachments_.find(binary);
  auto code = context_code_.find(binary);
  if (code == context_code_.end() && attachment)
    code =
        context_code_.emplace(binary, ContextCode(*binary->elf, attachment->probes.plan())).first;
  if (code != context_code_.end())
    heap.contexts = &code->second;
  return heap;
}

// Whose fork one was that came and went between two looks is known if there is one server alone.
Symbolizer::Target Recorder::target_of(pid_t pid) const
{
  if (const auto seen = seen_.find(pid); seen != seen_.end())
    return seen->second.target;
  Symbolizer::Target target{.process = {.pid = pid}, .postmaster = {}};
  if (const auto &servers = servers_.servers(); servers.size() == 1)
    target.postmaster = servers_.postmaster(servers.begin()->first);
  return target;
}

void Recorder::retire(pid_t pid)
{
  keep_ended(take(pid));
  growths_->forget(pid);
  allocs_.forget(pid);
  if (copies_)
    copies_->forget(pid);
  const auto erase_all = [pid](auto &stacks) {
    stacks.erase(stacks.lower_bound({pid, 0}), stacks.upper_bound({pid, UINT64_MAX}));
  };
  erase_all(stack_ids_);
  erase_all(askers_);
  if (reader_)
    reader_->forget(pid);
  if (const auto seen = seen_.find(pid); seen != seen_.end()) {
    symbols_.forget(seen->second.target.process);
    seen_.erase(seen);
  }
}

void Recorder::keep_ended(Recording::Process process)
{
  if (process.contexts.empty())
    return;
  process.exited = true;
  auto &kept = recording_.processes;
  for (const auto &context : process.contexts)
    allocations_ += context.allocations.size();
  if (kept.size() < options_.processes && allocations_ <= options_.allocations) {
    kept.push_back(std::move(process));
    return;
  }
  if (kept.empty() || kept.back().pid != 0)
    kept.push_back({.instance = {},
                    .backend_type = "others",
                    .database = {},
                    .user = {},
                    .exited = true,
                    .contexts = {}});
  add(kept.back(), process);
}

// ---- what they grew ----

void Recorder::refresh_counts()
{
  if (copies_)
    copies_->drain(); // counts growth
  growths_->read();
  if (options_.attachments.heap && copies_)
    copies_->drain(); // whose calls these sums count
  if (by_requests())
    allocs_.refresh();
}

std::set<std::uint64_t> Recorder::stacks_of(pid_t pid)
{
  std::set<std::uint64_t> ids;
  if (by_requests())
    for (const auto &calls : allocs_.calls(pid))
      ids.insert(calls.caller);
  else
    for (const auto &growth : growths_->growth(pid))
      ids.insert(growth.stack);
  return ids;
}

std::vector<Frame> Recorder::frames_of(pid_t pid, std::uint64_t id)
{
  if (!by_requests())
    return symbols_.frames(target_of(pid), maps_.stack(pid, id));
  if (id == 0)
    return {};
  return symbols_.frames(target_of(pid), id, Symbolizer::Kind::return_address);
}

// Stacks are read as soon as they are there: their process may be gone at the next look.
void Recorder::read(Time now)
{
  read_ = now;
  refresh_counts();
  for (const auto pid : growths_->processes())
    for (const auto stack : stacks_of(pid))
      (void)stack_of(pid, stack, false);
  if (ticks_++ % every_ == 0)
    sample(now);
  tidy(now);
}

// The maps are for processes that live.
void Recorder::tidy(Time now)
{
  for (const auto pid : growths_->processes())
    if (!seen_.contains(pid) && !Proc().stat(pid))
      retire(pid);
  if (!reader_ || now - tidied_ < kTidyEvery)
    return;
  tidied_ = now;
  reader_->tidy();
  if (!by_requests() || now - tidied_chunks_ < kTidyChunksEvery)
    return;
  tidied_chunks_ = now;
  allocs_.tidy_chunks([&](pid_t pid) { return seen_.contains(pid) || Proc().stat(pid); });
}

void Recorder::sample(Time now)
{
  std::map<std::uint32_t, Recording::Sample::Held> held;
  for (const auto pid : growths_->processes())
    for (const auto &totals : growths_->names(pid)) {
      const auto name = name_index(totals.name);
      auto &sum = held[name];
      sum.name = name;
      sum.bytes += static_cast<std::int64_t>(totals.gained - totals.returned);
      sum.blocks += totals.blocks;
    }
  auto &sample = recording_.samples.emplace_back();
  sample.ms = ms(now - began_);
  for (const auto &[name, one] : held)
    if (one.bytes != 0)
      sample.contexts.push_back(one);
  if (recording_.samples.size() > options_.samples)
    thin_out_samples();
}

void Recorder::thin_out_samples()
{
  auto &samples = recording_.samples;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < samples.size(); i += 2)
    std::swap(samples[kept++], samples[i]);
  samples.resize(kept);
  every_ *= 2;
}

Recording::Process Recorder::take(pid_t pid)
{
  Recording::Process process{
      .pid = pid, .instance = {}, .backend_type = {}, .database = {}, .user = {}, .contexts = {}};
  if (const auto seen = seen_.find(pid); seen != seen_.end()) {
    const auto &identity = seen->second.identity;
    process.server_pid = identity.server_pid;
    process.instance = identity.instance;
    process.backend_type = identity.backend_type;
    process.database = identity.database;
    process.user = identity.user;
  }
  for (const auto &totals : growths_->names(pid)) {
    if (totals.gained == 0)
      continue; // it only returned what was there before
    auto &context = context_named(process, totals.name);
    context.made += totals.made;
    context.grown += totals.gained;
    context.returned += totals.returned;
    context.peak += totals.peak;
  }
  if (by_requests())
    take_requests(pid, process);
  else
    take_blocks(pid, process);
  return process;
}

void Recorder::take_blocks(pid_t pid, Recording::Process &into)
{
  for (const auto &growth : growths_->growth(pid)) {
    if (options_.attachments.heap && not_copied(pid, growth.stack))
      stacks_not_copied_ += growth.blocks;
    add(context_named(into, growth.name), {.stack = stack_of(pid, growth.stack, true),
                                           .query = query_index(growth.query),
                                           .bytes = growth.bytes,
                                           .blocks = growth.blocks,
                                           .raised = growth.raised,
                                           .returned = growth.returned,
                                           .requests = std::nullopt});
  }
}

// Frame pointers do not tell it, and there was no room for a copy.
bool Recorder::not_copied(pid_t pid, std::uint64_t id)
{
  const auto stack = maps_.stack(pid, id);
  return stack.state < PGMT_STACK_UNWOUND && stack.ip[0] != 0 &&
         !symbols_.prove(target_of(pid), stack).right();
}

void Recorder::take_requests(pid_t pid, Recording::Process &into)
{
  for (const auto &calls : allocs_.calls(pid))
    add(context_named(into, calls.name),
        {.stack = stack_of(pid, calls.caller, true),
         .query = query_index(calls.query),
         .bytes = calls.taken,
         .blocks = calls.allocs + calls.reallocs,
         .raised = calls.raised,
         .returned = std::nullopt,
         .requests = Recording::Requests{.allocs = calls.allocs,
                                         .reallocs = calls.reallocs,
                                         .frees = calls.frees,
                                         .resets = calls.resets,
                                         .deletes = calls.deletes,
                                         .asked = calls.asked + calls.reasked,
                                         .live = calls.live_bytes}});
}

std::optional<std::uint32_t> Recorder::stack_of(pid_t pid, std::uint64_t id, bool last)
{
  if (const auto known = stack_ids_.find({pid, id}); known != stack_ids_.end())
    return known->second;
  const auto frames = frames_of(pid, id);
  // A library that was loaded a moment ago is found at the next look.
  const bool complete = std::ranges::none_of(
      frames, [](const Frame &frame) { return frame.code.module == kUnmapped; });
  if (frames.empty() || (!complete && !last))
    return std::nullopt;
  std::vector<std::uint32_t> stack;
  stack.reserve(frames.size());
  for (const auto &frame : frames)
    stack.push_back(frame_index(frame));
  auto &index = stack_ids_[{pid, id}];
  if (const auto same = stacks_.find(stack); same != stacks_.end())
    return index = same->second;
  if (recording_.stacks.size() >= options_.stacks) {
    ++stacks_refused_;
    return index = std::nullopt;
  }
  index = static_cast<std::uint32_t>(recording_.stacks.size());
  recording_.stacks.push_back(stack);
  stacks_.emplace(std::move(stack), *index);
  return index;
}

std::uint32_t Recorder::frame_index(const Frame &frame)
{
  // Of one address, functions that were inlined into one another.
  const auto [known, is_new] =
      frames_.try_emplace({frame.code, frame.function}, recording_.frames.size());
  if (is_new)
    recording_.frames.push_back(frame);
  return known->second;
}

std::uint32_t Recorder::name_index(const std::string &name)
{
  const auto [known, is_new] = names_.try_emplace(name, recording_.names.size());
  if (is_new)
    recording_.names.push_back(name);
  return known->second;
}

// ---- which statement ----

// Texts are kept without what users typed into them, whatever the server's own logs do.
std::optional<std::uint32_t> Recorder::query_index(std::uint64_t key)
{
  if (key == PGMT_QUERY_NONE)
    return std::nullopt;
  pgmt_query query{};
  if (key != PGMT_QUERY_OTHERS && bpf_map_lookup_elem(maps_.queries_fd(), &key, &query))
    return std::nullopt;
  const auto text = statement_text({query.text, strnlen(query.text, sizeof query.text)}, 0, 0);
  const auto print = text.empty() ? 0 : fingerprint(text);
  const auto [known, is_new] = queries_.try_emplace(print, recording_.queries.size());
  if (is_new)
    recording_.queries.push_back({.id = 0, .fingerprint = print, .text = redact(text)});
  auto &kept = recording_.queries[known->second];
  if (kept.id == 0)
    kept.id = static_cast<std::int64_t>(query.id);
  return known->second;
}

// ---- the end ----

void Recorder::count_losses()
{
  const auto losses = maps_.losses();
  for (const auto &[reason, count] : losses.unrecorded)
    if (count)
      recording_.losses[reason] = count;
  for (const auto &[what, count] : losses.unreadable)
    if (count)
      recording_.losses["unreadable_" + what] = count;
  if (const auto unmatched = growths_->unmatched())
    recording_.losses["frees_of_unknown"] = unmatched;
  if (copies_)
    for (const auto &[reason, count] : copies_->losses())
      if (count)
        recording_.losses[reason] = count;
  if (stacks_not_copied_)
    recording_.losses["stack_not_copied"] = stacks_not_copied_;
  if (stacks_refused_)
    recording_.losses["recording_full"] = stacks_refused_;
}

Recording Recorder::finish()
{
  const auto now = std::chrono::steady_clock::now();
  refresh_servers(); // who is gone already
  for (const auto &binary : servers_.binaries())
    if (auto *attachment = attachments_.find(binary.get()))
      (void)attachment->probes.set_level(Level::sweep); // the numbers hold still
  read(now);
  if (recording_.samples.empty() || recording_.samples.back().ms != ms(now - began_))
    sample(now);
  std::vector<Recording::Process> alive;
  for (const auto pid : growths_->processes())
    if (!seen_.contains(pid)) // it came and went between two looks
      keep_ended(take(pid));
    else if (auto process = take(pid); !process.contexts.empty())
      alive.push_back(std::move(process));
  std::ranges::move(alive, std::back_inserter(recording_.processes));
  recording_.duration_ms = ms(now - began_);
  count_losses();
  return std::move(recording_);
}

} // namespace pgmemtrace
