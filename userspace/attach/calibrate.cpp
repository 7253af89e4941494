// SPDX-License-Identifier: BSD-2-Clause
// calibrate.cpp - two probed functions, their unprobed twins, sends, and a median.
#include "attach/calibrate.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>

#include <link.h>
#include <sys/socket.h>

#include "attach/empty_probes.h"
#include "util/file.h"

// In assembly, so that no compiler, option or sanitizer decides what is probed.
#if defined(__x86_64__)
#define PGMT_EMULATED "push %rbp\n pop %rbp\n ret\n"
#define PGMT_STEPPED "mov %rdi, %rax\n ret\n"
#elif defined(__aarch64__)
#define PGMT_EMULATED "adr x9, .\n ret\n"
#define PGMT_STEPPED "mov x9, x0\n ret\n"
#else
#error "calibrate.cpp knows no probe sites for this machine"
#endif
// clang-format off
#define PGMT_FUNCTION(name, body)                  \
  ".balign 16\n .globl " name "\n .hidden " name "\n" \
  ".type " name ", %function\n"                     \
  name ":\n" body ".size " name ", . - " name "\n"

asm(".pushsection .text.pgmt_calibrate, \"ax\", %progbits\n"
    PGMT_FUNCTION("pgmt_emulated_probed", PGMT_EMULATED)
    PGMT_FUNCTION("pgmt_emulated_plain", PGMT_EMULATED)
    PGMT_FUNCTION("pgmt_stepped_probed", PGMT_STEPPED)
    PGMT_FUNCTION("pgmt_stepped_plain", PGMT_STEPPED)
    ".popsection\n");
// clang-format on

extern "C" {
void pgmt_emulated_probed();
void pgmt_emulated_plain();
void pgmt_stepped_probed();
void pgmt_stepped_plain();
}

namespace pgmemtrace {
namespace {

using Function = void (*)();

// A single-stepped hit costs up to 50 times an emulated one: fewer of them.  Odd, for a median.
constexpr int kRounds = 15;
constexpr int kEmulatedHits = 1000;
constexpr int kSteppedHits = 50;
constexpr int kSends = 100;
// A send itself takes 1 to 3 us, more or less: the difference may come out as nothing.
constexpr double kLeastSendSeconds = 20e-9;
constexpr const char *kSelf = "/proc/self/exe";

struct Search {
  std::uintptr_t address;
  std::optional<std::uint64_t> offset;
};

// Where a function of this executable lies in its file.
std::optional<std::uint64_t> file_offset(Function function)
{
  Search search{reinterpret_cast<std::uintptr_t>(function), std::nullopt};
  const auto visit = [](dl_phdr_info *info, std::size_t, void *arg) {
    auto &wanted = *static_cast<Search *>(arg);
    for (int i = 0; i < info->dlpi_phnum; i++) {
      const auto &segment = info->dlpi_phdr[i];
      const std::uintptr_t start = info->dlpi_addr + segment.p_vaddr;
      if (segment.p_type == PT_LOAD && wanted.address - start < segment.p_filesz)
        wanted.offset = wanted.address - start + segment.p_offset;
    }
    return 1; // the executable is the first object
  };
  dl_iterate_phdr(visit, &search);
  return search.offset;
}

double seconds_per_call(Function function, int calls)
{
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 0; i < calls; i++)
    function();
  return std::chrono::duration<double>(Clock::now() - start).count() / calls;
}

double median(std::array<double, kRounds> values)
{
  std::nth_element(values.begin(), values.begin() + kRounds / 2, values.end());
  return values[kRounds / 2];
}

// The median of paired differences: a round that was preempted falls out.
double added_by_probe(Function probed, Function plain, int calls)
{
  seconds_per_call(probed, calls); // warm up
  std::array<double, kRounds> added{};
  for (double &round : added)
    round = seconds_per_call(probed, calls) - seconds_per_call(plain, calls);
  return std::max(median(added), 0.0);
}

// Seconds of a send to ourselves.
std::optional<double> seconds_per_send()
{
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return std::nullopt;
  const UniqueFd to(ends[0]), from(ends[1]);
  std::array<double, kRounds> rounds{};
  for (double &round : rounds) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    for (int i = 0; i < kSends; i++) {
      char byte = 0;
      if (send(to.get(), &byte, 1, 0) != 1 || recv(from.get(), &byte, 1, 0) != 1)
        return std::nullopt;
    }
    round = std::chrono::duration<double>(Clock::now() - start).count() / kSends;
  }
  return median(rounds);
}

// 0: this kernel cannot be probed there.
double added_to_send()
{
  const auto before = seconds_per_send();
  std::optional<double> probed;
  {
    const auto probes = EmptyProbes::attach_to_sends();
    if (!probes)
      return 0;
    probed = seconds_per_send();
  }
  const auto after = seconds_per_send();
  if (!before || !probed || !after)
    return 0;
  return std::max(*probed - (*before + *after) / 2, kLeastSendSeconds);
}

} // namespace

Result<Calibration> calibrate()
{
  const auto emulated = file_offset(pgmt_emulated_probed);
  const auto stepped = file_offset(pgmt_stepped_probed);
  if (!emulated || !stepped)
    return Error{"find our own functions in /proc/self/exe", ENOENT, {}};
  const auto probes = EmptyProbes::attach(kSelf, {*emulated, *stepped});
  if (!probes)
    return probes.error();
  return Calibration{
      .emulated_seconds = added_by_probe(pgmt_emulated_probed, pgmt_emulated_plain, kEmulatedHits),
      .stepped_seconds = added_by_probe(pgmt_stepped_probed, pgmt_stepped_plain, kSteppedHits),
      .send_seconds = added_to_send()};
}

} // namespace pgmemtrace
