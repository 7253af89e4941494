// SPDX-License-Identifier: BSD-2-Clause
// stack_frame.h - the registers of one frame of a copied stack, and how those of its caller follow.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include <elfutils/libdw.h>

namespace pgmemtrace {

// Bytes of a stack, from `start` upward.
class StackCopy {
public:
  StackCopy(std::uint64_t start, std::span<const std::byte> bytes) : start_(start), bytes_(bytes) {}

  std::optional<std::uint64_t> word(std::uint64_t address) const
  {
    std::uint64_t value = 0;
    if (address < start_ || address - start_ > bytes_.size() ||
        bytes_.size() - (address - start_) < sizeof value)
      return std::nullopt;
    std::memcpy(&value, bytes_.data() + (address - start_), sizeof value);
    return value;
  }
  std::uint64_t end() const { return start_ + bytes_.size(); }

private:
  std::uint64_t start_;
  std::span<const std::byte> bytes_;
};

// By their DWARF numbers on x86-64.
constexpr std::size_t kBp = 6, kSp = 7, kIp = 16, kRegisters = 17;
using Registers = std::array<std::optional<std::uint64_t>, kRegisters>;

struct Caller {
  enum class Found { yes, outermost, beyond_copy, nothing } found = Found::nothing;
  Registers registers{};
  std::uint64_t ip_at = 0;  // where the return address lay; 0: in no memory
  bool interrupted = false; // the frame was a signal's: the caller did not call
};

// By the rules that apply in the frame.
Caller find_caller(Dwarf_Frame *rules, const Registers &registers, const StackCopy &stack);

} // namespace pgmemtrace
