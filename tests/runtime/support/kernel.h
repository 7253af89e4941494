// SPDX-License-Identifier: BSD-2-Clause
// kernel.h - the kernel half on a test's server, without the daemon around it.
#pragma once

#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>

#include "attach/kernel_maps.h"
#include "attach/planner.h"
#include "attach/probes.h"
#include "attach/servers.h"
#include "collect/kernel_reader.h"
#include "collect/process_reader.h"
#include "runtime_test.h"

namespace pgmemtrace::test {

// Everything between a binary and its events, without the daemon around it.  Without `every_start`
// statements are seen from their start as by the daemon: in processes of Probes::attach_starts().
class Kernel {
public:
  using ChangePlan = std::function<void(Plan &)>; // before it is loaded

  Kernel(const PostgresCluster &cluster, Level level, KernelMaps::Options options = {},
         Probes::Options probes_options = {}, bool every_start = true,
         const ChangePlan &change_plan = {})
      : maps_(options)
  {
    Selection selection;
    selection.pids = {cluster.postmaster_pid()};
    auto servers = ServerList::find({.selection = selection, .postgres_btf = {}, .proc = Proc()});
    if (!servers)
      throw std::runtime_error(to_string(servers.error()));
    servers_ = std::make_unique<ServerList>(std::move(*servers));
    const auto &binary = *servers_->binaries().front();
    probes_options.binary_index = 1;
    probes_options.every_start = every_start;
    auto plan = plan_probes(*binary.elf);
    if (change_plan)
      change_plan(plan);
    auto probes = Probes::load(binary, std::move(plan), maps_, std::move(probes_options));
    if (!probes)
      throw std::runtime_error(to_string(probes.error()));
    probes_ = std::make_unique<Probes>(std::move(*probes));
    auto reader = KernelReader::create(
        maps_,
        [](pid_t pid, std::uint64_t address) {
          return ForeignMemory(pid).read_string(address, 64).value_or("");
        },
        [](const pgmt_process &) { return 0; });
    if (!reader)
      throw std::runtime_error(to_string(reader.error()));
    reader_ = std::move(*reader);
    for (const auto &[pid, server] : servers_->servers())
      if (auto added = probes_->add_server(pid, server.load_bias); !added)
        throw std::runtime_error(to_string(added.error()));
    if (auto done = probes_->set_level(level); !done)
      throw std::runtime_error(to_string(done.error()));
  }

  Activity take(const Session &session)
  {
    reader_->drain();
    reader_->tidy();
    auto activity = reader_->take_activity(session.backend_pid(), probes_->statements_since());
    servers_->refresh();
    const auto *process = servers_->find_process(session.backend_pid());
    const auto *slot = reader_->slot(session.backend_pid());
    if (process && slot && activity.in_statement)
      ProcessReader(*process, Proc()).read_statement(slot, activity);
    return activity;
  }
  const pgmt_process *slot(const Session &session)
  {
    reader_->drain();
    reader_->tidy();
    return reader_->slot(session.backend_pid());
  }
  std::uint64_t hits(const Session &session, pgmt_probe probe)
  {
    const auto *process = slot(session);
    return process ? process->hits[probe] : 0;
  }
  std::uint64_t lost(pgmt_loss reason) const { return maps_.losses(reason); }
  ServerList &servers() { return *servers_; }
  KernelMaps &maps() { return maps_; }
  KernelReader &reader() { return *reader_; }
  Probes &probes() { return *probes_; }

private:
  std::unique_ptr<ServerList> servers_;
  KernelMaps maps_;
  std::unique_ptr<Probes> probes_;
  std::unique_ptr<KernelReader> reader_;
};

// The answer of a statement arrives before its ReadyForQuery probe has run: wait for it.
inline void settle(Kernel &kernel, const Session &session, std::uint64_t requests)
{
  EXPECT_TRUE(eventually([&] {
    const auto *process = kernel.slot(session);
    return process && process->requests >= requests && process->busy_since_ns == 0;
  })) << requests;
}

} // namespace pgmemtrace::test
