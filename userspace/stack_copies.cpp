// SPDX-License-Identifier: BSD-2-Clause
#include "stack_copies.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <span>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

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

void StackCopies::drain() { ring_buffer__consume(ring_.get()); }

int StackCopies::on_copy(void *self, void *copy, std::size_t size)
{
  if (size >= sizeof(pgmt_stack_copy))
    static_cast<StackCopies *>(self)->take(*static_cast<const pgmt_stack_copy *>(copy));
  return 0;
}

void StackCopies::take(const pgmt_stack_copy &copy)
{
  const auto stack = stack_of(copy);
  auto key = copy.key;
  key.stack.hash = hash_of(stack);
  if (bpf_map_update_elem(maps_.stacks_fd(), &key.stack, &stack, BPF_ANY)) {
    ++full_;
    key.stack.hash = 0;
  }
  count(key, copy.growth);
}

// The stack of frame pointers if that is right, else what the copy tells.
pgmt_stack StackCopies::stack_of(const pgmt_stack_copy &copy)
{
  const auto target = target_of_(static_cast<pid_t>(copy.key.stack.tgid));
  pgmt_stack walked{};
  const bool known =
      copy.key.stack.hash != 0 && !bpf_map_lookup_elem(maps_.stacks_fd(), &copy.key.stack, &walked);
  if (known && walked.state != PGMT_STACK_BROKEN) {
    const auto proven = symbols_.prove(target, addresses_of(walked));
    if (proven.whole || proven.addresses == PGMT_STACK_FRAMES) {
      walked.state = PGMT_STACK_PROVEN;
      bpf_map_update_elem(maps_.stacks_fd(), &copy.key.stack, &walked, BPF_EXIST);
      return walked;
    }
  }
  auto unwound = unwind(copy, target);
  // Where that failed too, a library may have been loaded a moment ago: the next copy tells.
  if (known && unwound.state == PGMT_STACK_UNWOUND && walked.state != PGMT_STACK_BROKEN) {
    walked.state = PGMT_STACK_BROKEN;
    bpf_map_update_elem(maps_.stacks_fd(), &copy.key.stack, &walked, BPF_EXIST);
  }
  return unwound;
}

pgmt_stack StackCopies::unwind(const pgmt_stack_copy &copy, const Symbolizer::Target &target)
{
  const auto size = std::min<std::uint64_t>(copy.size, sizeof copy.stack);
  const auto unwound = symbols_.unwind(target, {copy.ip, copy.sp, copy.bp},
                                       std::as_bytes(std::span(copy.stack)).first(size));
  truncated_ += unwound.end == StackEnd::truncated;
  no_rules_ += unwound.end == StackEnd::no_rules;
  pgmt_stack stack{};
  const auto frames = std::min<std::size_t>(unwound.addresses.size(), PGMT_STACK_FRAMES);
  std::copy_n(unwound.addresses.begin(), frames, std::begin(stack.ip));
  cut_ += frames < unwound.addresses.size();
  const bool whole = unwound.end == StackEnd::complete && frames == unwound.addresses.size();
  stack.state = whole ? PGMT_STACK_UNWOUND : PGMT_STACK_UNWOUND_PART;
  return stack;
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
