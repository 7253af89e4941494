// SPDX-License-Identifier: BSD-2-Clause
// capstone.h - the disassembler library, behind what the machines' strategies need of it.
//
// Private to the strategies (instruction.cpp, aarch64.cpp); others see attach/instruction.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <capstone/capstone.h>
#include <fmt/format.h>

#include "util/result.h"

namespace pgmemtrace {

// Owns a Capstone handle and the one instruction that it decodes into.
class Capstone {
public:
  static Result<Capstone> open(cs_arch arch, cs_mode mode)
  {
    csh handle = 0;
    cs_err err = cs_open(arch, mode, &handle);
    if (err != CS_ERR_OK)
      return Error{fmt::format("start the disassembler: {}", cs_strerror(err)), 0, {}};
    // Before cs_malloc(), which allocates details only for a handle that has them.
    err = cs_option(handle, CS_OPT_DETAIL, CS_OPT_ON);
    Capstone capstone(handle);
    if (err != CS_ERR_OK)
      return Error{fmt::format("start the disassembler: {}", cs_strerror(err)), 0, {}};
    return capstone;
  }

  const cs_insn *decode(std::span<const std::byte> code, std::uint64_t address)
  {
    const auto *at = reinterpret_cast<const std::uint8_t *>(code.data());
    std::size_t left = code.size();
    return cs_disasm_iter(*handle_, &at, &left, &address, instruction_.get()) ? instruction_.get()
                                                                              : nullptr;
  }

  // `number_of`: Capstone's register -> its number in Instruction, or -1.
  template <typename F> std::uint32_t registers_written(F number_of)
  {
    cs_regs read{};
    cs_regs written{};
    std::uint8_t reads = 0;
    std::uint8_t writes = 0;
    // What cannot be told counts as written.
    if (cs_regs_access(*handle_, instruction_.get(), read, &reads, written, &writes) != CS_ERR_OK)
      return ~0U;
    std::uint32_t mask = 0;
    for (unsigned i = 0; i < writes; i++)
      if (int number = number_of(written[i]); number >= 0)
        mask |= 1U << number;
    return mask;
  }

  bool in_group(unsigned group) const { return cs_insn_group(*handle_, instruction_.get(), group); }

private:
  struct Close {
    void operator()(csh *handle) const
    {
      cs_close(handle);
      delete handle;
    }
  };
  struct Free {
    void operator()(cs_insn *instruction) const { cs_free(instruction, 1); }
  };

  explicit Capstone(csh handle) : handle_(new csh(handle)), instruction_(cs_malloc(handle)) {}

  std::unique_ptr<csh, Close> handle_;
  std::unique_ptr<cs_insn, Free> instruction_;
};

inline std::string text_of(const cs_insn &instruction)
{
  if (instruction.op_str[0] == '\0')
    return instruction.mnemonic;
  return fmt::format("{} {}", instruction.mnemonic, instruction.op_str);
}

} // namespace pgmemtrace
