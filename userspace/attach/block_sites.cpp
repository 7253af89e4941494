// SPDX-License-Identifier: BSD-2-Clause
#include "attach/block_sites.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <set>

#include <linux/ptrace.h>

#include <fmt/format.h>

#include "attach/instruction.h"

namespace pgmemtrace {
namespace {

using Role = AllocatorFunction::Role;
using Function = AllocatorFunction;

#if defined(__x86_64__)
#define PGMT_PLACE(reg) offsetof(struct pt_regs, reg) / sizeof(std::uint64_t)
// By the number of a register: where the kernel half finds it.
constexpr std::array<std::size_t, kRegisters> kPlaces{
    PGMT_PLACE(rax), PGMT_PLACE(rcx), PGMT_PLACE(rdx), PGMT_PLACE(rbx),
    PGMT_PLACE(rsp), PGMT_PLACE(rbp), PGMT_PLACE(rsi), PGMT_PLACE(rdi),
    PGMT_PLACE(r8),  PGMT_PLACE(r9),  PGMT_PLACE(r10), PGMT_PLACE(r11),
    PGMT_PLACE(r12), PGMT_PLACE(r13), PGMT_PLACE(r14), PGMT_PLACE(r15)};
#else
constexpr std::array<std::size_t, kRegisters> kPlaces{}; // no site is found here
#endif

class Finder {
public:
  Finder(const Code &code, const AllocatorFunctions &allocators)
      : code_(code), allocators_(allocators)
  {
  }

  void look_at(const Function &function)
  {
    const auto found = find_heap_calls(code_, function.address);
    if (!found) {
      out.unproven.push_back({function.name, to_string(found.error())});
      return;
    }
    if (found->hidden_paths) {
      if (!found->calls.empty())
        out.unproven.push_back({function.name, "not all of its paths can be followed"});
      return;
    }
    for (const HeapCall &call : found->calls)
      if (const auto kind = kind_of(function, call.callee))
        add(function, call, *kind);
  }

  BlockSites out;

private:
  // What a call means there; nothing if it is not about blocks.
  static std::optional<pgmt_site_kind> kind_of(const Function &function, HeapCall::Callee callee)
  {
    switch (callee) {
    case HeapCall::Callee::malloc:
      if (function.role == Role::create)
        return PGMT_SITE_CREATE;
      return function.role == Role::allocate ? std::optional{PGMT_SITE_GAIN} : std::nullopt;
    case HeapCall::Callee::realloc: return PGMT_SITE_RESIZE;
    case HeapCall::Callee::free:
      return function.role == Role::create ? std::nullopt : std::optional{PGMT_SITE_RETURN};
    }
    return std::nullopt;
  }

  // Does a block say whose it is?  GenerationBlock.context and SlabBlock.slab came with 16.
  bool block_knows(ContextType type) const
  {
    return type == ContextType::alloc_set || (allocators_.exported && type != ContextType::bump);
  }

  void add(const Function &function, const HeapCall &call, pgmt_site_kind kind)
  {
    BlockSite site{
        .role = {.kind = kind,
                 .type = function.type,
                 .holder = std::nullopt,
                 .record_only = kind == PGMT_SITE_RETURN && function.role != Role::destroy},
        .function = function.name,
        .displacement = static_cast<std::uint32_t>(call.address - function.address),
        .address = call.address,
        .instruction = call.instruction};
    if (const auto part = code_.bounds(call.address); part && part->address != function.address) {
      site.function += "'s helper";
      site.displacement = static_cast<std::uint32_t>(call.address - part->address);
    }
    if (kind == PGMT_SITE_CREATE)
      site.role.holder = call.second;
    else if (allocators_.takes_context(function.role))
      site.role.holder = call.first;
    if (const char *reason = objection(site, call)) {
      out.unproven.push_back({fmt::format("{}+{:#x}", site.function, site.displacement), reason});
      return;
    }
    const auto same = std::ranges::find(out.sites, site.address, &BlockSite::address);
    if (same == out.sites.end())
      out.sites.push_back(std::move(site));
    else // a helper that two functions share
      same->role.record_only &= site.role.record_only;
  }

  const char *objection(const BlockSite &site, const HeapCall &call) const
  {
    if (site.role.kind == PGMT_SITE_CREATE && !site.role.holder)
      return "nothing is known to hold the name";
    if (site.role.kind == PGMT_SITE_RESIZE && site.role.type != ContextType::alloc_set)
      return "blocks of this kind do not say how large they are";
    if (!site.role.holder && (site.role.kind == PGMT_SITE_GAIN || !block_knows(site.role.type)))
      return "nothing is known to hold the context";
    if (!call.emulated) // some 30 us each: dearer than what it tells is worth
      return "the kernel would single-step it";
    return nullptr;
  }

  const Code &code_;
  const AllocatorFunctions &allocators_;
};

} // namespace

BlockSites find_block_sites(const Code &code, const Allocators &allocators)
{
  const auto found = find_allocator_functions(code, allocators);
  // An allocator's functions call each other: each is looked at on its own.
  std::set<std::uint64_t> own;
  for (const Function &function : found.functions)
    own.insert(function.address);
  Code bounded = code;
  bounded.exported = [&](std::uint64_t address) {
    return own.contains(address) || code.exported(address);
  };
  Finder finder(bounded, found);
  for (const std::string &creator : found.incomplete)
    finder.out.unproven.push_back({creator, "its methods were not found"});
  for (const Function &function : found.functions)
    finder.look_at(function);
  return std::move(finder.out);
}

std::uint8_t place_of_register(unsigned number)
{
  return static_cast<std::uint8_t>(kPlaces.at(number));
}

pgmt_site site_record(const BlockRole &role, std::uint64_t address, const Layout &layout)
{
  pgmt_site site{};
  site.address = address;
  site.kind = static_cast<std::uint8_t>(role.kind);
  site.holder = PGMT_HOLDER_BLOCK;
  if (role.holder && role.holder->reg) {
    site.holder = place_of_register(*role.holder->reg);
  } else if (role.holder) {
    site.holder = PGMT_HOLDER_FRAME;
    site.frame_offset = static_cast<std::int16_t>(role.holder->frame_offset);
  }
  const auto block = [&](std::uint32_t tag, std::uint32_t owner_at, pgmt_block_size from,
                         std::uint32_t size_at) {
    site.context_tag = tag;
    site.owner_at = static_cast<std::uint16_t>(owner_at);
    site.size_from = static_cast<std::uint8_t>(from);
    site.size_at = static_cast<std::uint16_t>(size_at);
  };
  switch (role.type) {
  case ContextType::alloc_set:
    block(layout.tag.aset, layout.aset_block.aset, PGMT_SIZE_TO_END, layout.aset_block.endptr);
    break;
  case ContextType::generation:
    block(layout.tag.generation, layout.generation_block.context, PGMT_SIZE_IN_BLOCK,
          layout.generation_block.blksize);
    break;
  case ContextType::slab:
    block(layout.tag.slab, layout.slab_block.slab, PGMT_SIZE_IN_CONTEXT, layout.slab.block_size);
    break;
  case ContextType::bump:
    block(layout.tag.bump, kAbsent, PGMT_SIZE_TO_END, layout.bump_block.endptr);
    break;
  case ContextType::unknown: break;
  }
  return site;
}

} // namespace pgmemtrace
