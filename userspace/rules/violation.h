// SPDX-License-Identifier: BSD-2-Clause
// violation.h - one positive answer of a rule, as every sink shows it.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "snapshot/dsm.h"
#include "snapshot/snapshot.h"
#include "symbols/frame.h"

namespace pgmemtrace {

enum class Severity : std::uint8_t { info, warning, error };
std::string_view to_string(Severity severity); // "INFO", "WARNING", "ERROR"

// raised: new.  updated: it grew by half or its severity rose.  cleared: it no longer holds,
// or its process ended.
enum class ViolationState : std::uint8_t { raised, updated, cleared };
std::string_view to_string(ViolationState state);

// The keys of the JSON line, DESIGN.md section 8.  Empty and nullopt print as null.
struct Violation {
  ViolationState state = ViolationState::raised;
  Clock::time_point time;
  ProcessIdentity process;
  std::string rule; // Rule::name()
  Severity severity = Severity::info;
  std::string context; // name of the context; empty for memory outside the contexts
  std::string path;    // "TopMemoryContext/CacheMemoryContext"
  std::optional<std::string> ident;
  std::optional<Phase> phase;
  std::uint64_t before_bytes = 0;
  std::uint64_t after_bytes = 0;
  std::int64_t delta_bytes = 0;
  std::string shape;             // linear | superlinear | step | peak; empty if not judged
  std::uint64_t occurrences = 0; // contexts, statements or points it was seen at
  std::optional<std::uint64_t> query_id;
  std::string query; // first 1,024 bytes
  // Level block and above.  Rules name the stack; whoever knows the process says what it is.
  std::uint64_t stack_id = 0;
  std::uint64_t caller = 0;         // level alloc: a return address, known better than the stack
  std::vector<Frame> stack;         // innermost first
  std::string module;               // that asked: module_of()
  std::vector<DsmSegment> segments; // dsm_leak: the largest of them, largest first
  std::string detail; // numbers for a person: "used 1.2 MiB -> 9.8 MiB over 5000 statements"
  std::string advice; // one sentence from the knowledge table
};

// What makes two findings the same one: process, rule, path.  A peak goes by the name of
// its context instead: the kernel half, which sees most of them, knows no path.
struct ViolationKey {
  ProcessId process;
  std::string rule;
  std::string path;
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 trips over a defaulted <=>
  auto operator<=>(const ViolationKey &) const = default;
};
// The innermost frame of a module that is neither `server`, the server's executable, nor the C
// library, where every stack begins; else of that executable.  Null if there is neither.
const Frame *asking_frame(std::span<const Frame> stack, std::string_view server);

// File name of the module that asked for the memory: the innermost one that is neither the server's
// executable, where every allocation ends, nor the C library, where every stack begins; else that
// executable.  Empty without a stack.
std::string module_of(std::span<const Frame> stack);

ViolationKey key_of(const Violation &violation);

// Of the first segment whose creation was seen; nullptr: of none.
const DsmOrigin *origin_of(const Violation &violation);

} // namespace pgmemtrace
