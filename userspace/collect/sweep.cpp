// SPDX-License-Identifier: BSD-2-Clause
#include "collect/sweep.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <unordered_map>
#include <utility>

#include "collect/context_header.h"
#include "collect/exact.h"
#include "collect/foreign_strings.h"
#include "collect/last_tree.h"
#include "collect/page_cache.h"
#include "collect/tree_walk.h"

namespace pgmemtrace {

namespace {

// As the server's view clips (MEMORY_CONTEXT_IDENT_DISPLAY_SIZE, adt/mcxtfuncs.c).
constexpr std::size_t kIdentBytes = 1023;
constexpr std::size_t kNameBytes = 255;
constexpr std::size_t kSpareNames = 1024;
constexpr const char *kUnreadableName = "???";

} // namespace

SweepStats &SweepStats::operator+=(const SweepStats &other)
{
  sweeps += other.sweeps;
  contexts += other.contexts;
  blocks += other.blocks;
  chunks += other.chunks;
  read_errors += other.read_errors;
  retries += other.retries;
  incomplete += other.incomplete;
  return *this;
}

struct Sweeper::Impl {
  Impl(const Layout &its_layout, std::uint64_t variable, std::unique_ptr<ForeignMemory> its_memory,
       SweepLimits its_limits)
      : layout(its_layout), top_variable(variable), memory(std::move(its_memory)),
        limits(its_limits), decoder(layout), cache(*memory)
  {
  }

  Result<Tree> sweep(Pass pass);
  Result<bool> read_tree(Tree &tree, bool final);
  Result<std::uint64_t> read_top();
  Result<bool> count(Pass pass, Tree &tree);
  Result<bool> prepare_retry(std::vector<ExactJob> &jobs);
  Result<> name_contexts(Pass pass);
  Result<> read_names(const std::vector<std::uint64_t> &pointers);
  Result<> read_idents(const std::vector<Record *> &wanted);
  void fill(Pass pass, Tree &tree) const;

  const Layout &layout;
  std::uint64_t top_variable;
  std::unique_ptr<ForeignMemory> memory;
  SweepLimits limits;
  HeaderDecoder decoder;
  PageCache cache;
  SweepStats stats;

  LastTree last;
  std::unordered_map<std::uint64_t, std::string> names; // by pointer: constants of the binary
  bool names_whole = true;                              // no read of them was cut short
  std::vector<bool> counted_now;
};

Sweeper::Sweeper(const ServerProcess &process, SweepLimits limits,
                 std::shared_ptr<DirectMap> direct)
    : Sweeper(process.binary->layout,
              process.binary->globals.top_memory_context + process.load_bias,
              foreign_memory(process.identity.id.pid, std::move(direct)), limits)
{
}

Sweeper::Sweeper(const Layout &layout, std::uint64_t top_memory_context_variable,
                 std::unique_ptr<ForeignMemory> memory, SweepLimits limits)
    : impl_(std::make_unique<Impl>(layout, top_memory_context_variable, std::move(memory), limits))
{
}

Sweeper::Sweeper(Sweeper &&) noexcept = default;
Sweeper &Sweeper::operator=(Sweeper &&) noexcept = default;
Sweeper::~Sweeper() = default;

const SweepStats &Sweeper::stats() const { return impl_->stats; }

Result<Sweeper::Tree> Sweeper::sweep(Pass pass)
{
  auto tree = impl_->sweep(pass);
  if (!tree && tree.error().err == EPERM) {
    Error error = tree.error();
    error.hint = "run as root, or grant CAP_SYS_PTRACE; /proc/sys/kernel/yama/ptrace_scope 3 "
                 "forbids it to everybody";
    tree = std::move(error);
  }
  impl_->stats.read_errors += impl_->cache.take_unreadable_pages();
  impl_->cache.release(); // hundreds of sweepers live between two intervals
  return tree;
}

Result<Sweeper::Tree> Sweeper::Impl::sweep(Pass pass)
{
  ++stats.sweeps;
  for (int attempt = 0;; ++attempt) {
    const bool final = attempt >= limits.retries;
    cache.clear();
    Tree tree;
    auto seen = read_tree(tree, final);
    if (!seen)
      return seen.error();
    if (!*seen) {
      ++stats.retries;
      continue;
    }
    counted_now.assign(last.records().size(), false);
    if (pass != Pass::header) {
      auto steady = count(pass, tree);
      if (!steady)
        return steady.error();
      if (!*steady && !final) {
        ++stats.retries;
        continue;
      }
    }
    if (auto result = name_contexts(pass); !result)
      return result.error();
    fill(pass, tree);
    return tree;
  }
}

Result<std::uint64_t> Sweeper::Impl::read_top()
{
  std::uint64_t top = 0;
  ForeignMemory::Piece piece{.address = top_variable,
                             .into = std::as_writable_bytes(std::span(&top, 1))};
  if (auto result = memory->read(std::span(&piece, 1)); !result)
    return result.error();
  if (!piece.ok || top == 0) {
    return Error{.what = "read TopMemoryContext of process " + std::to_string(memory->pid()),
                 .err = piece.ok ? 0 : EFAULT,
                 .hint = "the process is just starting or ending; try again"};
  }
  return top;
}

// The same tree as last time costs one batch of reads; anything else a walk from the root,
// which does not read again what that batch brought.  False: it changed while it was read;
// a final attempt takes what there is.
Result<bool> Sweeper::Impl::read_tree(Tree &tree, bool final)
{
  const auto top = read_top();
  if (!top)
    return top.error();

  KnownHeaders known;
  if (!last.records().empty() && last.records().front().header().address == *top) {
    const auto same = last.reread(decoder, *memory, known);
    if (!same)
      return same.error();
    if (*same)
      return true;
  }
  auto walked = walk_tree(decoder, cache, *top, std::move(known),
                          {.contexts = limits.contexts, .depth = limits.depth});
  if (!walked)
    return walked.error();
  if (!walked->torn.empty() && !final)
    return false;
  if (walked->nodes.empty()) {
    return Error{.what = "read the context tree of process " + std::to_string(memory->pid()),
                 .err = EFAULT,
                 .hint = "its TopMemoryContext is not a memory context as this major has them"};
  }
  std::vector<ContextHeader *> open;
  for (TreeNode &node : walked->nodes) {
    if (!node.header.head_known && node.header.head_block != 0)
      open.push_back(&node.header);
  }
  if (auto result = read_heads(decoder, *memory, open); !result)
    return result.error();
  tree.incomplete_reason = !walked->cut.empty() ? walked->cut : walked->torn;
  last.adopt(walked->nodes, tree.incomplete_reason.empty());
  return true;
}

// False: contexts went away meanwhile, so the tree has to be read again.
Result<bool> Sweeper::Impl::count(Pass pass, Tree &tree)
{
  std::vector<ExactJob> jobs;
  for (const auto &[address, index] : last.by_address()) {
    Record &record = last.records()[index];
    if (pass == Pass::exact || record.changed_since_counted())
      jobs.push_back({.context = address,
                      .type = record.header().type,
                      .counters = {},
                      .places = &record.places});
  }
  ExactBudget budget{.blocks = limits.blocks, .free_chunks = limits.free_chunks};
  bool gone = false;
  for (int attempt = 0; !gone; ++attempt) {
    if (auto result = read_exact(layout, cache, jobs, budget); !result)
      return result.error();
    const bool torn = std::ranges::any_of(
        jobs, [](const ExactJob &job) { return job.state == ExactState::torn; });
    if (!torn || attempt >= limits.retries)
      break;
    ++stats.retries;
    auto retry = prepare_retry(jobs);
    if (!retry)
      return retry.error();
    gone = !*retry;
  }
  stats.blocks += limits.blocks - budget.blocks;
  stats.chunks += limits.free_chunks - budget.free_chunks;

  for (const ExactJob &job : jobs) {
    if (job.state != ExactState::done) {
      if (tree.incomplete_reason.empty()) {
        tree.incomplete_reason = job.state == ExactState::over_budget
                                     ? "more blocks or free chunks than the bound"
                                     : "contexts kept changing while they were counted";
      }
      continue;
    }
    const std::uint32_t index = last.index_of(job.context);
    last.records()[index].set_counted(job.counters);
    counted_now[index] = true;
  }
  return !gone;
}

// Torn jobs become pending again.  False: one of them is not what it was any more.
Result<bool> Sweeper::Impl::prepare_retry(std::vector<ExactJob> &jobs)
{
  cache.clear();
  std::vector<std::uint64_t> addresses;
  for (ExactJob &job : jobs) {
    if (job.state == ExactState::torn) {
      job.state = ExactState::pending;
      addresses.push_back(job.context);
    }
  }
  const auto headers = read_headers(decoder, *memory, addresses);
  if (!headers)
    return headers.error();
  for (const ContextHeader &header : *headers) {
    if (!same_context(header, last.records()[last.index_of(header.address)].header()))
      return false;
  }
  return true;
}

Result<> Sweeper::Impl::name_contexts(Pass pass)
{
  // Pointers of contexts that are gone, or garbage, must not pile up.
  const bool anew =
      pass == Pass::exact || !names_whole || names.size() > last.records().size() + kSpareNames;
  if (anew)
    names.clear();
  names_whole = false;
  std::vector<std::uint64_t> pointers;
  std::vector<Record *> wanted;
  for (Record &record : last.records()) {
    const ContextHeader &header = record.header();
    if (anew || record.name == nullptr) {
      const auto [it, added] = names.try_emplace(header.name);
      if (added)
        pointers.push_back(header.name);
      record.name = &it->second; // stays where it is until it is erased
    }
    if (header.ident == 0)
      record.ident.reset();
    else if (!record.ident_known || pass == Pass::exact)
      wanted.push_back(&record);
  }
  if (auto result = read_names(pointers); !result)
    return result;
  names_whole = true;
  return read_idents(wanted);
}

Result<> Sweeper::Impl::read_names(const std::vector<std::uint64_t> &pointers)
{
  return read_strings(cache, pointers, kNameBytes, [&](std::size_t i, const std::string *text) {
    names[pointers[i]] = text != nullptr ? *text : kUnreadableName;
    stats.read_errors += text == nullptr ? 1 : 0;
  });
}

Result<> Sweeper::Impl::read_idents(const std::vector<Record *> &wanted)
{
  std::vector<std::uint64_t> pointers;
  pointers.reserve(wanted.size());
  for (const Record *record : wanted)
    pointers.push_back(record->header().ident);
  return read_strings(cache, pointers, kIdentBytes + 1,
                      [&](std::size_t i, const std::string *text) {
                        // A reset context's ident may dangle: PostgreSQL says so itself.
                        wanted[i]->ident_known = true;
                        wanted[i]->ident.reset();
                        if (text != nullptr)
                          wanted[i]->ident = std::string(clip_utf8(*text, kIdentBytes));
                        else
                          ++stats.read_errors;
                      });
}

void Sweeper::Impl::fill(Pass pass, Tree &tree) const
{
  const std::vector<Record> &records = last.records();
  tree.contexts.reserve(records.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Record &record = records[i];
    const ContextHeader &header = record.header();
    Context context{.address = header.address,
                    .parent = record.node.parent,
                    .level = record.node.level,
                    .type = header.type,
                    .exact = counted_now[i] || (pass == Pass::changed && record.counted &&
                                                !record.changed_since_counted()),
                    .name = *record.name,
                    .total_bytes = header.total_bytes};
    if (record.ident && context.name == "dynahash")
      context.name = *record.ident;
    else
      context.ident = record.ident;
    if (context.exact) {
      context.total_bytes = record.counters.total_bytes;
      context.free_bytes = record.counters.free_bytes;
    } else {
      context.free_bytes = std::min(record.rest_free + record.head_tail, context.total_bytes);
    }
    context.total_nblocks = record.counters.total_nblocks;
    context.free_chunks = record.counters.free_chunks;
    tree.contexts.push_back(std::move(context));
  }
  tree.complete = tree.incomplete_reason.empty();
}

} // namespace pgmemtrace
