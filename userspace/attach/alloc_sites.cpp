// SPDX-License-Identifier: BSD-2-Clause
#include "attach/alloc_sites.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include <dwarf.h>
#include <elfutils/libdw.h>

#include "attach/block_sites.h"
#include "attach/instruction.h"
#include "attach/planner.h"

namespace pgmemtrace {
namespace {

using Role = AllocatorFunction::Role;

// What is asked for on behalf of others, and given back (PostgreSQL mcxt.c, 13 to 18, and
// alignedalloc.c).  Those that a major lacks are not found.
constexpr const char *kPassers[] = {
    "palloc",
    "palloc0",
    "palloc_extended",
    "palloc_aligned",
    "palloc_mul",
    "palloc0_mul",
    "palloc_mul_extended",
    "palloc_array",
    "repalloc",
    "repalloc0",
    "repalloc_extended",
    "repalloc_huge",
    "repalloc_mul",
    "repalloc_mul_extended",
    "pfree",
    "pstrdup",
    "pnstrdup",
    "AlignedAllocFree",
    "AlignedAllocRealloc",
    "MemoryContextAlloc",
    "MemoryContextAllocZero",
    "MemoryContextAllocZeroAligned",
    "MemoryContextAllocExtended",
    "MemoryContextAllocHuge",
    "MemoryContextAllocAligned",
    "MemoryContextStrdup",
    "MemoryContextReset",
    "MemoryContextResetOnly",
    "MemoryContextResetChildren",
    "MemoryContextDelete",
    "MemoryContextDeleteChildren",
};

std::optional<pgmt_method> method_of(Role role)
{
  switch (role) {
  case Role::allocate: return PGMT_METHOD_ALLOC;
  case Role::release: return PGMT_METHOD_FREE;
  case Role::resize: return PGMT_METHOD_REALLOC;
  case Role::reset: return PGMT_METHOD_RESET;
  case Role::destroy: return PGMT_METHOD_DELETE;
  case Role::create: break;
  }
  return std::nullopt;
}

// Bump and Slab have methods that do nothing but complain.
bool only_complains(const AllocatorFunction &function)
{
  return (function.type == ContextType::bump &&
          (function.role == Role::release || function.role == Role::resize)) ||
         (function.type == ContextType::slab && function.role == Role::resize);
}

std::span<const std::byte> body_of(const Code &code, std::uint64_t function)
{
  const auto bounds = code.bounds(function);
  const auto bytes = code.bytes(function);
  if (!bounds || bounds->address != function)
    return {};
  return bytes.first(std::min<std::size_t>(bytes.size(), bounds->size));
}

class Finder {
public:
  Finder(const Code &code, const AllocatorFunctions &allocators, const CallFrames &call_frames,
         Disassembler &disassembler)
      : code_(code), allocators_(allocators), call_frames_(call_frames), disassembler_(disassembler)
  {
  }

  void place(const AllocatorFunction &function, pgmt_method method)
  {
    const auto refuse = [&](std::string reason) {
      out.unproven.push_back({function.name, std::move(reason)});
      untracked_.insert(function.type);
    };
    // In the order of the method's arguments: the context, the chunk, the size.
    const bool context = allocators_.takes_context(function.role);
    const bool chunk = function.role == Role::release || function.role == Role::resize;
    const bool size = function.role == Role::allocate || function.role == Role::resize;
    const unsigned count = context + chunk + size;
    const auto placed = place_probe(code_.machine, body_of(code_, function.address),
                                    function.address, (1U << count) - 1, Reading::caller_too);
    if (!placed)
      return refuse(to_string(placed.error()));
    if (!placed->emulated) // some 30 us each
      return refuse("the kernel would single-step it");
    out.tracked.insert(function.type);
    MethodSite site{.role = {.method = method,
                             .type = function.type,
                             .context = std::nullopt,
                             .chunk = std::nullopt,
                             .size = std::nullopt,
                             .framed = placed->framed},
                    .function = function.name,
                    .displacement = placed->displacement,
                    .address = function.address + placed->displacement,
                    .instruction = placed->instruction};
    std::size_t next = 0;
    if (context)
      site.role.context = placed->arguments.at(next++);
    if (chunk)
      site.role.chunk = placed->arguments.at(next++);
    if (size)
      site.role.size = placed->arguments.at(next++);
    out.sites.push_back(std::move(site));
  }

  void pass(const std::string &name, std::uint64_t function, bool is_method)
  {
    const auto body = body_of(code_, function);
    if (body.empty())
      return;
    switch (calls_of(body, function)) {
    case Calls::none: return; // it is never on the stack below a method
    case Calls::unframed:
      out.unproven.push_back({name, "it has no frame pointer: it counts as the caller"});
      return;
    case Calls::framed: break;
    }
    out.passers.push_back({function, function + body.size(), is_method});
  }

  void forget_untracked()
  {
    for (const ContextType type : untracked_)
      out.tracked.erase(type);
  }

  // What lies between two functions is padding.
  void join_neighbours()
  {
    constexpr std::uint64_t kPadding = 16;
    std::ranges::sort(out.passers, {}, &Passer::address);
    std::vector<Passer> joined;
    for (const Passer &passer : out.passers) {
      const bool neighbour = !joined.empty() && passer.address < joined.back().end + kPadding &&
                             joined.back().is_method == passer.is_method;
      if (neighbour)
        joined.back().end = std::max(joined.back().end, passer.end);
      else
        joined.push_back(passer);
    }
    out.passers = std::move(joined);
  }

  AllocSites out;

private:
  enum class Calls : std::uint8_t { none, framed, unframed };

  Calls calls_of(std::span<const std::byte> body, std::uint64_t function)
  {
    bool any = false;
    for (std::size_t offset = 0; offset < body.size();) {
      const auto instruction = disassembler_.decode(body.subspan(offset), function + offset);
      if (!instruction)
        return any ? Calls::unframed : Calls::none;
      offset += instruction->size;
      if (instruction->flow != Instruction::Flow::call)
        continue;
      any = true;
      // What never returns is the last that there is.
      if (offset < body.size() && !call_frames_(function + offset))
        return Calls::unframed;
    }
    return any ? Calls::framed : Calls::none;
  }

  const Code &code_;
  const AllocatorFunctions &allocators_;
  const CallFrames &call_frames_;
  Disassembler &disassembler_;
  std::set<ContextType> untracked_;
};

} // namespace

AllocSites find_alloc_sites(const Code &code, const Allocators &allocators,
                            const CallFrames &call_frames)
{
  AllocSites none;
  auto disassembler = Disassembler::create(code.machine);
  if (code.machine != ElfFile::Machine::x86_64 || !disassembler) {
    none.unproven.push_back({"the allocators", "methods are decoded on x86-64 alone"});
    return none;
  }
  const auto found = find_allocator_functions(code, allocators);
  Finder finder(code, found, call_frames, **disassembler);
  for (const std::string &creator : found.incomplete)
    finder.out.unproven.push_back({creator, "its methods were not found"});
  for (const AllocatorFunction &function : found.functions) {
    const auto method = method_of(function.role);
    if (!method || only_complains(function))
      continue;
    finder.place(function, *method);
    finder.pass(function.name, function.address, true);
  }
  for (const char *name : kPassers)
    if (const auto address = allocators.function(name))
      finder.pass(name, *address, false);
  finder.join_neighbours();
  finder.forget_untracked();
  if (found.functions.empty())
    finder.out.unproven.push_back({"the allocators", "no such symbols"});
  return std::move(finder.out);
}

CallFrames call_frames_of(const ElfFile &elf)
{
  return [rules = elf.unwind_rules()](std::uint64_t address) {
    Dwarf_Frame *raw = nullptr;
    if (rules == nullptr || dwarf_cfi_addrframe(rules, address, &raw) != 0)
      return false;
    const std::unique_ptr<Dwarf_Frame, decltype(&std::free)> frame(raw, std::free);
    Dwarf_Op *ops = nullptr;
    std::size_t count = 0;
    // The frame begins 16 bytes above what rbp points to: the caller's rbp, the return address.
    constexpr unsigned kRbp = 6; // System V ABI, DWARF register numbers
    return dwarf_frame_cfa(frame.get(), &ops, &count) == 0 && count == 1 &&
           ((ops->atom == DW_OP_breg0 + kRbp && ops->number == 16) ||
            (ops->atom == DW_OP_bregx && ops->number == kRbp && ops->number2 == 16));
  };
}

pgmt_passer passer_record(const Passer &passer)
{
  return {.address = passer.address, .end = passer.end, .is_method = passer.is_method};
}

pgmt_method_site method_record(const MethodRole &role, std::uint64_t address, const Layout &layout)
{
  const auto place = [](const std::optional<unsigned> &reg) {
    return reg ? place_of_register(*reg) : static_cast<std::uint8_t>(PGMT_NOWHERE);
  };
  pgmt_method_site site{};
  site.address = address;
  site.method = static_cast<std::uint8_t>(role.method);
  site.context_in = place(role.context);
  site.chunk_in = place(role.chunk);
  site.size_in = place(role.size);
  site.framed = role.framed;
  switch (role.type) {
  case ContextType::alloc_set:
    site.allocator = PGMT_ALLOC_SET;
    site.context_tag = layout.tag.aset;
    site.chunk_header = static_cast<std::uint16_t>(layout.aset_chunk_header);
    site.block_header = static_cast<std::uint16_t>(layout.aset_block.size);
    site.owner_at = static_cast<std::uint16_t>(layout.aset_block.aset);
    site.end_at = static_cast<std::uint16_t>(layout.aset_block.endptr);
    break;
  case ContextType::generation:
    site.allocator = PGMT_GENERATION;
    site.context_tag = layout.tag.generation;
    site.chunk_header = static_cast<std::uint16_t>(layout.generation_chunk_header);
    site.block_header = static_cast<std::uint16_t>(layout.generation_block.size);
    site.owner_at = static_cast<std::uint16_t>(layout.generation_block.context);
    site.end_at = static_cast<std::uint16_t>(layout.generation_block.endptr);
    site.node_at = static_cast<std::uint16_t>(layout.generation_block.node);
    break;
  case ContextType::slab:
    site.allocator = PGMT_SLAB;
    site.context_tag = layout.tag.slab;
    site.chunk_header = static_cast<std::uint16_t>(layout.aset_chunk_header);
    site.block_header = static_cast<std::uint16_t>(layout.slab_block.size);
    site.owner_at = static_cast<std::uint16_t>(layout.slab_block.slab);
    site.node_at = static_cast<std::uint16_t>(layout.slab_block.node);
    site.chunk_size_at = static_cast<std::uint16_t>(layout.slab.chunk_size);
    break;
  case ContextType::bump:
    site.allocator = PGMT_BUMP;
    site.context_tag = layout.tag.bump;
    break;
  case ContextType::unknown: break;
  }
  return site;
}

} // namespace pgmemtrace
