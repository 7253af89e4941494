// SPDX-License-Identifier: BSD-2-Clause
#include "stack_copies.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <span>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "collect/bpf_hash.h"

namespace pgmemtrace {

namespace {

std::uint64_t hash_of(const pgmt_stack &stack)
{
  std::uint64_t hash = stack.state; // the same addresses may be a whole stack and a part
  for (const auto address : addresses_of(stack)) {
    hash = (hash ^ address) * 0x9e3779b97f4a7c15ULL;
    hash ^= hash >> 29;
  }
  return hash | PGMT_HASH_UNWOUND;
}

} // namespace

void StackCopies::FreeRing::operator()(ring_buffer *ring) const { ring_buffer__free(ring); }

Result<std::unique_ptr<StackCopies>> StackCopies::create(const KernelMaps &maps,
                                                         Symbolizer &symbols, TargetOf target_of)
{
  std::unique_ptr<StackCopies> copies(new StackCopies(maps, symbols, std::move(target_of)));
  copies->ring_.reset(ring_buffer__new(maps.stack_copies_fd(), on_copy, copies.get(), nullptr));
  if (!copies->ring_)
    return Error{"read the BPF ring buffer of stacks", errno, {}};
  return copies;
}

StackCopies::~StackCopies() = default;

void StackCopies::drain()
{
  looked_again_.clear();
  due_ = maps_.options().copies_bytes / sizeof(pgmt_stack_copy) + 1; // there is room for no more
  ring_buffer__consume(ring_.get());
}

int StackCopies::poll_fd() const { return ring_buffer__epoll_fd(ring_.get()); }

int StackCopies::on_copy(void *self, void *copy, std::size_t size)
{
  auto &copies = *static_cast<StackCopies *>(self);
  if (size >= sizeof(pgmt_stack_copy))
    copies.take(*static_cast<const pgmt_stack_copy *>(copy));
  return --copies.due_ == 0 ? -ECANCELED : 0; // libbpf: this one was taken, and it was the last
}

// The stack of frame pointers if that is right, else what the copy tells.
void StackCopies::take(const pgmt_stack_copy &copy)
{
  auto target = target_of_(static_cast<pid_t>(copy.key.stack.tgid));
  if (target.process.start == 0) // it came since the last look at /proc
    if (const auto stat = Proc().stat(target.process.pid))
      target.process.start = stat->start;
  pgmt_stack stack{};
  UnwoundStack unwound;
  if (!prove(copy.key.stack, target, stack)) {
    unwound = unwind(copy, target);
    stack = stack_of(unwound);
  }
  auto key = copy.key;
  key.stack.hash = hash_of(stack);
  if (bpf_map_update_elem(maps_.stacks_fd(), &key.stack, &stack, BPF_ANY)) {
    ++full_;
    key.stack.hash = 0;
  } else {
    make_known(copy, unwound, key.stack.hash);
  }
  if (copy.call)
    calls_[{target.process.pid, copy.call}] = key.stack.hash;
  else
    count(key, copy.growth);
}

std::uint64_t StackCopies::id_of_call(pid_t pid, std::uint64_t id) const
{
  const auto call = calls_.find({pid, id});
  return call == calls_.end() ? id : call->second & ~PGMT_HASH_UNWOUND;
}

void StackCopies::forget(pid_t pid)
{
  calls_.erase(calls_.lower_bound({pid, 0}), calls_.upper_bound({pid, UINT64_MAX}));
}

// A library may have been loaded a moment ago; once for all copies of a process that wait.
bool StackCopies::look_again(const Symbolizer::Target &target)
{
  if (!looked_again_.insert(target.process).second)
    return false;
  symbols_.reread(target);
  return true;
}

// Of a stack that frame pointers led to: is it right?  Tells the kernel half, if it is.
bool StackCopies::prove(const pgmt_stack_key &key, const Symbolizer::Target &target,
                        pgmt_stack &walked)
{
  if (key.hash == 0 || bpf_map_lookup_elem(maps_.stacks_fd(), &key, &walked) != 0)
    return false;
  auto proven = symbols_.prove(target, walked);
  if (!proven.mapped && look_again(target))
    proven = symbols_.prove(target, walked);
  const std::uint32_t state = proven.right()  ? PGMT_STACK_PROVEN
                              : proven.mapped ? PGMT_STACK_BROKEN
                                              : PGMT_STACK_UNCHECKED;
  if (state != std::exchange(walked.state, state))
    bpf_map_update_elem(maps_.stacks_fd(), &key, &walked, BPF_EXIST);
  return proven.right();
}

UnwoundStack StackCopies::unwind(const pgmt_stack_copy &copy, const Symbolizer::Target &target)
{
  const auto size = std::min<std::uint64_t>(copy.size, sizeof copy.stack);
  const auto follow = [&] {
    return symbols_.unwind(target, {copy.ip, copy.sp, copy.bp},
                           std::as_bytes(std::span(copy.stack)).first(size));
  };
  auto unwound = follow();
  if (unwound.end == StackEnd::no_rules && look_again(target))
    unwound = follow();
  if (const auto main = symbols_.depth_of_main(target, unwound.addresses)) {
    unwound.addresses.resize(*main + 1);
    unwound.found_at.resize(*main);
    unwound.end = StackEnd::complete;
  }
  truncated_ += unwound.end == StackEnd::truncated;
  no_rules_ += unwound.end == StackEnd::no_rules;
  cut_ += unwound.addresses.size() > PGMT_STACK_FRAMES;
  return unwound;
}

pgmt_stack StackCopies::stack_of(const UnwoundStack &unwound)
{
  pgmt_stack stack{};
  const auto frames = std::min<std::size_t>(unwound.addresses.size(), PGMT_STACK_FRAMES);
  std::copy_n(unwound.addresses.begin(), frames, std::begin(stack.ip));
  const bool whole = unwound.end == StackEnd::complete && frames == unwound.addresses.size();
  stack.state = whole ? PGMT_STACK_UNWOUND : PGMT_STACK_UNWOUND_PART;
  return stack;
}

// The same return addresses in the same places are the same stack: each of them says how far away
// the next one lies.  (Frames of variable size are the exception; there, too, all words would have
// to be left over from the other stack.)
void StackCopies::make_known(const pgmt_stack_copy &copy, const UnwoundStack &unwound,
                             std::uint64_t hash)
{
  pgmt_known_stack known{.hash = hash};
  const auto frames = std::min<std::size_t>(unwound.found_at.size(), PGMT_STACK_FRAMES);
  if (frames == 0 || unwound.end == StackEnd::no_rules) // the next one may lead further
    return;
  for (std::size_t i = 0; i < frames; ++i) {
    const auto word = (unwound.found_at[i] - copy.sp) / sizeof(std::uint64_t);
    if (unwound.found_at[i] % sizeof(std::uint64_t) != 0 || word >= PGMT_STACK_BYTES)
      return;
    known.ip[i] = unwound.addresses[i + 1];
    known.at[i] = static_cast<std::uint16_t>(word);
  }
  if (known_.size() >= maps_.options().stacks) { // a cache: what is needed comes again
    bpf_hash::erase(maps_.known_stacks_fd(), known_);
    known_.clear();
  }
  pgmt_stack_place place{copy.key.stack.tgid, copy.ip, copy.sp, copy.call ? known.ip[0] : 0, 0};
  pgmt_known_stack other{};
  for (; place.way < PGMT_STACK_WAYS; ++place.way) {
    if (bpf_map_lookup_elem(maps_.known_stacks_fd(), &place, &other) != 0)
      break;
    if (other.hash == hash)
      return; // by a copy that waited beside this one
  }
  if (place.way < PGMT_STACK_WAYS)
    known_.push_back(place);
  else
    place.way = hash % PGMT_STACK_WAYS;
  bpf_map_update_elem(maps_.known_stacks_fd(), &place, &known, BPF_ANY);
}

// Keys of unwound stacks are ours alone: nobody adds to them meanwhile.
void StackCopies::count(const pgmt_growth_key &key, const pgmt_growth &growth)
{
  pgmt_growth sum{};
  if (bpf_map_lookup_elem(maps_.growths_fd(), &key, &sum) != 0)
    sum = {};
  sum.bytes += growth.bytes;
  sum.raised += growth.raised;
  sum.blocks += growth.blocks;
  sum.last_ns = std::max(sum.last_ns, growth.last_ns);
  if (bpf_map_update_elem(maps_.growths_fd(), &key, &sum, BPF_ANY))
    ++full_;
}

std::map<std::string, std::uint64_t> StackCopies::losses() const
{
  return {{"stack_copy_short", truncated_},
          {"stack_no_rules", no_rules_},
          {"stack_copy_cut", cut_},
          {"stack_copies_not_kept", full_}};
}

} // namespace pgmemtrace
