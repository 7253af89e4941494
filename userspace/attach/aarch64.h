// SPDX-License-Identifier: BSD-2-Clause
// aarch64.h - AArch64's strategy, and what an arm64 kernel does with a uprobe on an instruction.
#pragma once

#include <cstdint>
#include <memory>

#include "attach/instruction.h"
#include "util/result.h"

namespace pgmemtrace {

Result<std::unique_ptr<Disassembler>> aarch64_disassembler();

// The kernel's rules on one instruction word; exposed for tests.  What is neither is
// single-stepped.
bool kernel_emulates_aarch64(std::uint32_t instruction);
// Also what the kernel takes, and breaks: there is no probe of ours on such an instruction.
bool refuses_probe_aarch64(std::uint32_t instruction);

} // namespace pgmemtrace
