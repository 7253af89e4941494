// SPDX-License-Identifier: BSD-2-Clause
#include "attach/allocators.h"

#include <array>

#include <fmt/format.h>

namespace pgmemtrace {
namespace {

using Role = AllocatorFunction::Role;

struct Allocator {
  ContextType type;
  const char *name; // prefix of its functions
  const char *creator;
};
constexpr std::array<Allocator, 4> kAllocators{{
    {ContextType::alloc_set, "AllocSet", "AllocSetContextCreateInternal"},
    {ContextType::generation, "Generation", "GenerationContextCreate"},
    {ContextType::slab, "Slab", "SlabContextCreate"},
    {ContextType::bump, "Bump", "BumpContextCreate"},
}};

struct Method {
  Role role;
  const char *name;
};
// In the order of MemoryContextMethods (PostgreSQL nodes/memnodes.h, 13 to 18).
constexpr std::array<Method, 5> kMethods{{{Role::allocate, "Alloc"},
                                          {Role::release, "Free"},
                                          {Role::resize, "Realloc"},
                                          {Role::reset, "Reset"},
                                          {Role::destroy, "Delete"}}};

// The constant of a creator that is a table of functions: five pointers into executable memory.
std::optional<std::array<std::uint64_t, kMethods.size()>>
methods_at(const Code &code, const Allocators &allocators, std::uint64_t table)
{
  std::array<std::uint64_t, kMethods.size()> methods{};
  for (std::size_t i = 0; i < methods.size(); i++) {
    const auto pointer = allocators.pointer(table + i * sizeof(std::uint64_t));
    if (!pointer || code.bytes(*pointer).empty() || !begins_function(code, *pointer))
      return std::nullopt;
    methods[i] = *pointer;
  }
  return methods;
}

std::vector<AllocatorFunction> static_methods(const Code &code, const Allocators &allocators,
                                              const Allocator &allocator, std::uint64_t creator)
{
  const auto followed = find_heap_calls(code, creator);
  if (!followed)
    return {};
  for (const std::uint64_t address : followed->named)
    if (const auto methods = methods_at(code, allocators, address)) {
      std::vector<AllocatorFunction> functions;
      for (std::size_t i = 0; i < kMethods.size(); i++)
        functions.push_back({kMethods[i].role, allocator.type,
                             fmt::format("{}{}", allocator.name, kMethods[i].name), (*methods)[i]});
      return functions;
    }
  return {};
}

std::vector<AllocatorFunction> exported_methods(const Allocators &allocators,
                                                const Allocator &allocator)
{
  std::vector<AllocatorFunction> functions;
  for (const Method &method : kMethods) {
    const std::string name = fmt::format("{}{}", allocator.name, method.name);
    if (const auto address = allocators.function(name))
      functions.push_back({method.role, allocator.type, name, *address});
  }
  return functions;
}

} // namespace

AllocatorFunctions find_allocator_functions(const Code &code, const Allocators &allocators)
{
  AllocatorFunctions found{.exported = allocators.function("AllocSetAlloc").has_value()};
  for (const Allocator &allocator : kAllocators) {
    const auto creator = allocators.function(allocator.creator);
    if (!creator)
      continue; // this major has no such allocator
    const auto methods = found.exported ? exported_methods(allocators, allocator)
                                        : static_methods(code, allocators, allocator, *creator);
    if (methods.size() != kMethods.size())
      found.incomplete.emplace_back(allocator.creator);
    found.functions.insert(found.functions.end(), methods.begin(), methods.end());
    found.functions.push_back({Role::create, allocator.type, allocator.creator, *creator});
  }
  return found;
}

Code code_of(const ElfFile &elf)
{
  constexpr std::size_t kMost = 1 << 20; // more than any function
  const auto segments = elf.executable_segments();
  return {.machine = elf.machine(),
          .bytes = [&elf, segments](std::uint64_t address) -> std::span<const std::byte> {
            for (const auto &segment : segments)
              if (address >= segment.address && address - segment.address < segment.bytes.size())
                return elf.bytes(address, kMost);
            return {};
          },
          .imported = [&elf](std::uint64_t pointer) { return std::string(elf.linked_at(pointer)); },
          .bounds = [&elf](std::uint64_t address) { return elf.bounds(address); },
          .exported = [&elf](std::uint64_t address) { return elf.exports_function_at(address); }};
}

Allocators allocators_of(const ElfFile &elf)
{
  return {.function = [&elf](const std::string &name) -> std::optional<std::uint64_t> {
            const auto symbol = elf.function(name);
            if (!symbol || !elf.exports(name))
              return std::nullopt;
            return symbol->address;
          },
          .pointer = [&elf](std::uint64_t address) { return elf.pointer_at(address); }};
}

} // namespace pgmemtrace
