// SPDX-License-Identifier: BSD-2-Clause
// heap_calls.cpp - a small abstract interpreter: which argument each place holds.
#include "attach/heap_calls.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>

#include <fmt/format.h>

#include "attach/instruction.h"

namespace pgmemtrace {
namespace {

constexpr std::size_t kMaxInstructions = 8192; // distinct ones; allocators have some 300
constexpr std::size_t kLongestInstruction = 15;

constexpr std::int8_t kUnknown = -1;
constexpr unsigned kRdi = 7;
constexpr unsigned kRsi = 6;
// System V: rax, rcx, rdx, rsi, rdi, r8 to r11 are the callee's to overwrite.
constexpr unsigned kCallerSaved = 0b0000'1111'1100'0111;

// What is known before an instruction: which argument of the function each place holds.
struct State {
  std::array<std::int8_t, kRegisters> registers;
  std::map<std::int64_t, std::int8_t> frame; // 8 bytes each, by their distance from rbp
};

State at_entry()
{
  State state;
  state.registers.fill(kUnknown);
  state.registers[kRdi] = 0;
  state.registers[kRsi] = 1;
  return state;
}

void forget(State &state, unsigned mask)
{
  for (unsigned i = 0; i < kRegisters; i++)
    if ((mask >> i & 1U) != 0)
      state.registers[i] = kUnknown;
  if ((mask >> kFramePointer & 1U) != 0)
    state.frame.clear();
}

void overwrite(State &state, const FrameAccess &access)
{
  constexpr std::int64_t kWord = 8;
  std::erase_if(state.frame, [&](const auto &word) {
    return word.first + kWord > access.offset && word.first < access.offset + access.size;
  });
}

void execute(State &state, const Instruction &instruction)
{
  const auto value_of = [&](unsigned reg) { return state.registers[reg]; };
  const auto &frame = instruction.frame;
  if (instruction.move) {
    const auto value = value_of(instruction.move->from);
    forget(state, 1U << instruction.move->to);
    state.registers[instruction.move->to] = value;
  } else if (frame && frame->reg && !frame->writes) {
    const auto word = state.frame.find(frame->offset);
    const auto value = word == state.frame.end() ? kUnknown : word->second;
    forget(state, 1U << *frame->reg);
    state.registers[*frame->reg] = value;
  } else {
    if (frame && frame->writes) {
      overwrite(state, *frame);
      if (frame->reg && value_of(*frame->reg) != kUnknown)
        state.frame[frame->offset] = value_of(*frame->reg);
    }
    forget(state, instruction.registers_written);
  }
}

// What holds on both paths; true if `into` knows less than before.
bool merge(State &into, const State &other)
{
  bool changed = false;
  for (unsigned i = 0; i < kRegisters; i++)
    if (into.registers[i] != other.registers[i] && into.registers[i] != kUnknown) {
      into.registers[i] = kUnknown;
      changed = true;
    }
  return std::erase_if(into.frame,
                       [&](const auto &word) {
                         const auto same = other.frame.find(word.first);
                         return same == other.frame.end() || same->second != word.second;
                       }) > 0 ||
         changed;
}

std::optional<Holder> holder_of(const State &state, std::int8_t argument)
{
  // From the back: rbx and r12 to r15 are those that compilers keep values in.
  for (unsigned i = kRegisters; i-- > 0;)
    if (state.registers[i] == argument)
      return Holder{.reg = i, .frame_offset = 0};
  for (const auto &[offset, value] : state.frame)
    if (value == argument && offset >= INT16_MIN && offset <= INT16_MAX)
      return Holder{.reg = std::nullopt, .frame_offset = static_cast<std::int32_t>(offset)};
  return std::nullopt;
}

class Walk {
public:
  Walk(const Code &code, Disassembler &disassembler, std::uint64_t function)
      : code_(code), disassembler_(disassembler), function_(function)
  {
    reach(function, at_entry());
  }

  HeapCalls run()
  {
    while (!pending_.empty()) {
      const std::uint64_t address = *pending_.begin();
      pending_.erase(pending_.begin());
      step(address);
    }
    found_.named.assign(named_.begin(), named_.end());
    return std::move(found_);
  }

private:
  std::optional<Instruction> decode(std::uint64_t address)
  {
    const auto bytes = code_.bytes(address);
    return disassembler_.decode(bytes.first(std::min(bytes.size(), kLongestInstruction)), address);
  }

  void reach(std::uint64_t address, const State &state)
  {
    if (const auto known = states_.find(address); known != states_.end()) {
      if (merge(known->second, state))
        pending_.insert(address);
      return;
    }
    if (states_.size() >= kMaxInstructions) {
      found_.hidden_paths = true;
      return;
    }
    states_.emplace(address, state);
    pending_.insert(address);
  }

  // Others reach it too, with arguments that we do not know.
  bool foreign(std::uint64_t address) const
  {
    return address != function_ && code_.exported(address);
  }

  void step(std::uint64_t address)
  {
    const auto instruction = decode(address);
    if (!instruction) {
      found_.hidden_paths = true;
      return;
    }
    if (instruction->names)
      named_.insert(*instruction->names);
    State state = states_.at(address);
    const std::uint64_t next = address + instruction->size;
    const auto flow = instruction->flow;
    const bool branches = flow == Instruction::Flow::call || flow == Instruction::Flow::jump ||
                          flow == Instruction::Flow::conditional;
    const auto import = branches ? imported(*instruction) : std::string();
    note(*instruction, import, state);
    switch (flow) {
    case Instruction::Flow::end: return;
    case Instruction::Flow::next: execute(state, *instruction); break;
    case Instruction::Flow::call:
      if (import.empty() && instruction->target && !foreign(*instruction->target))
        reach(*instruction->target, state);
      forget(state, kCallerSaved);
      break;
    case Instruction::Flow::jump:
    case Instruction::Flow::conditional:
      if (!instruction->target && import.empty())
        found_.hidden_paths = true;
      if (instruction->target && import.empty() && !foreign(*instruction->target))
        reach(*instruction->target, state);
      if (flow == Instruction::Flow::jump)
        return;
      break;
    }
    if (!begins_function(code_, next))
      reach(next, state);
  }

  // What a call or jump leads to in another file: by its own operand, or through a stub of the
  // procedure linkage table, which is one indirect jump behind an optional endbr64.
  std::string imported(const Instruction &branch)
  {
    if (branch.names)
      return code_.imported(*branch.names);
    if (!branch.target)
      return {};
    std::uint64_t at = *branch.target;
    for (int i = 0; i < 2; i++) {
      const auto stub = decode(at);
      if (!stub)
        return {};
      if (stub->flow == Instruction::Flow::jump)
        return stub->names ? code_.imported(*stub->names) : std::string();
      if (stub->text != "endbr64")
        return {};
      at += stub->size;
    }
    return {};
  }

  void note(const Instruction &instruction, const std::string &import, const State &state)
  {
    HeapCall::Callee callee{};
    if (import == "malloc")
      callee = HeapCall::Callee::malloc;
    else if (import == "realloc")
      callee = HeapCall::Callee::realloc;
    else if (import == "free")
      callee = HeapCall::Callee::free;
    else
      return;
    auto &calls = found_.calls;
    auto at = std::ranges::lower_bound(calls, instruction.address, {}, &HeapCall::address);
    if (at == calls.end() || at->address != instruction.address)
      at = calls.insert(at, HeapCall{});
    *at = {.callee = callee,
           .address = instruction.address,
           .instruction = instruction.text.substr(0, instruction.text.find(' ')) + " " + import,
           .emulated = instruction.emulated,
           .first = holder_of(state, 0),
           .second = holder_of(state, 1)};
  }

  const Code &code_;
  Disassembler &disassembler_;
  std::uint64_t function_;
  HeapCalls found_;
  std::set<std::uint64_t> named_;
  std::map<std::uint64_t, State> states_; // before each instruction
  std::set<std::uint64_t> pending_;
};

} // namespace

bool begins_function(const Code &code, std::uint64_t address)
{
  const auto bounds = code.bounds(address);
  return bounds && bounds->address == address;
}

std::string to_string(const Holder &holder)
{
  if (holder.reg)
    return std::string(register_name(*holder.reg));
  return fmt::format("[rbp{}{:#x}]", holder.frame_offset < 0 ? "-" : "+",
                     std::abs(holder.frame_offset));
}

Result<HeapCalls> find_heap_calls(const Code &code, std::uint64_t function)
{
  if (code.machine != ElfFile::Machine::x86_64)
    return Error{"allocators are decoded on x86-64 alone", 0, {}};
  const auto disassembler = Disassembler::create(code.machine);
  if (!disassembler)
    return disassembler.error();
  if (!(*disassembler)->decode(code.bytes(function), function))
    return Error{"the function's first instruction cannot be decoded", 0, {}};
  return Walk(code, **disassembler, function).run();
}

} // namespace pgmemtrace
