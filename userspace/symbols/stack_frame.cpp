// SPDX-License-Identifier: BSD-2-Clause
// stack_frame.cpp - DWARF expressions of call frame rules, evaluated on a copied stack.
//
// What .eh_frame really holds: register + offset, memory at CFA - offset, and expressions in PLT
// entries, realigned functions and the C library's signal return.
#include "symbols/stack_frame.h"

#include <algorithm>
#include <vector>

#include <dwarf.h>

namespace pgmemtrace {

namespace {

constexpr int kMaxSteps = 256; // of one expression, which may loop
constexpr std::size_t kMaxOperands = 64;

class Expression {
public:
  Expression(const Registers &registers, const StackCopy &stack, std::optional<std::uint64_t> cfa)
      : registers_(registers), stack_(stack), cfa_(cfa)
  {
  }

  // What the rule describes: the address of a value or, if is_value(), the value itself.
  std::optional<std::uint64_t> run(std::span<const Dwarf_Op> operations)
  {
    std::size_t at = 0;
    for (int step = 0; at < operations.size(); ++step) {
      if (step >= kMaxSteps || operands_.size() > kMaxOperands)
        return std::nullopt;
      const Dwarf_Op &operation = operations[at++];
      if (operation.atom == DW_OP_bra || operation.atom == DW_OP_skip) {
        const auto condition = operation.atom == DW_OP_skip ? std::optional(1ul) : pop();
        if (!condition)
          return std::nullopt;
        if (*condition != 0) {
          const auto target = find_target(operations, operation);
          if (!target)
            return std::nullopt;
          at = *target;
        }
      } else if (!step_over(operation)) {
        return std::nullopt;
      }
    }
    return pop();
  }
  bool is_value() const { return is_value_; }
  bool beyond_copy() const { return beyond_copy_; }

private:
  using Word = std::uint64_t;

  std::optional<Word> pop()
  {
    if (operands_.empty())
      return std::nullopt;
    const Word value = operands_.back();
    operands_.pop_back();
    return value;
  }
  bool push(std::optional<Word> value)
  {
    if (value)
      operands_.push_back(*value);
    return value.has_value();
  }
  std::optional<Word> known(std::uint64_t number) const
  {
    return number < kRegisters ? registers_[number] : std::nullopt;
  }
  bool push_register(std::uint64_t number, Word offset)
  {
    const auto value = known(number);
    return push(value ? std::optional(*value + offset) : std::nullopt);
  }
  bool push_memory()
  {
    const auto address = pop();
    if (!address)
      return false;
    const auto value = stack_.word(*address);
    beyond_copy_ = beyond_copy_ || (!value && *address >= stack_.end());
    return push(value);
  }

  static std::optional<std::size_t> find_target(std::span<const Dwarf_Op> operations,
                                                const Dwarf_Op &jump)
  {
    // Relative to the byte behind the jump: an opcode and a distance of two bytes.
    const Word offset = jump.offset + 3 + jump.number;
    const auto found = std::ranges::find(operations, offset, &Dwarf_Op::offset);
    if (found == operations.end())
      return std::nullopt;
    return static_cast<std::size_t>(found - operations.begin());
  }

  bool step_over(const Dwarf_Op &operation)
  {
    const unsigned atom = operation.atom;
    if (atom >= DW_OP_lit0 && atom <= DW_OP_lit31)
      return push(atom - DW_OP_lit0);
    if (atom >= DW_OP_breg0 && atom <= DW_OP_breg31)
      return push_register(atom - DW_OP_breg0, operation.number);
    if (atom >= DW_OP_reg0 && atom <= DW_OP_reg31)
      return value_of_register(atom - DW_OP_reg0);
    switch (atom) {
    case DW_OP_nop: return true;
    case DW_OP_const1u:
    case DW_OP_const1s: // libdw has extended the sign
    case DW_OP_const2u:
    case DW_OP_const2s:
    case DW_OP_const4u:
    case DW_OP_const4s:
    case DW_OP_const8u:
    case DW_OP_const8s:
    case DW_OP_constu:
    case DW_OP_consts: return push(operation.number);
    case DW_OP_bregx: return push_register(operation.number, operation.number2);
    case DW_OP_regx: return value_of_register(operation.number);
    case DW_OP_call_frame_cfa: return push(cfa_);
    case DW_OP_deref: return push_memory();
    case DW_OP_stack_value: return is_value_ = true;
    case DW_OP_dup: return !operands_.empty() && push(operands_.back());
    case DW_OP_drop: return pop().has_value();
    case DW_OP_plus_uconst: {
      const auto value = pop();
      return push(value ? std::optional(*value + operation.number) : std::nullopt);
    }
    default: return calculate(atom);
    }
  }

  bool value_of_register(std::uint64_t number)
  {
    is_value_ = true;
    return push(known(number));
  }

  bool calculate(unsigned atom)
  {
    const auto second = pop(), first = pop();
    if (!first || !second)
      return false;
    const auto as_signed = [](Word word) { return static_cast<std::int64_t>(word); };
    switch (atom) {
    case DW_OP_plus: return push(*first + *second);
    case DW_OP_minus: return push(*first - *second);
    case DW_OP_mul: return push(*first * *second);
    case DW_OP_and: return push(*first & *second);
    case DW_OP_or: return push(*first | *second);
    case DW_OP_xor: return push(*first ^ *second);
    case DW_OP_shl: return push(*second < 64 ? *first << *second : 0);
    case DW_OP_shr: return push(*second < 64 ? *first >> *second : 0);
    case DW_OP_eq: return push(*first == *second);
    case DW_OP_ne: return push(*first != *second);
    case DW_OP_lt: return push(as_signed(*first) < as_signed(*second));
    case DW_OP_le: return push(as_signed(*first) <= as_signed(*second));
    case DW_OP_gt: return push(as_signed(*first) > as_signed(*second));
    case DW_OP_ge: return push(as_signed(*first) >= as_signed(*second));
    case DW_OP_swap: return push(*second) && push(*first);
    default: return false;
    }
  }

  const Registers &registers_;
  const StackCopy &stack_;
  std::optional<Word> cfa_;
  std::vector<Word> operands_;
  bool is_value_ = false;
  bool beyond_copy_ = false;
};

struct Value {
  std::optional<std::uint64_t> value;
  std::uint64_t at = 0;     // where it lay; 0: in no memory
  bool undefined = false;   // the rules say that there is none
  bool beyond_copy = false; // there is one, which was not copied
};

Value caller_value(Dwarf_Frame *rules, std::size_t number, std::uint64_t cfa,
                   const Registers &registers, const StackCopy &stack)
{
  std::array<Dwarf_Op, 3> simple;
  Dwarf_Op *operations = nullptr;
  std::size_t count = 0;
  if (dwarf_frame_register(rules, static_cast<int>(number), simple.data(), &operations, &count) !=
      0)
    return {};
  if (count == 0 && operations == nullptr)
    return {.value = registers[number]}; // the frame left it alone
  if (count == 0)
    return {.undefined = true};
  Expression expression(registers, stack, cfa);
  const auto found = expression.run({operations, count});
  if (!found || expression.is_value())
    return {.value = found, .beyond_copy = expression.beyond_copy()};
  const auto value = stack.word(*found);
  return {.value = value, .at = *found, .beyond_copy = !value && *found >= stack.end()};
}

} // namespace

Caller find_caller(Dwarf_Frame *rules, const Registers &registers, const StackCopy &stack)
{
  using Found = Caller::Found;
  bool interrupted = false;
  const int ip = dwarf_frame_info(rules, nullptr, nullptr, &interrupted);
  Dwarf_Op *operations = nullptr;
  std::size_t count = 0;
  if (ip != static_cast<int>(kIp) || dwarf_frame_cfa(rules, &operations, &count) != 0 || count == 0)
    return {};
  Expression expression(registers, stack, std::nullopt);
  const auto cfa = expression.run({operations, count});
  // The stack grows downward, so each caller's frame lies above: this ends every loop.
  if (!cfa || *cfa <= registers[kSp])
    return {expression.beyond_copy() ? Found::beyond_copy : Found::nothing};

  Caller caller{.interrupted = interrupted};
  for (std::size_t number = 0; number < kRegisters; ++number) {
    const auto value = caller_value(rules, number, *cfa, registers, stack);
    caller.registers[number] = value.value;
    if (number != kIp)
      continue;
    caller.ip_at = value.at;
    if (value.undefined)
      return {Found::outermost};
    if (!value.value)
      return {value.beyond_copy ? Found::beyond_copy : Found::nothing};
  }
  // CFA is what the stack pointer was before the call, unless the rules say otherwise.
  if (!caller.registers[kSp])
    caller.registers[kSp] = cfa;
  caller.found = Found::yes;
  return caller;
}

} // namespace pgmemtrace
