// SPDX-License-Identifier: BSD-2-Clause
// task_struct.h - where the running kernel keeps what we read of a task.
//
// The kernel half is relocated against PostgreSQL's types and cannot be against the kernel's as
// well: the few offsets of task_struct and mm_struct that it needs are looked up here, in
// /sys/kernel/btf/vmlinux.
#pragma once

#include <cstdint>
#include <optional>

namespace pgmemtrace {

// Bytes from the beginning of struct task_struct (Linux include/linux/sched.h).
struct TaskStruct {
  std::uint32_t real_parent = 0; // struct task_struct *
  std::uint32_t tgid = 0;        // pid_t
  std::uint32_t mm = 0;          // struct mm_struct *, and in that (linux/mm_types.h):
  std::uint32_t mm_brk = 0;      // unsigned long
};

// Nothing if this kernel does not tell.
std::optional<TaskStruct> task_struct_of_this_kernel();

} // namespace pgmemtrace
