// SPDX-License-Identifier: BSD-2-Clause
// unwinder.cpp - from frame to frame.
#include "symbols/unwinder.h"

#include <cstdlib>
#include <memory>

#include "symbols/stack_frame.h"

namespace pgmemtrace {

namespace {

// As many as the kernel would have followed (kernel.perf_event_max_stack).
constexpr std::size_t kMaxFrames = 127;

using FramePtr = std::unique_ptr<Dwarf_Frame, decltype(&std::free)>;

FramePtr rules_at(const UnwindRules &rules, std::uint64_t address)
{
  Dwarf_Frame *frame = nullptr;
  if (rules.cfi == nullptr ||
      dwarf_cfi_addrframe(rules.cfi, address - rules.load_bias, &frame) != 0)
    frame = nullptr;
  return {frame, std::free};
}

// The frame that bp points to: the caller's bp, and above it the return address.
Caller caller_by_frame_pointer(const Registers &registers, const StackCopy &stack,
                               const FindRules &find_rules)
{
  using Found = Caller::Found;
  const auto bp = registers[kBp];
  if (!bp || *bp < registers[kSp] || *bp % sizeof(std::uint64_t) != 0)
    return {};
  const auto ip = stack.word(*bp + 8);
  if (!ip)
    return {*bp + 8 >= stack.end() && *bp - stack.end() < (8u << 20) ? Found::beyond_copy
                                                                     : Found::nothing};
  if (!find_rules(*ip - 1))
    return {};
  Caller caller{Found::yes};
  caller.registers[kBp] = stack.word(*bp);
  caller.registers[kSp] = *bp + 16;
  caller.registers[kIp] = ip;
  caller.ip_at = *bp + 8;
  return caller;
}

} // namespace

std::string_view to_string(StackEnd end)
{
  switch (end) {
  case StackEnd::complete: return "complete";
  case StackEnd::truncated: return "truncated";
  case StackEnd::no_rules: return "no unwind rules";
  case StackEnd::too_deep: return "too deep";
  }
  return "";
}

UnwoundStack unwind(const StackRegisters &start, std::span<const std::byte> bytes,
                    const FindRules &find_rules)
{
  using Found = Caller::Found;
  const StackCopy stack(start.sp, bytes);
  Registers registers{};
  registers[kIp] = start.ip;
  registers[kSp] = start.sp;
  registers[kBp] = start.bp;

  UnwoundStack result;
  std::uint64_t back = 0; // a call may be its function's last instruction
  while (result.addresses.size() < kMaxFrames) {
    const std::uint64_t ip = *registers[kIp];
    result.addresses.push_back(ip);
    const auto rules = find_rules(ip - back);
    Caller caller;
    if (const auto frame = rules ? rules_at(*rules, ip - back) : FramePtr(nullptr, std::free)) {
      caller = find_caller(frame.get(), registers, stack);
    } else if (rules) {
      caller = caller_by_frame_pointer(registers, stack, find_rules);
      result.guessed = result.guessed || caller.found == Found::yes;
    }
    if (caller.found == Found::yes && *caller.registers[kIp] == 0)
      caller.found = Found::outermost;
    switch (caller.found) {
    case Found::yes: break;
    case Found::outermost: result.end = StackEnd::complete; return result;
    case Found::beyond_copy: result.end = StackEnd::truncated; return result;
    case Found::nothing: result.end = StackEnd::no_rules; return result;
    }
    result.found_at.push_back(caller.ip_at);
    registers = caller.registers;
    back = caller.interrupted ? 0 : 1;
  }
  result.end = StackEnd::too_deep;
  return result;
}

} // namespace pgmemtrace
