// SPDX-License-Identifier: BSD-2-Clause
// symbolizer.cpp - whose mappings an address is looked up in, and when they are read.
#include "symbols/symbolizer.h"

#include <algorithm>
#include <iterator>

#include "util/foreign_memory.h"

namespace pgmemtrace {

namespace {

unsigned bytes_back(Symbolizer::Kind kind)
{
  return kind == Symbolizer::Kind::return_address ? 1 : 0;
}

} // namespace

std::vector<std::uint64_t> addresses_of(const pgmt_stack &stack)
{
  return {std::begin(stack.ip), std::ranges::find(stack.ip, 0U)};
}

Symbolizer::Symbolizer(Options options)
    : options_(std::move(options)), modules_(options_.proc, options_.modules, options_.debug_files)
{
}

// Null if the process is gone, or its pid is another's by now.
std::shared_ptr<Symbolizer::Layout> Symbolizer::read(ProcessId process,
                                                     const std::shared_ptr<Layout> &relative) const
{
  const auto mappings = options_.proc.maps(process.pid);
  if (!mappings || mappings->empty()) // a zombie has none
    return nullptr;
  ForeignMemory memory(process.pid);
  auto maps = read_process_maps(*mappings, memory, relative ? &relative->maps : nullptr);
  const auto stat = options_.proc.stat(process.pid);
  if (!stat || stat->start != process.start)
    return nullptr;
  if (relative && relative->maps == maps)
    return relative;
  auto layout = std::make_shared<Layout>();
  layout->files.resize(maps.modules.size());
  layout->maps = std::move(maps);
  return layout;
}

Symbolizer::Known &Symbolizer::known(ProcessId process, const std::shared_ptr<Layout> &relative)
{
  auto found = processes_.find(process);
  if (found == processes_.end()) {
    if (processes_.size() >= std::max<std::size_t>(options_.processes, 1))
      processes_.erase(std::ranges::min_element(
          processes_, {}, [](const auto &entry) { return entry.second.used; }));
    auto layout = read(process, relative);
    found = processes_.emplace(process, Known{std::move(layout), options_.clock(), 0}).first;
  }
  found->second.used = ++uses_;
  return found->second;
}

std::shared_ptr<Symbolizer::Layout> Symbolizer::layout_of_postmaster(const Target &target)
{
  return target.postmaster.pid == 0 ? nullptr : known(target.postmaster, nullptr).layout;
}

void Symbolizer::remember(const Target &target)
{
  known(target.process, layout_of_postmaster(target));
}

void Symbolizer::reread(const Target &target)
{
  Known &entry = known(target.process, layout_of_postmaster(target));
  refresh(target.process, entry, entry.layout);
}

void Symbolizer::forget(ProcessId process) { processes_.erase(process); }

// What was known of a process that is gone stays.
void Symbolizer::refresh(ProcessId process, Known &entry, const std::shared_ptr<Layout> &relative)
{
  entry.read_at = options_.clock();
  if (auto layout = read(process, relative))
    entry.layout = std::move(layout);
}

Symbolizer::Place Symbolizer::place_in(ProcessId process, const std::shared_ptr<Layout> &relative,
                                       std::uint64_t address)
{
  Known &entry = known(process, relative);
  const auto region_of = [&] {
    return entry.layout ? entry.layout->maps.region(address) : nullptr;
  };
  const auto *region = region_of();
  if (region == nullptr && options_.clock() - entry.read_at >= options_.reread_after_ns) {
    refresh(process, entry, entry.layout ? entry.layout : relative);
    region = region_of();
  }
  return {entry.layout, region};
}

Symbolizer::Place Symbolizer::place(const Target &target, std::uint64_t address)
{
  const auto relative = layout_of_postmaster(target);
  auto found = place_in(target.process, relative, address);
  // A process that was never seen alive had at least what its postmaster has.
  if (found.layout == nullptr && target.postmaster.pid != 0)
    found = place_in(target.postmaster, nullptr, address);
  return found;
}

// The byte that is looked up decides where: a call may be the last of its mapping, too.
CodeAddress Symbolizer::locate(const Place &place, std::uint64_t address, Kind kind)
{
  const auto back = bytes_back(kind);
  if (place.region == nullptr)
    return {kUnmapped, {}, address};
  CodeAddress code = place.layout->maps.locate(address - back);
  code.offset += back;
  return code;
}

CodeAddress Symbolizer::locate(const Target &target, std::uint64_t address, Kind kind)
{
  return locate(place(target, address - bytes_back(kind)), address, kind);
}

std::shared_ptr<Module> Symbolizer::module_at(const Target &target, const Place &place)
{
  if (place.region == nullptr)
    return nullptr;
  const ProcessMaps &maps = place.layout->maps;
  auto &file = place.layout->files[place.region->module];
  if (file)
    if (auto module = modules_.again(*file))
      return module;
  auto opened = modules_.of_process(target.process.pid, maps, *place.region);
  if (!opened && target.postmaster.pid != 0)
    opened = modules_.of_process(target.postmaster.pid, maps, *place.region);
  if (!opened)
    opened = modules_.of_recording(maps.locate(place.region->start));
  if (!opened)
    return nullptr;
  file = opened->file;
  return opened->module;
}

std::vector<Frame> Symbolizer::frames(const Target &target, std::uint64_t address, Kind kind)
{
  const auto found = place(target, address - bytes_back(kind));
  const auto code = locate(found, address, kind);
  if (const auto module = module_at(target, found))
    return module->frames(code, bytes_back(kind));
  return {{.code = code, .offset = code.offset}};
}

std::vector<Frame> Symbolizer::frames(const CodeAddress &code, Kind kind)
{
  if (const auto opened = modules_.of_recording(code))
    return opened->module->frames(code, bytes_back(kind));
  return {{.code = code, .offset = code.offset}};
}

std::vector<Frame> Symbolizer::frames(const Target &target,
                                      std::span<const std::uint64_t> addresses)
{
  std::vector<Frame> all;
  auto kind = Kind::instruction; // the call that was probed
  for (const auto address : addresses) {
    std::ranges::move(frames(target, address, kind), std::back_inserter(all));
    kind = Kind::return_address;
  }
  return all;
}

// What frame pointers led to counts as far as it is proven.
std::vector<Frame> Symbolizer::frames(const Target &target, const pgmt_stack &stack)
{
  const auto taken = addresses_of(stack);
  std::span addresses(taken);
  bool whole = stack.state == PGMT_STACK_UNWOUND;
  if (stack.state < PGMT_STACK_UNWOUND) {
    const auto proven = prove(target, stack);
    addresses = addresses.first(proven.addresses);
    whole = proven.whole;
  }
  auto all = frames(target, addresses);
  if (!whole && !all.empty())
    all.push_back({.code = {kTruncated, {}, 0}});
  return all;
}

// Where the code at an address was linked to run.  nullopt: there is no code.
std::optional<Symbolizer::Linked> Symbolizer::linked(const Target &target, std::uint64_t address)
{
  const auto found = place(target, address);
  if (found.region == nullptr)
    return std::nullopt;
  const auto module = module_at(target, found);
  const auto at =
      module ? module->link_address(found.layout->maps.locate(address).offset) : std::nullopt;
  return at ? Linked{module, *at} : Linked{};
}

UnwoundStack Symbolizer::unwind(const Target &target, const StackRegisters &registers,
                                std::span<const std::byte> stack)
{
  const auto find_rules = [&](std::uint64_t address) -> std::optional<UnwindRules> {
    const auto found = linked(target, address);
    if (!found)
      return std::nullopt;
    if (!found->module)
      return UnwindRules{};
    return UnwindRules{found->module->unwind_rules(), address - found->address};
  };
  return pgmemtrace::unwind(registers, stack, find_rules);
}

// nullopt: there is no code.
std::optional<Module::Link>
Symbolizer::link(const Target &target, std::span<const std::uint64_t> addresses, std::size_t i)
{
  const auto code = linked(target, addresses[i] - (i == 0 ? 0 : 1));
  if (!code)
    return std::nullopt;
  return code->module ? code->module->frame_pointer(code->address) : Module::Link::unknown;
}

Symbolizer::Proven Symbolizer::prove(const Target &target, const pgmt_stack &stack)
{
  return prove(target, addresses_of(stack), stack.at_entry != 0);
}

// Each frame vouches for the address behind it; at a function's entry there is none yet.
Symbolizer::Proven Symbolizer::prove(const Target &target, std::span<const std::uint64_t> addresses,
                                     bool at_entry)
{
  for (std::size_t i = at_entry ? 1 : 0; i < addresses.size(); ++i) {
    const auto found = link(target, addresses, i);
    if (found != Module::Link::caller)
      return {i + 1, found == Module::Link::bottom, found.has_value()};
  }
  return {addresses.size(), false};
}

std::optional<std::size_t> Symbolizer::depth_of_main(const Target &target,
                                                     std::span<const std::uint64_t> addresses)
{
  for (std::size_t i = 0; i < addresses.size(); ++i)
    if (link(target, addresses, i) == Module::Link::bottom)
      return i;
  return std::nullopt;
}

} // namespace pgmemtrace
