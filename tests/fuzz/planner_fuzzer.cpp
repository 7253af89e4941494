// SPDX-License-Identifier: BSD-2-Clause
// planner_fuzzer.cpp - any bytes as a function: where would the probe go?
//
// What the planner promises (planner.h) is checked against a decoding of its own.
#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "attach/instruction.h"
#include "attach/planner.h"
#include "fuzz.h"

namespace pgmemtrace::test {
namespace {

void check_placement(Disassembler &disassembler, ElfFile::Machine machine,
                     std::span<const std::byte> code, std::uint64_t entry, unsigned arguments,
                     const Placement &placement)
{
  const std::uint64_t site = entry + placement.displacement;
  must(placement.displacement < code.size(), "a site lies in the function");
  std::map<unsigned, std::size_t> held; // register -> the argument in it
  for (std::size_t i = 0; i < placement.arguments.size(); ++i)
    held[argument_registers(machine)[i]] = i;
  std::size_t offset = 0;
  while (offset < placement.displacement) {
    const auto before = disassembler.decode(code.subspan(offset), entry + offset);
    must(before && before->size > 0, "what lies before a site can be decoded");
    must(!before->ends_path, "every call reaches the site");
    must(placement.emulated || offset > 0 || before->refused,
         "a dear probe is on the entry, if the kernel takes it there");
    const auto moved = before->move ? held.find(before->move->from) : held.end();
    const auto value = moved == held.end() ? std::nullopt : std::optional(moved->second);
    std::erase_if(held, [&](const auto &entry) {
      return (before->registers_written >> entry.first & 1U) != 0;
    });
    if (value)
      held[before->move->to] = *value;
    offset += before->size;
  }
  must(offset == placement.displacement, "a site is where an instruction begins");
  const auto probed = disassembler.decode(code.subspan(offset), site);
  must(probed && probed->emulated == placement.emulated, "emulated is said of the site");
  must(!probed->refused, "the kernel takes a probe on it");
  must(probed->size <= code.size() - offset, "an instruction ends in the function");
  for (std::size_t i = 0; i < placement.arguments.size(); ++i) {
    const auto at = held.find(placement.arguments[i]);
    must((arguments >> i & 1U) == 0 || (at != held.end() && at->second == i),
         "an argument is in the register that is named");
  }
}

} // namespace
} // namespace pgmemtrace::test

// A byte for the machine and the arguments, eight for the address, then the function.
int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  constexpr std::size_t kHead = 9;
  if (size < kHead)
    return 0;
  const auto machine = (bytes[0] & 1U) != 0 ? ElfFile::Machine::aarch64 : ElfFile::Machine::x86_64;
  const unsigned arguments = bytes[0] >> 1U & 7U;
  std::uint64_t entry = 0;
  std::copy_n(bytes + 1, sizeof entry, reinterpret_cast<std::uint8_t *>(&entry));
  const auto code = std::as_bytes(std::span(bytes, size)).subspan(kHead);

  const auto disassembler = Disassembler::create(machine);
  test::must(static_cast<bool>(disassembler), "both machines can be decoded");
  if (const auto placement = place_probe(machine, code, entry, arguments))
    test::check_placement(**disassembler, machine, code, entry, arguments, *placement);

  const std::array functions{ElfFile::Symbol{entry, code.size() / 2},
                             ElfFile::Symbol{entry + code.size() / 2, 0}};
  const auto callers = count_callers(machine, code, entry, functions);
  test::must(callers.size() == functions.size(), "every function has a number of callers");
  return 0;
}
