// SPDX-License-Identifier: BSD-2-Clause
// planner_fuzzer.cpp - any bytes as a function: where would the probe go?
//
// What the planner promises (planner.h) is checked against a decoding of its own.
#include <algorithm>
#include <array>

#include "attach/instruction.h"
#include "attach/planner.h"
#include "fuzz.h"

namespace pgmemtrace::test {
namespace {

void check_placement(Disassembler &disassembler, std::span<const std::byte> code,
                     std::uint64_t entry, unsigned arguments, const Placement &placement)
{
  const std::uint64_t site = entry + placement.displacement;
  must(placement.displacement < code.size(), "a site lies in the function");
  must(placement.emulated || placement.displacement == 0, "a dear probe is on the entry");
  std::size_t offset = 0;
  while (offset < placement.displacement) {
    const auto before = disassembler.decode(code.subspan(offset), entry + offset);
    must(before && before->size > 0, "what lies before a site can be decoded");
    must(!before->ends_path, "every call reaches the site");
    must((before->arguments_written & arguments) == 0, "the arguments are still there");
    offset += before->size;
  }
  must(offset == placement.displacement, "a site is where an instruction begins");
  const auto probed = disassembler.decode(code.subspan(offset), site);
  must(probed && probed->emulated == placement.emulated, "emulated is said of the site");
  must(probed->size <= code.size() - offset, "an instruction ends in the function");
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
    test::check_placement(**disassembler, code, entry, arguments, *placement);

  const std::array functions{ElfFile::Symbol{entry, code.size() / 2},
                             ElfFile::Symbol{entry + code.size() / 2, 0}};
  const auto callers = count_callers(machine, code, entry, functions);
  test::must(callers.size() == functions.size(), "every function has a number of callers");
  return 0;
}
