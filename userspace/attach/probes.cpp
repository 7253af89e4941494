// SPDX-License-Identifier: BSD-2-Clause
#include "attach/probes.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <iterator>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

#include "attach/layout.h"
#include "attach/sample_clock.h"
#include "attach/task_struct.h"
#include "pgmemtrace.skel.h"
#include "util/clock.h"
#include "util/file.h"

namespace pgmemtrace {

namespace {

bpf_program *program_of(pgmemtrace_bpf &object, pgmt_probe probe)
{
  switch (probe) {
  case PGMT_PROBE_SAMPLE: return object.progs.sampled;
  case PGMT_PROBE_START: return object.progs.boundary_start;
  case PGMT_PROBE_END: return object.progs.boundary_end;
  case PGMT_PROBE_UTILITY: return object.progs.boundary_util;
  case PGMT_PROBE_SETTLE: return object.progs.boundary_settle;
  case PGMT_PROBE_XACT: return object.progs.boundary_xact;
  case PGMT_PROBE_EXIT: return object.progs.process_exit;
  case PGMT_PROBE_DSM: return object.progs.dsm_made;
  case PGMT_PROBE_BLOCK: return object.progs.block_change;
  case PGMT_PROBE_ALLOC: return object.progs.method_called;
  case PGMT_PROBES: break;
  }
  return nullptr;
}

// Is its cookie an index, and not its address?
bool has_table(const ProbeSite &site) { return site.block || site.method; }

// The table of sites, in the order of the plan: what attach() hands over as cookies.
void fill_sites(pgmt_site (&table)[PGMT_SITES], const Plan &plan, const Layout &layout)
{
  std::size_t index = 0;
  for (const auto &site : plan.sites)
    if (site.block && index < PGMT_SITES)
      table[index++] = site_record(*site.block, site.address, layout);
}

// Level alloc: the same for its methods, and who only hands requests on to them.
void fill_methods(pgmemtrace_bpf &object, const Plan &plan, const Layout &layout)
{
  auto &knobs = *object.rodata;
  std::size_t methods = 0, passers = 0;
  for (const auto &site : plan.sites)
    if (site.method && methods < PGMT_METHOD_SITES) {
      auto &record = knobs.methods[methods++] = method_record(*site.method, site.address, layout);
      record.tracked = plan.tracked.contains(site.method->type);
    }
  for (const auto &passer : plan.passers)
    if (passers < PGMT_PASSERS)
      knobs.passers[passers++] = passer_record(passer);
  knobs.chunk_value_shift = layout.chunk_value_shift;
}

// TimestampTz: microseconds since 2000-01-01 (PostgreSQL datatype/timestamp.h).
std::uint64_t postgres_timestamp_now()
{
  using namespace std::chrono;
  constexpr sys_days kEpoch = year(2000) / January / 1;
  return static_cast<std::uint64_t>(
      duration_cast<microseconds>(system_clock::now() - kEpoch).count());
}

// A program of this kind may have our maps since 6.1, of which a tracepoint of 6.3 is a sign.
bool kernel_samples()
{
  // The kernel's types are some megabytes: they are read once, not for each binary.
  static const bool known =
      libbpf_find_vmlinux_btf_id(PGMT_ANSWER_TRACEPOINT, BPF_TRACE_RAW_TP) > 0;
  return known;
}

// libbpf takes the BTF of the types that we relocate against by path only.
Result<UniqueFd> layout_file(const Binary &binary, const std::string &postgres_btf)
{
  if (!postgres_btf.empty())
    return UniqueFd();
  auto blob = layout_btf(binary.major);
  UniqueFd fd(memfd_create("pgmemtrace-layout", MFD_CLOEXEC));
  if (!fd)
    return Error{"create a memory file for the PostgreSQL layout", errno};
  if (write(fd.get(), blob.data(), blob.size()) != static_cast<ssize_t>(blob.size()))
    return Error{"write the PostgreSQL layout", errno};
  return fd;
}

} // namespace

void Probes::Unlink::operator()(bpf_link *link) const { bpf_link__destroy(link); }
void Probes::Destroy::operator()(pgmemtrace_bpf *object) const { pgmemtrace_bpf::destroy(object); }

Probes::Probes(std::unique_ptr<pgmemtrace_bpf, Destroy> object, UniqueFd binary, Plan plan,
               Options options)
    : object_(std::move(object)), binary_(std::move(binary)),
      path_(fmt::format("/proc/self/fd/{}", binary_.get())), plan_(std::move(plan)),
      options_(std::move(options))
{
}
Probes::Probes(Probes &&) noexcept = default;
Probes::~Probes() = default;

Result<Probes> Probes::load(const Binary &binary, Plan plan, KernelMaps &maps, Options options)
{
  UniqueFd executable(open(binary.open_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!executable) // /proc/PID/exe is there for as long as its process
    return Error{"open " + binary.open_path, errno == ENOENT ? ESRCH : errno};

  // Open: parse the object, nothing in the kernel yet.
  auto layout = layout_file(binary, options.postgres_btf);
  if (!layout)
    return layout.error();
  const std::string btf_path =
      *layout ? fmt::format("/proc/self/fd/{}", layout->get()) : options.postgres_btf;
  bpf_object_open_opts open_options{};
  open_options.sz = sizeof(open_options);
  open_options.btf_custom_path = btf_path.c_str();
  std::unique_ptr<pgmemtrace_bpf, Destroy> object(pgmemtrace_bpf::open(&open_options));
  if (!object)
    return Error{"open the BPF object", errno};

  // Configure: everything below is frozen by load().
  auto &knobs = *object->rodata;
  const auto &globals = binary.globals;
  knobs.binary_index = options.binary_index;
  knobs.select_only = options.select_only;
  knobs.record_all = options.record_all;
  knobs.by_query = options.by_query;
  for (bpf_program *program : {object->progs.heap_enter, object->progs.heap_return})
    bpf_program__set_autoload(program, options.heap);
  knobs.no_frame_pointers = !options.frame_pointers;
  const auto task = task_struct_of_this_kernel();
  options.answers &= task && globals.tell_answers(); // whose child a sender is, and what it sends
  if (task) {
    knobs.task_cpu_ns = task->cpu_ns;
    knobs.task_real_parent = task->real_parent;
    knobs.task_tgid = task->tgid;
    knobs.task_mm = task->mm;
    knobs.mm_brk = task->mm_brk;
  }
  options.samples &= task && globals.tell_statements() && kernel_samples();
  bpf_program__set_autoload(object->progs.sampled, options.samples);
  const auto &tag = binary.layout.tag;
  const auto tags = {tag.aset, tag.generation, tag.slab, tag.bump ? tag.bump : tag.aset};
  knobs.first_context_tag = std::min(tags);
  knobs.last_context_tag = std::max(tags);
  knobs.root_variables[PGMT_ROOT_TOP] = globals.top_memory_context;
  knobs.root_variables[PGMT_ROOT_CACHE] = globals.cache_memory_context;
  knobs.root_variables[PGMT_ROOT_ERROR] = globals.error_context;
  knobs.top_transaction_context = globals.top_transaction_context;
  knobs.portal_context = globals.portal_context;
  knobs.my_be_entry = globals.my_be_entry;
  knobs.my_proc_port = globals.my_proc_port;
  knobs.message_context = globals.message_context;
  knobs.current_memory_context = globals.current_memory_context;
  knobs.debug_query_string = globals.debug_query_string;
  for (const ProbeSite &site : plan.sites)
    if (!has_table(site))
      std::copy_n(site.arguments.begin(), PGMT_PROBE_ARGUMENTS,
                  knobs.argument_registers[site.probe]);
  fill_sites(knobs.sites, plan, binary.layout);
  fill_methods(*object, plan, binary.layout);
  knobs.record_calls = options.record_calls;
  if (!options.uprobe_multi) {
    bpf_program *program = nullptr;
    bpf_object__for_each_program(program, object->obj)
        bpf_program__set_expected_attach_type(program, bpf_attach_type{});
  }
  if (auto prepared = maps.prepare(*object); !prepared)
    return prepared.error();

  // Load: the verifier's turn.
  if (int err = pgmemtrace_bpf::load(object.get()))
    return Error{"load the BPF programs for " + binary.path, -err,
                 "`pgmemtrace doctor` says what this kernel lacks"};
  if (auto adopted = maps.adopt(*object); !adopted)
    return adopted.error();
  object->bss->starts_since = UINT64_MAX; // nothing is seen yet
  object->bss->blocks_since = UINT64_MAX;

  return Probes(std::move(object), std::move(executable), std::move(plan), std::move(options));
}

Result<> Probes::link(const Target &target, pid_t pid, std::vector<Link> &into) const
{
  if (target.offsets.empty())
    return Ok{};
  const auto failed = [&] { return Error{fmt::format("attach the {} probe", target.name), errno}; };
  if (options_.uprobe_multi) {
    bpf_uprobe_multi_opts multi{};
    multi.sz = sizeof(multi);
    multi.offsets = target.offsets.data();
    multi.cookies = target.cookies.data();
    multi.cnt = target.offsets.size();
    multi.retprobe = target.at_return;
    Link link(bpf_program__attach_uprobe_multi(target.program, pid, target.path, nullptr, &multi));
    if (!link)
      return failed();
    into.push_back(std::move(link));
    return Ok{};
  }
  for (std::size_t i = 0; i < target.offsets.size(); ++i) {
    bpf_uprobe_opts single{};
    single.sz = sizeof(single);
    single.bpf_cookie = target.cookies[i];
    single.retprobe = target.at_return;
    Link link(bpf_program__attach_uprobe_opts(target.program, pid, target.path, target.offsets[i],
                                              &single));
    if (!link)
      return failed();
    into.push_back(std::move(link));
  }
  return Ok{};
}

// No sites: plan_.unplaced says why; doctor and the metrics show it.
Result<> Probes::attach(pgmt_probe probe, pid_t pid, std::vector<Link> &into)
{
  const std::string name(name_of(probe));
  Target target{.program = program_of(*object_, probe),
                .name = name.c_str(),
                .path = path_.c_str(),
                .offsets = {},
                .cookies = {}};
  std::uint64_t in_table = 0;
  for (const auto &site : plan_.sites) {
    if (site.probe != probe)
      continue;
    // ip - address is the load bias; some have a table that says more.
    const auto cookie = has_table(site) ? in_table++ : site.address;
    if (!probed(site))
      continue;
    target.offsets.push_back(site.file_offset);
    target.cookies.push_back(cookie);
  }
  return link(target, pid, into);
}

Result<> Probes::attach_to(const std::vector<pid_t> &pids, pgmt_probe probe,
                           std::vector<Link> &into)
{
  if (probe == PGMT_PROBE_SAMPLE) {
    options_.samples = attach_samples(into); // false: the ends of all statements instead
    return Ok{};
  }
  if (probe == PGMT_PROBE_SETTLE && attach_answers(into))
    return Ok{};
  for (pid_t pid : pids)
    if (auto attached = attach(probe, pid, into); !attached && attached.error().err != ESRCH)
      return attached.error(); // ESRCH: the process is gone; nothing to attach to
  return Ok{};
}

// False: this kernel has no such tracepoint, or the build lacks what tells answers.
bool Probes::attach_answers(std::vector<Link> &into)
{
  answers_ = false;
  if (!options_.answers)
    return false;
  Link link(
      bpf_program__attach_raw_tracepoint(object_->progs.boundary_answer, PGMT_ANSWER_TRACEPOINT));
  answers_ = static_cast<bool>(link);
  if (answers_)
    into.push_back(std::move(link));
  return answers_;
}

// False: some CPU has no clock to give.
bool Probes::attach_samples(std::vector<Link> &into)
{
  const auto cpus = cpus_in(options_.online_cpus);
  if (!cpus)
    return false;
  std::vector<Link> links;
  for (const int cpu : *cpus) {
    auto clock = open_sample_clock(cpu);
    if (!clock && errno == ENODEV)
      continue; // it has just been taken offline
    if (!clock)
      return false;
    Link link(bpf_program__attach_perf_event(object_->progs.sampled, clock.get()));
    if (!link)
      return false;
    (void)clock.release(); // the link's now
    links.push_back(std::move(link));
  }
  sampled_cpus_ = *cpus;
  std::ranges::move(links, std::back_inserter(into));
  return true;
}

Result<> Probes::follow_cpus()
{
  const auto samples = links_.find(PGMT_PROBE_SAMPLE);
  if (samples == links_.end() || cpus_in(options_.online_cpus) == sampled_cpus_)
    return Ok{};
  std::vector<Link> links;
  options_.samples = attach_samples(links);
  samples->second = std::move(links);
  return options_.samples ? Ok{} : set_level(level_); // which has the ends of all statements then
}

Result<> Probes::add_server(pid_t postmaster, std::uint64_t load_bias)
{
  if (!postmasters_.insert(postmaster).second)
    return Ok{};
  const auto key = static_cast<std::uint32_t>(postmaster);
  if (bpf_map_update_elem(bpf_map__fd(object_->maps.postmasters), &key, &load_bias, BPF_ANY))
    return Error{fmt::format("follow the sessions of server {}", postmaster), errno};
  return Ok{};
}

void Probes::remove_server(pid_t postmaster)
{
  const auto key = static_cast<std::uint32_t>(postmaster);
  if (postmasters_.erase(postmaster))
    bpf_map_delete_elem(bpf_map__fd(object_->maps.postmasters), &key);
}

// Not of those that are attached by pid: attach_starts(), attach_transactions().
bool Probes::wanted(pgmt_probe probe, Level level) const
{
  switch (probe) {
  case PGMT_PROBE_XACT: return false;
  case PGMT_PROBE_START:
  case PGMT_PROBE_UTILITY:
    return options_.boundaries && options_.every_start && level >= level_of(probe);
  case PGMT_PROBE_SAMPLE:
    return options_.boundaries && options_.samples && level >= level_of(probe);
  case PGMT_PROBE_END:
    return options_.boundaries && (options_.every_start || !options_.samples) &&
           level >= level_of(probe);
  case PGMT_PROBE_SETTLE: return options_.boundaries && level >= level_of(probe);
  default: return level >= level_of(probe);
  }
}

Result<> Probes::set_level(Level level)
{
  const auto began = monotonic_ns();
  const bool starts =
      options_.every_start && level >= Level::statement && level_ < Level::statement;
  if (starts)
    expect_starts();
  if (level < Level::block && level_ >= Level::block)
    object_->bss->blocks_since = UINT64_MAX; // not what some sites see when others are gone
  object_->bss->methods_complete = 0;
  for (int i = 0; i < PGMT_PROBES; ++i) {
    const auto probe = static_cast<pgmt_probe>(i);
    if (!wanted(probe, level))
      links_.erase(probe);
    if (!wanted(probe, level) || links_.contains(probe))
      continue;
    std::vector<Link> links;
    const std::vector<pid_t> everyone{-1};
    const auto &pids = options_.only_pids.empty() ? everyone : options_.only_pids;
    if (auto attached = attach_to(pids, probe, links); !attached) {
      (void)set_level(level_);
      return attached.error();
    }
    links_.emplace(probe, std::move(links));
  }
  if (level == Level::sweep) {
    transaction_links_.clear();
    object_->bss->heaps_closed = 1;
    heap_links_.clear();
  }
  if (level >= Level::block)
    block_links_.clear(); // each hit counts once
  if (level < Level::statement) {
    start_links_.clear();
    statements_since_ = UINT64_MAX;
  } else if (level_ < Level::statement) {
    statements_since_ = began; // what a slot says of an earlier time is stale
  }
  if (starts)
    object_->bss->starts_since = postgres_timestamp_now();
  if (level > level_)
    object_->bss->level_epoch = object_->bss->level_epoch + 1;
  if (level >= Level::block && level_ < Level::block)
    object_->bss->blocks_since = monotonic_ns();
  object_->bss->methods_complete = level >= Level::alloc;
  level_ = level;
  return Ok{};
}

// Until starts_since says since when, whatever is seen to start lies in a request joined midway.
void Probes::expect_starts()
{
  object_->bss->starts_since = UINT64_MAX;
  object_->bss->starts_epoch = object_->bss->starts_epoch + 1;
}

Result<> Probes::attach_starts(pid_t pid)
{
  if (level_ < Level::statement || !options_.boundaries || options_.every_start ||
      start_links_.contains(pid))
    return Ok{};
  expect_starts();
  std::vector<Link> links;
  Result<> attached = Ok{};
  for (const auto probe : {PGMT_PROBE_START, PGMT_PROBE_END, PGMT_PROBE_UTILITY})
    if (attached && !links_.contains(probe))
      attached = attach(probe, pid, links);
  object_->bss->starts_since = postgres_timestamp_now();
  if (attached)
    start_links_.emplace(pid, std::move(links));
  return attached;
}

void Probes::detach_starts(pid_t pid) { start_links_.erase(pid); }

Result<> Probes::attach_blocks(pid_t pid)
{
  if (level_ >= Level::block || block_links_.contains(pid))
    return Ok{};
  std::vector<Link> links;
  if (auto attached = attach(PGMT_PROBE_BLOCK, pid, links); !attached)
    return attached.error();
  block_links_.emplace(pid, std::move(links));
  object_->bss->blocks_since = monotonic_ns();
  return Ok{};
}

void Probes::detach_blocks(pid_t pid)
{
  if (block_links_.size() == 1 && block_links_.contains(pid))
    object_->bss->blocks_since = UINT64_MAX;
  block_links_.erase(pid);
}

// Returns first: what is entered before is then seen to its end.
Result<> Probes::attach_heap(pid_t pid, const std::vector<HeapLibrary> &libraries)
{
  if (heap_links_.contains(pid))
    return Ok{};
  std::vector<Link> links;
  for (const bool at_return : {true, false})
    for (const auto &library : libraries) {
      const auto path = library.file.path();
      Target target{.program = at_return ? object_->progs.heap_return : object_->progs.heap_enter,
                    .name = at_return ? "malloc return" : "malloc",
                    .path = path.c_str(),
                    .at_return = at_return,
                    .offsets = {},
                    .cookies = {}};
      for (const auto &function : library.functions)
        if (!at_return || function.returns()) {
          target.offsets.push_back(function.file_offset);
          target.cookies.push_back(function.call);
        }
      if (auto linked = link(target, pid, links); !linked)
        return linked.error();
    }
  heap_links_.emplace(pid, std::move(links));
  object_->bss->heaps_closed = 0;
  return Ok{};
}

void Probes::detach_heap(pid_t pid) { heap_links_.erase(pid); }

Result<> Probes::attach_transactions(pid_t pid)
{
  if (level_ == Level::sweep || !options_.boundaries || transaction_links_.contains(pid))
    return Ok{};
  std::vector<Link> links;
  if (auto attached = attach(PGMT_PROBE_XACT, pid, links); !attached)
    return attached.error();
  transaction_links_.emplace(pid, std::move(links));
  return Ok{};
}

void Probes::detach_transactions(pid_t pid) { transaction_links_.erase(pid); }

// nullptr: this one is never attached by pid.
const std::map<pid_t, std::vector<Probes::Link>> *Probes::by_pid(pgmt_probe probe) const
{
  switch (probe) {
  case PGMT_PROBE_START:
  case PGMT_PROBE_END:
  case PGMT_PROBE_UTILITY: return &start_links_;
  case PGMT_PROBE_XACT: return &transaction_links_;
  case PGMT_PROBE_BLOCK: return &block_links_;
  default: return nullptr;
  }
}

std::size_t Probes::attached_sites(pgmt_probe probe) const
{
  const auto *single = by_pid(probe);
  if (!links_.contains(probe) && (!single || single->empty()))
    return 0;
  if (by_answer(probe) || probe == PGMT_PROBE_SAMPLE)
    return links_.at(probe).size();
  const auto sites = std::ranges::count_if(
      plan_.sites, [&](const ProbeSite &site) { return site.probe == probe && probed(site); });
  return static_cast<std::size_t>(sites);
}

bool Probes::probed(const ProbeSite &site) const
{
  return options_.record_all || !site.block || !site.block->record_only;
}

double Probes::hit_seconds(pgmt_probe probe, const Calibration &calibration) const
{
  if (by_answer(probe))
    return kColdFactor * calibration.send_seconds;
  if (probe == PGMT_PROBE_SAMPLE)
    return 0; // an interrupt each 10 ms; its program is timed
  const bool stepped =
      std::any_of(plan_.sites.begin(), plan_.sites.end(),
                  [&](const ProbeSite &site) { return site.probe == probe && !site.emulated; });
  return kColdFactor * (stepped ? calibration.stepped_seconds : calibration.emulated_seconds);
}

std::size_t Probes::probed_pages(pid_t pid) const
{
  const auto attached = [&](pgmt_probe probe) {
    const auto *single = by_pid(probe);
    return (links_.contains(probe) && !by_answer(probe)) || (single && single->contains(pid));
  };
  std::set<std::uint64_t> pages;
  for (const auto &site : plan_.sites)
    if (probed(site) && attached(site.probe))
      pages.insert(site.file_offset / static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
  return pages.size();
}

} // namespace pgmemtrace
