// SPDX-License-Identifier: BSD-2-Clause
#include "attach/heap_functions.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "attach/instruction.h"
#include "attach/planner.h"
#include "util/foreign_memory.h"

namespace pgmemtrace {

namespace {

struct Known {
  const char *name;
  pgmt_heap_call call;
  unsigned arguments_read; // bit 0: first argument
};
// reallocarray, strdup, getline, operator new and others call these.
constexpr std::array kChunks{
    Known{"malloc", PGMT_HEAP_MALLOC, 0b1},
    Known{"calloc", PGMT_HEAP_CALLOC, 0b11},
    Known{"realloc", PGMT_HEAP_REALLOC, 0b11},
    Known{"aligned_alloc", PGMT_HEAP_ALIGNED_ALLOC, 0b11},
    Known{"memalign", PGMT_HEAP_ALIGNED_ALLOC, 0b11},
    Known{"posix_memalign", PGMT_HEAP_POSIX_MEMALIGN, 0b111},
    Known{"valloc", PGMT_HEAP_MALLOC, 0b1},
    Known{"pvalloc", PGMT_HEAP_MALLOC, 0b1},
    Known{"free", PGMT_HEAP_FREE, 0b1},
};
constexpr std::array kMappings{
    Known{"mmap", PGMT_HEAP_MMAP, 0b1110},   Known{"mmap64", PGMT_HEAP_MMAP, 0b1110},
    Known{"munmap", PGMT_HEAP_MUNMAP, 0b11}, Known{"mremap", PGMT_HEAP_MREMAP, 0b1111},
    Known{"brk", PGMT_HEAP_BRK, 0b1},        Known{"sbrk", PGMT_HEAP_BRK, 0b1},
};

constexpr std::size_t kLargestFunction = 1 << 14;
constexpr std::uint32_t kStackPointer = 1U << 4; // rsp among Instruction::registers_written

std::string file_name(const std::string &path)
{
  return path.substr(path.rfind('/') + 1); // npos + 1 is 0
}

// A return is probed through the address that the stack pointer still points at, or (AArch64) that
// the link register still holds.
bool return_address_is_in_place(ElfFile::Machine machine, std::span<const std::byte> code,
                                std::uint64_t address, std::uint32_t site)
{
  if (machine != ElfFile::Machine::x86_64)
    return site == 0;
  auto disassembler = Disassembler::create(machine);
  for (std::uint32_t at = 0; disassembler && at < site;) {
    const auto instruction = (*disassembler)->decode(code.subspan(at), address + at);
    if (!instruction || (instruction->registers_written & kStackPointer) != 0)
      return false;
    at += instruction->size;
  }
  return true;
}

std::optional<HeapFunction> place(const ElfFile &library, const Known &known)
{
  const auto symbol = library.function(known.name);
  if (!symbol)
    return std::nullopt;
  HeapFunction out{.call = known.call, .name = known.name};
  // glibc's symbols end where cold parts begin; a size may be missing.
  const auto bounds = library.bounds(symbol->address);
  const auto size = std::max(symbol->size, bounds ? bounds->size : 0);
  const auto code =
      library.bytes(symbol->address, std::clamp<std::size_t>(size, 1, kLargestFunction));
  auto placed = place_probe(library.machine(), code, symbol->address, known.arguments_read);
  if (!placed)
    return std::nullopt;
  if (out.returns() &&
      !return_address_is_in_place(library.machine(), code, symbol->address, placed->displacement)) {
    placed->displacement = 0;
    placed->emulated = false;
  }
  const auto offset = library.file_offset(symbol->address + placed->displacement);
  if (!offset)
    return std::nullopt;
  out.file_offset = *offset;
  out.emulated = placed->emulated;
  return out;
}

template <typename List>
std::vector<HeapFunction> all_of(const ElfFile &library, const List &functions)
{
  std::vector<HeapFunction> out;
  for (const auto &known : functions) {
    auto function = place(library, known);
    // Some are two names of one.
    if (function &&
        std::ranges::find(out, function->file_offset, &HeapFunction::file_offset) == out.end())
      out.push_back(std::move(*function));
  }
  return out;
}

struct Provider {
  Proc::Mapping mapping;
  std::uint64_t file_offset = 0; // of the function
};

// Whose function the executable's pointer leads to.
Result<Provider> provider_of(const char *function, pid_t pid, const ElfFile &elf,
                             std::uint64_t load_bias, const std::vector<Proc::Mapping> &mappings)
{
  const auto slot = elf.pointer_to(function);
  if (!slot)
    return Error{fmt::format("find {}: the executable takes it from no library", function), 0,
                 "a server that has its own cannot be recorded at level malloc"};
  const auto address = ForeignMemory(pid).read_value<std::uint64_t>(load_bias + *slot);
  if (!address)
    return Error{fmt::format("read process {}'s pointer to {}", pid, function), ESRCH, {}};
  const auto mapping = std::ranges::find_if(mappings, [&](const Proc::Mapping &one) {
    return one.executable && one.inode != 0 && *address >= one.start && *address < one.end;
  });
  if (mapping == mappings.end())
    return Error{
        fmt::format("find {}: process {} has no file where it should be", function, pid), 0, {}};
  return Provider{*mapping, *address - mapping->start + mapping->offset};
}

Result<HeapLibrary> library_of(pid_t pid, const Provider &provider, const char *function,
                               HeapFamily family, const Proc &proc)
{
  const auto &mapping = provider.mapping;
  const auto link =
      proc.path(pid, fmt::format("map_files/{:x}-{:x}", mapping.start, mapping.end)).string();
  auto file = open_link(link);
  if (!file)
    return Error{"open " + mapping.path + " by " + link, ESRCH, {}};
  const auto elf = ElfFile::open(file->path());
  if (!elf)
    return elf.error();
  const auto symbol = elf->function(function);
  if (!symbol || elf->file_offset(symbol->address) != provider.file_offset)
    return Error{
        fmt::format("{}: calls of {} lead to something else in it", mapping.path, function), 0, {}};
  auto functions = heap_functions_of(*elf, family);
  elf->drop_bytes();
  return HeapLibrary{mapping.path, std::move(*file), std::move(functions)};
}

} // namespace

std::vector<HeapFunction> heap_functions_of(const ElfFile &library, HeapFamily family)
{
  return family == HeapFamily::chunks ? all_of(library, kChunks) : all_of(library, kMappings);
}

Result<std::vector<HeapLibrary>> find_heap_functions(pid_t pid, const ElfFile &elf,
                                                     std::uint64_t load_bias, const Proc &proc)
{
  const auto mappings = proc.maps(pid);
  if (!mappings)
    return Error{fmt::format("read the mappings of process {}", pid), ESRCH, {}};
  std::vector<HeapLibrary> libraries;
  const std::pair<const char *, HeapFamily> families[] = {{"malloc", HeapFamily::chunks},
                                                          {"mmap", HeapFamily::mappings}};
  for (const auto &[function, family] : families) {
    const auto provider = provider_of(function, pid, elf, load_bias, *mappings);
    if (!provider)
      return provider.error();
    auto library = library_of(pid, *provider, function, family, proc);
    if (!library)
      return library.error();
    libraries.push_back(std::move(*library));
  }
  const auto has = [&](pgmt_heap_call call) {
    return std::ranges::find(libraries.front().functions, call, &HeapFunction::call) !=
           libraries.front().functions.end();
  };
  if (!has(PGMT_HEAP_MALLOC) || !has(PGMT_HEAP_FREE))
    return Error{fmt::format("{} ({}): its malloc and free cannot be probed",
                             file_name(libraries.front().path), libraries.front().path),
                 0,
                 {}};
  return libraries;
}

} // namespace pgmemtrace
