// SPDX-License-Identifier: BSD-2-Clause
// doctor.cpp - the command: ask, print, and say by the exit status whether it would work.
#include "cli/doctor.h"

#include <cerrno>
#include <iostream>
#include <map>
#include <set>

#include <bpf/libbpf.h>

#include "attach/direct_map.h"
#include "attach/identify.h"
#include "attach/rooted_file.h"
#include "attach/servers.h"
#include "cli/commands.h"

namespace pgmemtrace {
namespace {

// Extensions that sessions load later are not among them.
std::vector<std::string> libraries_without_frame_pointers(pid_t postmaster)
{
  std::set<std::string> paths;
  for (const auto &mapping : Proc().maps(postmaster).value_or(std::vector<Proc::Mapping>()))
    if (mapping.executable && mapping.inode != 0)
      paths.insert(mapping.path);
  std::vector<std::string> without;
  const auto root = "/proc/" + std::to_string(postmaster) + "/root";
  for (const auto &path : paths) {
    const auto file = open_in_root(root, path);
    const auto elf = file ? ElfFile::open(file->path()) : Result<ElfFile>(Error{path, ENOENT});
    if (elf && !frame_pointers(*elf).kept())
      without.push_back(path.substr(path.rfind('/') + 1));
  }
  return without;
}

void examine_servers(const Selection &selection, DoctorReport &report)
{
  ServerList::Options options;
  options.selection = selection;
  auto list = ServerList::find(std::move(options));
  if (!list) {
    report.search_failed = list.error();
    return;
  }
  report.refused = list->refresh().refused;

  std::map<pid_t, std::size_t> processes;
  for (const auto &[id, process] : list->processes())
    processes[process.identity.postmaster]++;
  for (const auto &[pid, server] : list->servers())
    report.servers.push_back({.pid = pid,
                              .major = server.binary->major,
                              .version = server.binary->version,
                              .instance = server.instance,
                              .data_directory = server.data_directory,
                              .binary = server.binary->path,
                              .build_id = server.binary->build_id,
                              .processes = processes[pid],
                              .without_frame_pointers = libraries_without_frame_pointers(pid),
                              .binary_replaced = is_deleted(Proc().exe(pid).value_or(""))});
  for (const auto &binary : list->binaries())
    report.binaries.push_back({binary->path, binary->version, binary->build_id,
                               plan_probes(*binary->elf), frame_pointers(*binary->elf),
                               binary->globals.tell_answers(), binary->globals.tell_statements()});
}

} // namespace

DoctorReport examine(const std::string &selection)
{
  DoctorReport report;
  report.selection = selection;
  report.kernel = detect_kernel_features();
  report.missing = missing(report.kernel);
  if (auto direct = DirectMap::load(); !direct)
    report.no_direct_reads = direct.error();
  if (auto parsed = parse_selection(selection))
    examine_servers(*parsed, report);
  else
    report.search_failed = parsed.error();
  if (report.kernel.load_error != 0)
    return report; // calibration would only repeat it
  if (auto measured = calibrate())
    report.calibration = *measured;
  else
    report.calibration_failed = measured.error();
  return report;
}

int run_doctor(const DoctorOptions &options, std::ostream &out)
{
  if (auto selection = parse_selection(options.pid); !selection) {
    fail(selection.error());
    return kUsage;
  }
  libbpf_set_print(nullptr); // what it would say is in the report
  const DoctorReport report = examine(options.pid);
  if (options.format == "json")
    print_json(report, out);
  else
    print_text(report, out);
  return obstacle(report) ? kCannotRun : kFine;
}

void add_doctor_command(CLI::App &app, int &exit_status)
{
  auto options = std::make_shared<DoctorOptions>();
  CLI::App *command = app.add_subcommand(
      "doctor", "Say whether the main job would work here: kernel, capabilities, servers found, "
                "probe plan, cost of a hit");
  command->add_option("--pid", options->pid, "all, or PID[,PID...]; a postmaster's: its server")
      ->capture_default_str();
  command->add_option("--format", options->format)
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  command->callback([options, &exit_status] { exit_status = run_doctor(*options, std::cout); });
}

} // namespace pgmemtrace
