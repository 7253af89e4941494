// SPDX-License-Identifier: BSD-2-Clause
// doctor.h - would it work here, and what would it cost: a report before anything is attached.
//
// examine() asks the machine, the rest is a function of the report.
#pragma once

#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "attach/calibrate.h"
#include "attach/kernel_features.h"
#include "attach/planner.h"
#include "symbols/frame_pointers.h"
#include "util/result.h"

namespace pgmemtrace {

struct DoctorOptions {
  std::string pid = "all"; // as the main job takes it
  std::string format = "text";
};

struct DoctorReport {
  struct Server {
    pid_t pid = 0; // the postmaster's
    int major = 0;
    std::string version, instance, data_directory, binary, build_id;
    std::size_t processes = 0;
    // Libraries of the postmaster whose code keeps none, by name.
    std::vector<std::string> without_frame_pointers;
    bool binary_replaced = false; // by an upgrade: it runs a file that has no name any more
  };
  struct Binary {
    std::string path, version, build_id;
    Plan plan;
    FramePointers frame_pointers;
    bool tells_answers = false;    // Binary::Globals::tell_answers()
    bool tells_statements = false; // ... tell_statements()
  };

  std::string selection; // DoctorOptions::pid
  KernelFeatures kernel;
  std::optional<Error> no_direct_reads; // why sweeps are made by process_vm_readv alone
  std::vector<Error> missing;
  std::vector<Server> servers;
  std::vector<Error> refused;         // servers and processes that cannot be read
  std::optional<Error> search_failed; // no servers at all, because of this
  std::vector<Binary> binaries;
  std::optional<Calibration> calibration;
  std::optional<Error> calibration_failed;
};

// Why the main job would not work; nothing if it would.
std::optional<std::string> obstacle(const DoctorReport &report);

void print_text(const DoctorReport &report, std::ostream &out);
void print_json(const DoctorReport &report, std::ostream &out); // one object, one line

// Attaches probes to our own process only.
DoctorReport examine(const std::string &selection);
int run_doctor(const DoctorOptions &options, std::ostream &out);

} // namespace pgmemtrace
