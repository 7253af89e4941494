// SPDX-License-Identifier: BSD-2-Clause
// planner.cpp - the targets, the choice of a site, the count of callers.
#include "attach/planner.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>

#include "attach/instruction.h"

namespace pgmemtrace {
namespace {

struct Target {
  pgmt_probe probe;
  const char *name;
  Level level;
  const char *function;    // one that every build really calls (facts/pg_internals.md, section 4)
  unsigned arguments_read; // bit 0: first argument
};
constexpr std::array<Target, PGMT_PROBES> kTargets{{
    {PGMT_PROBE_SAMPLE, "sample", Level::statement, nullptr, 0}, // no place in the code
    {PGMT_PROBE_START, "start", Level::statement, "standard_ExecutorStart", 0b01}, // queryDesc
    {PGMT_PROBE_END, "end", Level::statement, "standard_ExecutorEnd", 0b01},       // queryDesc
    {PGMT_PROBE_UTILITY, "utility", Level::statement, "standard_ProcessUtility",
     0b11}, // pstmt, queryString
    {PGMT_PROBE_SETTLE, "settle", Level::request, "ReadyForQuery", 0},
    {PGMT_PROBE_XACT, "xact", Level::request, "AtEOXact_Snapshot", 0b01}, // isCommit
    {PGMT_PROBE_EXIT, "exit", Level::request, "proc_exit", 0b01},         // code
    {PGMT_PROBE_DSM, "dsm", Level::request, "dsm_impl_op", 0b111}, // op, handle, request_size
    {PGMT_PROBE_BLOCK, "block", Level::block, nullptr, 0},         // calls: add_block_sites()
    {PGMT_PROBE_ALLOC, "alloc", Level::alloc, nullptr, 0}, // static functions: add_alloc_sites()
}};

// Larger than any function of PostgreSQL; a hostile file may claim anything.
constexpr std::size_t kMaxFunctionBytes = 1 << 20;

const Target *target_of(pgmt_probe probe)
{
  for (const Target &target : kTargets)
    if (target.probe == probe)
      return &target;
  return nullptr;
}

// Does any direct branch of the function lead behind its entry, up to `site`?
bool leads_back(Disassembler &disassembler, std::span<const std::byte> function,
                std::uint64_t entry, std::uint64_t site)
{
  std::size_t offset = 0;
  while (offset < function.size()) {
    auto instruction = disassembler.decode(function.subspan(offset), entry + offset);
    if (!instruction) {
      offset += disassembler.alignment();
      continue;
    }
    if (instruction->target && *instruction->target > entry && *instruction->target <= site)
      return true;
    offset += instruction->size;
  }
  return false;
}

// Which registers hold each argument, followed from the entry.
class Arguments {
public:
  Arguments(ElfFile::Machine machine, Reading reading)
      : follows_copies_(machine == ElfFile::Machine::aarch64 || reading == Reading::caller_too),
        keeps_stack_(reading == Reading::caller_too)
  {
    const auto registers = argument_registers(machine);
    for (std::size_t i = 0; i < holders_.size(); i++)
      own_[i] = 1U << registers[i];
    holders_ = own_;
  }

  void follow(const Instruction &instruction)
  {
    for (std::uint32_t &holders : holders_) {
      const bool moved =
          follows_copies_ && instruction.move && (holders >> instruction.move->from & 1U) != 0;
      holders &= ~instruction.registers_written;
      if (moved)
        holders |= 1U << instruction.move->to;
    }
    follow_frame(instruction);
  }

  bool framed() const { return frame_ == Frame::own; }
  bool caller_known() const { return !keeps_stack_ || frame_ != Frame::pushed; }

  bool all_of(unsigned wanted) const
  {
    if (keeps_stack_ && frame_ == Frame::lost)
      return false;
    for (std::size_t i = 0; i < holders_.size(); i++)
      if ((wanted >> i & 1U) != 0 && holders_[i] == 0)
        return false;
    return true;
  }

  // Is each still in its own register?
  bool unmoved(unsigned wanted) const
  {
    for (std::size_t i = 0; i < holders_.size(); i++)
      if ((wanted >> i & 1U) != 0 && in_its_own(i) == 0)
        return false;
    return true;
  }

  // Its own register, where that still holds it.
  ArgumentRegisters registers() const
  {
    ArgumentRegisters out{};
    for (std::size_t i = 0; i < out.size(); i++) {
      const std::uint32_t holders = in_its_own(i) != 0 ? in_its_own(i) : holders_[i];
      out[i] = holders == 0 ? kNoRegister : static_cast<std::uint8_t>(std::countr_zero(holders));
    }
    return out;
  }

private:
  std::uint32_t in_its_own(std::size_t i) const { return holders_[i] & own_[i]; }

  // Where the return address is: on top of the stack; behind the caller's frame pointer there;
  // behind what the frame pointer points to; nowhere that we know.
  enum class Frame : std::uint8_t { callers, pushed, own, lost };

  void follow_frame(const Instruction &instruction)
  {
    constexpr std::uint32_t kStack = 1U << kStackPointer, kFrame = 1U << kFramePointer;
    const auto &move = instruction.move;
    const bool stack_moves = (instruction.registers_written & kStack) != 0;
    const bool frame_moves = (instruction.registers_written & kFrame) != 0;
    if (frame_ == Frame::callers && instruction.pushes == kFramePointer)
      frame_ = Frame::pushed;
    else if (frame_ == Frame::pushed && move && move->from == kStackPointer &&
             move->to == kFramePointer)
      frame_ = Frame::own;
    else if (frame_moves || (stack_moves && frame_ != Frame::own))
      frame_ = Frame::lost;
  }

  bool follows_copies_; // else the x86-64 program reads an argument from its own register only
  bool keeps_stack_;
  Frame frame_ = Frame::callers;
  std::array<std::uint32_t, std::tuple_size_v<ArgumentRegisters>> own_{}, holders_{};
};

struct Choice {
  Instruction instruction;
  ArgumentRegisters arguments;
  bool framed;
};

// The first instruction that every call reaches with its arguments in registers and that
// `fits`.  `cheap`: with each in its own register, which is read fastest, and none behind an
// instruction that stores to memory.
template <typename F>
std::optional<Choice> first_that(Disassembler &disassembler, Arguments arguments,
                                 std::span<const std::byte> function, std::uint64_t entry,
                                 unsigned arguments_read, F fits, bool cheap = false)
{
  std::size_t offset = 0;
  while (offset < function.size()) {
    auto instruction = disassembler.decode(function.subspan(offset), entry + offset);
    if (!instruction)
      return std::nullopt;
    if (arguments.caller_known() && (!cheap || arguments.unmoved(arguments_read)) &&
        fits(*instruction)) {
      if (leads_back(disassembler, function, entry, instruction->address))
        return std::nullopt; // and so it does to all behind it
      return Choice{*std::move(instruction), arguments.registers(), arguments.framed()};
    }
    arguments.follow(*instruction);
    if (instruction->ends_path || !arguments.all_of(arguments_read) ||
        (cheap && instruction->stores))
      return std::nullopt;
    offset += instruction->size;
  }
  return std::nullopt;
}

// .eh_frame knows where a function's hot part ends, the symbol may know no size.
ElfFile::Symbol with_size(const ElfFile &elf, ElfFile::Symbol symbol)
{
  if (auto bounds = elf.bounds(symbol.address); bounds && bounds->address == symbol.address)
    symbol.size = std::max(symbol.size, bounds->size);
  return symbol;
}

struct Candidate {
  const Target *target;
  ElfFile::Symbol symbol;
};

std::optional<std::string> add_site(const ElfFile &elf, const Candidate &candidate,
                                    unsigned callers, Plan &plan)
{
  const auto &[target, symbol] = candidate;
  if (callers == 0)
    return "nothing in the binary calls it";
  const auto code =
      elf.bytes(symbol.address, std::min<std::size_t>(symbol.size, kMaxFunctionBytes));
  auto placement = place_probe(elf.machine(), code, symbol.address, target->arguments_read);
  if (!placement)
    return to_string(placement.error());
  const std::uint64_t address = symbol.address + placement->displacement;
  const auto file_offset = elf.file_offset(address);
  if (!file_offset)
    return "not in the file";
  plan.sites.push_back({.probe = target->probe,
                        .function = target->function,
                        .address = address,
                        .file_offset = *file_offset,
                        .displacement = placement->displacement,
                        .instruction = placement->instruction,
                        .emulated = placement->emulated,
                        .arguments = placement->arguments,
                        .callers = callers,
                        .block = std::nullopt,
                        .method = std::nullopt});
  return std::nullopt;
}

void add_block_sites(const ElfFile &elf, Plan &plan)
{
  const auto refuse = [&](std::string function, std::string reason) {
    plan.unplaced.push_back({PGMT_PROBE_BLOCK, std::move(function), std::move(reason)});
  };
  auto found = find_block_sites(code_of(elf), allocators_of(elf));
  std::size_t placed = 0;
  for (auto &site : found.sites) {
    const auto file_offset = elf.file_offset(site.address);
    if (!file_offset || placed == PGMT_SITES) {
      refuse(site.function,
             file_offset ? "more sites than the kernel half takes" : "not in the file");
      continue;
    }
    ++placed;
    plan.sites.push_back({.probe = PGMT_PROBE_BLOCK,
                          .function = std::move(site.function),
                          .address = site.address,
                          .file_offset = *file_offset,
                          .displacement = site.displacement,
                          .instruction = std::move(site.instruction),
                          .emulated = true,
                          .callers = 0,
                          .block = site.role,
                          .method = std::nullopt});
  }
  for (auto &unproven : found.unproven)
    refuse(std::move(unproven.function), std::move(unproven.reason));
  if (found.sites.empty() && found.unproven.empty())
    refuse("the allocators", "no such symbols");
}

void add_alloc_sites(const ElfFile &elf, Plan &plan)
{
  auto found = find_alloc_sites(code_of(elf), allocators_of(elf), call_frames_of(elf));
  for (auto &site : found.sites)
    if (const auto file_offset = elf.file_offset(site.address))
      plan.sites.push_back({.probe = PGMT_PROBE_ALLOC,
                            .function = std::move(site.function),
                            .address = site.address,
                            .file_offset = *file_offset,
                            .displacement = site.displacement,
                            .instruction = std::move(site.instruction),
                            .emulated = true,
                            .callers = 0,
                            .block = std::nullopt,
                            .method = site.role});
    else {
      found.unproven.push_back({site.function, "not in the file"});
      found.tracked.erase(site.role.type);
    }
  for (auto &unproven : found.unproven)
    plan.unplaced.push_back(
        {PGMT_PROBE_ALLOC, std::move(unproven.function), std::move(unproven.reason)});
  plan.passers = std::move(found.passers);
  plan.tracked = std::move(found.tracked);
}

// Tells a direct call or jump by its bytes alone.  Every offset is tried on x86-64: decoding
// a whole server takes seconds, and data that looks like a call to just one of our few
// functions is too rare to matter (four bytes would have to agree; for a short jump, which
// assemblers use between neighbours, two within 128 bytes of the function).
std::optional<std::uint64_t> x86_64_branch(std::span<const std::byte> code, std::size_t i,
                                           std::uint64_t address)
{
  const auto at = [&](std::size_t k) { return std::to_integer<unsigned>(code[k]); };
  const std::size_t left = code.size() - i;
  if (at(i) == 0xeb && left >= 2)
    return address + i + 2 + static_cast<std::uint64_t>(static_cast<std::int8_t>(at(i + 1)));
  const bool near_jcc = at(i) == 0x0f && left >= 2 && (at(i + 1) & 0xf0U) == 0x80;
  if (!near_jcc && at(i) != 0xe8 && at(i) != 0xe9)
    return std::nullopt;
  const std::size_t operand = near_jcc ? 2 : 1;
  std::int32_t relative = 0;
  if (left < operand + sizeof(relative))
    return std::nullopt;
  std::memcpy(&relative, code.data() + i + operand, sizeof(relative));
  return address + i + operand + sizeof(relative) +
         static_cast<std::uint64_t>(std::int64_t{relative});
}

std::optional<std::uint64_t> aarch64_branch(std::span<const std::byte> code, std::size_t i,
                                            std::uint64_t address)
{
  std::uint32_t word = 0;
  if (code.size() - i < sizeof(word))
    return std::nullopt;
  std::memcpy(&word, code.data() + i, sizeof(word));
  if ((word & 0x7c000000U) != 0x14000000U) // b, bl
    return std::nullopt;
  const auto offset = static_cast<std::int32_t>(word << 6) >> 4; // imm26 * 4, sign kept
  return address + i + static_cast<std::uint64_t>(std::int64_t{offset});
}

} // namespace

Level level_of(pgmt_probe probe)
{
  const Target *target = target_of(probe);
  return target ? target->level : Level::statement;
}

std::string_view name_of(pgmt_probe probe)
{
  const Target *target = target_of(probe);
  return target ? target->name : "unknown";
}

Result<Placement> place_probe(ElfFile::Machine machine, std::span<const std::byte> function,
                              std::uint64_t address, unsigned arguments_read, Reading reading)
{
  auto disassembler = Disassembler::create(machine);
  if (!disassembler)
    return disassembler.error();
  if (!(*disassembler)->decode(function, address))
    return Error{"the function's first instruction cannot be decoded", 0, {}};

  const auto first = [&](auto fits, bool cheap = false) {
    return first_that(**disassembler, Arguments(machine, reading), function, address,
                      arguments_read, fits, cheap);
  };
  std::optional<Choice> choice;
  if (reading == Reading::caller_too)
    choice = first(
        [](const Instruction &instruction) {
          return instruction.emulated && !instruction.pushes &&
                 instruction.flow != Instruction::Flow::call;
        },
        true);
  if (!choice)
    choice = first([](const Instruction &instruction) { return instruction.emulated; });
  if (!choice)
    choice = first([](const Instruction &instruction) { return !instruction.refused; });
  if (!choice)
    return Error{"the kernel refuses a probe on its first instruction", 0, {}};
  const Instruction &site = choice->instruction;
  return Placement{static_cast<std::uint32_t>(site.address - address), site.text, site.emulated,
                   choice->arguments, choice->framed};
}

std::vector<unsigned> count_callers(ElfFile::Machine machine, std::span<const std::byte> code,
                                    std::uint64_t address,
                                    std::span<const ElfFile::Symbol> functions)
{
  std::vector<unsigned> callers(functions.size());
  const auto branch = machine == ElfFile::Machine::aarch64 ? aarch64_branch : x86_64_branch;
  const std::size_t step = machine == ElfFile::Machine::aarch64 ? 4 : 1;
  for (std::size_t i = 0; i < code.size(); i += step) {
    const auto target = branch(code, i, address);
    if (!target)
      continue;
    for (std::size_t f = 0; f < functions.size(); f++) {
      const auto &function = functions[f];
      const bool inside = address + i - function.address < function.size;
      if (*target == function.address && !inside)
        callers[f]++;
    }
  }
  return callers;
}

Plan plan_probes(const ElfFile &elf)
{
  Plan plan;
  std::vector<Candidate> candidates;
  for (const Target &target : kTargets) {
    if (target.function == nullptr)
      continue;
    if (auto symbol = elf.function(target.function))
      candidates.push_back({&target, with_size(elf, *symbol)});
    else
      plan.unplaced.push_back({target.probe, target.function, "no such symbol"});
  }

  std::vector<ElfFile::Symbol> functions;
  functions.reserve(candidates.size());
  for (const Candidate &candidate : candidates)
    functions.push_back(candidate.symbol);
  std::vector<unsigned> callers(functions.size());
  for (const auto &segment : elf.executable_segments()) {
    const auto found = count_callers(elf.machine(), segment.bytes, segment.address, functions);
    std::transform(found.begin(), found.end(), callers.begin(), callers.begin(), std::plus<>());
  }

  for (std::size_t i = 0; i < candidates.size(); i++)
    if (auto reason = add_site(elf, candidates[i], callers[i], plan))
      plan.unplaced.push_back(
          {candidates[i].target->probe, candidates[i].target->function, *reason});
  add_block_sites(elf, plan);
  add_alloc_sites(elf, plan);
  return plan;
}

} // namespace pgmemtrace
