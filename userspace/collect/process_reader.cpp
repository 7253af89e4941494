// SPDX-License-Identifier: BSD-2-Clause
// process_reader.cpp - /proc and a few globals.
#include "collect/process_reader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include <unistd.h>

#include "collect/kernel_reader.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kIdentifier = 63; // NAMEDATALEN - 1
constexpr std::uint64_t kJitGrowth = 1 << 20;
constexpr std::int32_t kLongestText = 1 << 30; // of one query string: MaxAllocSize

// An int global and a double one, where this build exports them.
struct Globals {
  std::int32_t work_mem = 0; // kB
  std::int32_t backend_type = -1;
  double hash_mem_multiplier = 1;
  std::uint64_t query_string = 0;
};

// What a hash may use; other nodes keep to work_mem itself, but a limit is what rules want.
std::uint64_t work_mem_bytes(const Globals &globals)
{
  const double multiplier = globals.hash_mem_multiplier;
  if (globals.work_mem <= 0 || !std::isfinite(multiplier) || multiplier < 1 || multiplier > 1000)
    return 0;
  return static_cast<std::uint64_t>(static_cast<double>(globals.work_mem) * 1024 * multiplier);
}

} // namespace

ProcessReader::ProcessReader(const ServerProcess &process, Proc proc)
    : identity_(process.identity), binary_(process.binary), load_bias_(process.load_bias),
      proc_(std::move(proc)), memory_(process.identity.id.pid)
{
}

void ProcessReader::read(ProcessSnapshot &snapshot, std::uint64_t probed_pages)
{
  const pid_t pid = identity_.id.pid;
  if (const auto memory = proc_.memory(pid)) {
    const std::uint64_t own = memory->anon_bytes + memory->swap_bytes;
    const std::uint64_t probed =
        probed_pages * static_cast<std::uint64_t>(std::max(sysconf(_SC_PAGESIZE), 0L));
    snapshot.private_bytes = own - std::min(own, probed);
    look_for_jit(snapshot.private_bytes);
  }
  if (const auto stat = proc_.stat(pid))
    snapshot.cpu_ticks = stat->cpu_ticks;
  read_globals(snapshot);
  snapshot.jit_loaded = jit_loaded_;
  complete_identity(snapshot.process);
}

void ProcessReader::read_globals(ProcessSnapshot &snapshot)
{
  Globals globals;
  std::array pieces{
      ForeignMemory::Piece{.address = binary_->globals.work_mem + load_bias_,
                           .into = std::as_writable_bytes(std::span(&globals.work_mem, 1))},
      ForeignMemory::Piece{.address = binary_->globals.hash_mem_multiplier + load_bias_,
                           .into =
                               std::as_writable_bytes(std::span(&globals.hash_mem_multiplier, 1))},
      ForeignMemory::Piece{.address = binary_->globals.my_backend_type + load_bias_,
                           .into = std::as_writable_bytes(std::span(&globals.backend_type, 1))},
      ForeignMemory::Piece{.address = binary_->globals.debug_query_string + load_bias_,
                           .into = std::as_writable_bytes(std::span(&globals.query_string, 1))}};
  query_string_ = 0;
  if (!memory_.read(pieces))
    return;
  if (binary_->globals.debug_query_string != 0 && pieces[3].ok)
    query_string_ = globals.query_string;
  if (binary_->globals.work_mem != 0 && pieces[0].ok)
    snapshot.work_mem_bytes = work_mem_bytes(globals);
  const auto &types = binary_->layout.backend_types;
  const auto type = static_cast<std::size_t>(globals.backend_type);
  if (identity_.backend_type.empty() && binary_->globals.my_backend_type != 0 && pieces[2].ok &&
      globals.backend_type >= 0 && type < types.size())
    identity_.backend_type = types[type];
  if (identity_.database.empty() || identity_.user.empty())
    read_port();
}

void ProcessReader::read_statement(const pgmt_process *slot, Activity &activity)
{
  if (slot && activity.in_statement)
    read_top_level(*slot, activity);
  else if (query_string_ != 0)
    read_query_string(activity);
}

void ProcessReader::read_query_string(Activity &activity)
{
  // Others are in their one command for as long as they live.
  if (identity_.backend_type != "client backend" && identity_.backend_type != "parallel worker")
    return;
  const auto query = memory_.read_string(query_string_, PGMT_QUERY_LEN - 1);
  if (!query || memory_.read_value<std::uint64_t>(binary_->globals.debug_query_string +
                                                  load_bias_) != query_string_)
    return;
  activity.in_statement = true;
  activity.current_query = statement_text(*query, 0, 0);
}

void ProcessReader::read_top_level(const pgmt_process &slot, Activity &activity)
{
  const auto statement = slot.statements;
  const auto phase = slot.phase;
  std::uint64_t planned = 0;
  std::uint64_t text = 0;
  if (phase == PGMT_PHASE_EXECUTE && slot.query_desc != 0) {
    const auto &fields = binary_->layout.query_desc;
    planned = memory_.read_value<std::uint64_t>(slot.query_desc + fields.planned_stmt).value_or(0);
    text = memory_.read_value<std::uint64_t>(slot.query_desc + fields.source_text).value_or(0);
  } else if (phase == PGMT_PHASE_UTILITY) {
    planned = slot.utility_stmt;
    text = slot.utility_text;
  }
  if (text == 0)
    return;
  // A statement that was joined midway has a text only: all of it.
  std::uint64_t query_id = 0;
  std::int32_t location = 0;
  std::int32_t length = 0;
  if (planned != 0) {
    const auto &fields = binary_->layout.planned_stmt;
    query_id = memory_.read_value<std::uint64_t>(planned + fields.query_id).value_or(0);
    location = memory_.read_value<std::int32_t>(planned + fields.location).value_or(0);
    length = memory_.read_value<std::int32_t>(planned + fields.length).value_or(0);
  }
  if (location > kLongestText)
    return;
  const auto begin = static_cast<std::uint64_t>(std::max(location, 0));
  const auto query = memory_.read_string(text + begin, PGMT_QUERY_LEN - 1);
  if (!query || slot.statements != statement || slot.phase != phase)
    return;
  activity.current_query = statement_text(*query, 0, length);
  activity.current_query_id = query_id;
}

// The caller may know more by now: what it says stands.
void ProcessReader::complete_identity(ProcessIdentity &identity) const
{
  if (identity.id != identity_.id) {
    identity = identity_;
    return;
  }
  if (identity.backend_type.empty())
    identity.backend_type = identity_.backend_type;
  if (identity.database.empty())
    identity.database = identity_.database;
  if (identity.user.empty())
    identity.user = identity_.user;
}

// Client backends and walsenders only; the names are there once authentication is over.
void ProcessReader::read_port()
{
  const std::uint64_t variable = binary_->globals.my_proc_port;
  if (variable == 0)
    return;
  const auto port = memory_.read_value<std::uint64_t>(variable + load_bias_);
  if (!port || *port == 0)
    return;
  const auto name_at = [&](std::uint32_t offset) -> std::string {
    const auto pointer = memory_.read_value<std::uint64_t>(*port + offset);
    return pointer && *pointer != 0 ? memory_.read_string(*pointer, kIdentifier).value_or("")
                                    : std::string();
  };
  if (identity_.database.empty())
    identity_.database = name_at(binary_->layout.port.database_name);
  if (identity_.user.empty())
    identity_.user = name_at(binary_->layout.port.user_name);
}

void ProcessReader::look_for_jit(std::uint64_t private_bytes)
{
  if (jit_loaded_ || (looked_for_jit_ && private_bytes <= private_bytes_then_ + kJitGrowth))
    return;
  const auto maps = proc_.maps(identity_.id.pid);
  if (!maps)
    return;
  looked_for_jit_ = true;
  private_bytes_then_ = private_bytes;
  jit_loaded_ = jit_loaded(*maps);
}

void read_process(const ServerProcess &process, const Proc &proc, ProcessSnapshot &snapshot,
                  std::uint64_t probed_pages)
{
  ProcessReader(process, proc).read(snapshot, probed_pages);
}

} // namespace pgmemtrace
