// SPDX-License-Identifier: BSD-2-Clause
// context_report.h - a process's contexts as `pgmemtrace contexts` shows them, against what
// the process says of itself.
//
// From 14 on a process is asked by pg_log_backend_memory_contexts(), in 13 by a signal to a
// module of ours (report_on_signal.c).  Both go depth first, cut idents at 100 bytes, and sum
// up the children of a context beyond its hundredth.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "postgres_cluster.h"

namespace pgmemtrace::test {

CommandResult contexts_of(pid_t pid, const std::vector<std::string> &more = {});
nlohmann::json json_contexts(pid_t pid); // an array; fails the test if it is none

// `conf`, and what a server of the major under test needs to be asked.
std::vector<std::string> conf_for_reports(std::vector<std::string> conf = {});

// What the process logs of itself, in the words of 14: "level: 0; TopMemoryContext: 68720
// total in 5 blocks; ...".  Empty if it does not answer.
std::vector<std::string> reported_lines(const PostgresCluster &cluster, pid_t pid);

// The same process, the same words, or the test fails.  Returns the contexts.
nlohmann::json expect_same_as_reported(const PostgresCluster &cluster, pid_t pid);

// The latest process of a type in pg_stat_activity's words, once there is one.
pid_t process_of_type(const PostgresCluster &cluster, const std::string &backend_type);

} // namespace pgmemtrace::test
