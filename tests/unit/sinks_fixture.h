// SPDX-License-Identifier: BSD-2-Clause
// sinks_fixture.h - a small snapshot with every kind of content, for the tests of the sinks.
#pragma once

#include <chrono>
#include <string>

#include "rules/violation.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace::test {

using namespace std::chrono_literals;

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;

// 2026-03-01 02:03:04.567 UTC.
inline Clock::time_point some_time() { return Clock::time_point{} + 1772330584567ms; }

inline Context context(std::string name, std::uint64_t total, std::uint64_t free = 0)
{
  Context out;
  out.name = std::move(name);
  out.total_bytes = total;
  out.free_bytes = free;
  return out;
}

inline ProcessSnapshot backend(pid_t pid, const std::string &instance = "15/main")
{
  ProcessSnapshot out;
  out.process.id = {pid, 1};
  out.process.server_pid = pid;
  out.process.postmaster = 100;
  out.process.instance = instance;
  out.process.major = 15;
  out.process.backend_type = "client backend";
  out.process.database = "shop";
  out.process.user = "alice";
  out.taken_at = some_time();
  out.contexts = {context("TopMemoryContext", 1 * kMiB, 256 * kKiB)};
  out.private_bytes = 3 * kMiB;
  return out;
}

inline ServerStatus server(const std::string &instance = "15/main", pid_t postmaster = 100)
{
  ServerStatus out;
  out.postmaster = postmaster;
  out.instance = instance;
  out.data_directory = "/var/lib/postgresql/15/main";
  out.version = "15.20 (Debian 15.20-0+deb12u1)";
  out.major = 15;
  out.level = Level::statement;
  out.wanted_level = Level::statement;
  out.overhead_ratio = 0.012;
  out.probe_hits = {{"ready_for_query", 10}, {"executor_start", 7}};
  return out;
}

inline Health health()
{
  Health out;
  out.probes_attached = {{"ready_for_query", 1}, {"executor_start", 1}};
  out.program_run_seconds = {{"ready_for_query", 0.25}, {"executor_start", 0.125}};
  out.events_lost = {{"ring_buffer", 0}, {"map_full", 0}};
  out.read_errors = {{"sweep", 0}, {"walk", 0}};
  out.map_entries = {{"processes", {3, 4096}}, {"contexts", {300, 65536}}};
  out.overhead_budget_ratio = 0.05;
  out.direct_reads = true;
  out.sweep_seconds = 0.002;
  out.sweeps = 4;
  out.calibrated_hit_seconds = 0.8e-6;
  return out;
}

inline void add_process(Snapshot &snapshot, ProcessSnapshot process)
{
  snapshot.processes.push_back(std::make_shared<const ProcessSnapshot>(std::move(process)));
}

inline Snapshot snapshot(Clock::time_point taken_at = some_time())
{
  Snapshot out;
  out.taken_at = taken_at;
  out.servers = {server()};
  add_process(out, backend(4242));
  out.health = health();
  return out;
}

inline Violation violation(ViolationState state = ViolationState::raised)
{
  Violation out;
  out.state = state;
  out.time = some_time();
  out.process = backend(4242).process;
  out.rule = "ctx_bloat";
  out.severity = Severity::error;
  out.context = "expanded array";
  out.path = "TopMemoryContext/TopPortalContext/PortalContext/SPI Proc/expanded array";
  out.ident = "items";
  out.phase = Phase::execute;
  out.before_bytes = 1258291; // 1.2 MiB
  out.after_bytes = 10276045; // 9.8 MiB
  out.delta_bytes = 9017754;  // 8.6 MiB
  out.shape = "linear";
  out.occurrences = 5000;
  out.query_id = 0xFFFFFFFFFFFFFFFEULL;
  out.query = "SELECT case_grow(3000000) -- it's me";
  out.detail = "used 1.2 MiB -> 9.8 MiB over 5000 statements";
  out.advice = "Look for an array that a loop appends to.";
  return out;
}

} // namespace pgmemtrace::test
