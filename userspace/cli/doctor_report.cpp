// SPDX-License-Identifier: BSD-2-Clause
// doctor_report.cpp - the report as text to read at night, and as JSON.
#include <algorithm>
#include <array>
#include <ostream>
#include <string_view>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <nlohmann/json.hpp>

#include "cli/doctor.h"

namespace pgmemtrace {
namespace {

using Row = std::vector<std::string>;

constexpr std::size_t kBuildIdShown = 12;

// Columns as wide as their longest cell; the last one is not padded.
void print_table(const std::vector<Row> &rows, std::ostream &out)
{
  std::vector<std::size_t> widths;
  for (const Row &row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i + 1 < row.size(); i++)
      widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row &row : rows) {
    out << "  ";
    for (std::size_t i = 0; i < row.size(); i++)
      if (i + 1 < row.size())
        fmt::print(out, "{:<{}}  ", row[i], widths[i]);
      else
        out << row[i];
    out << '\n';
  }
}

// Equal hints in a row are said once, behind the last of them.
void print_errors(const std::vector<Error> &errors, std::ostream &out)
{
  for (std::size_t i = 0; i < errors.size(); i++) {
    fmt::print(out, "  {}\n", to_string(errors[i]));
    const bool repeated = i + 1 < errors.size() && errors[i + 1].hint == errors[i].hint;
    if (!errors[i].hint.empty() && !repeated)
      fmt::print(out, "    hint: {}\n", errors[i].hint);
  }
}

std::string yes_no(bool value) { return value ? "yes" : "no"; }

std::string microseconds(double seconds) { return fmt::format("{:.2f} us", seconds * 1e6); }

// Of a kernel that has the one that we use: 6.3 and newer.
bool has_tracepoint(const DoctorReport &report)
{
  return report.calibration && report.calibration->send_seconds > 0;
}

// Is it seen by the kernel's tracepoint behind each send, and its site not probed?
bool is_answer(const DoctorReport &report, const DoctorReport::Binary &binary,
               const ProbeSite &site)
{
  return site.probe == PGMT_PROBE_SETTLE && binary.tells_answers && has_tracepoint(report);
}

// Are peaks seen by the clock, and not at the end of each statement?
bool is_sampled(const DoctorReport &report, const DoctorReport::Binary &binary)
{
  return binary.tells_statements && has_tracepoint(report);
}

// What a hit costs in a busy server; nothing before it was calibrated.
std::optional<double> seconds_per_hit(const DoctorReport &report,
                                      const DoctorReport::Binary &binary, const ProbeSite &site)
{
  if (!report.calibration)
    return std::nullopt;
  const Calibration &cost = *report.calibration;
  return kColdFactor * (is_answer(report, binary, site) ? cost.send_seconds
                        : site.emulated                 ? cost.emulated_seconds
                                                        : cost.stepped_seconds);
}

struct Named {
  const char *name;
  bool value;
};

std::array<Named, 5> features_of(const DoctorReport &report)
{
  const KernelFeatures &kernel = report.kernel;
  return {{{"btf", kernel.btf},
           {"uprobes", kernel.uprobes},
           {"uprobe_multi", kernel.uprobe_multi},
           {"bpf_loop", kernel.bpf_loop},
           {"task_storage", kernel.task_storage}}};
}

std::array<Named, 5> capabilities_of(const DoctorReport &report)
{
  const auto &have = report.kernel.capabilities;
  return {{{"CAP_BPF", have.bpf},
           {"CAP_PERFMON", have.perfmon},
           {"CAP_SYS_PTRACE", have.sys_ptrace},
           {"CAP_DAC_READ_SEARCH", have.dac_read_search},
           {"CAP_SYS_ADMIN", have.sys_admin}}};
}

void print_kernel(const DoctorReport &report, std::ostream &out)
{
  const KernelFeatures &kernel = report.kernel;
  const auto sysctl = [](int value) { return value < 0 ? "not there" : std::to_string(value); };
  fmt::print(out, "kernel {}\n", kernel.release);
  std::vector<Row> rows;
  for (const Named &feature : features_of(report))
    rows.push_back({feature.name, kernel.load_error != 0 && !feature.value
                                      ? "not known, or no"
                                      : yes_no(feature.value)});
  rows.push_back({"direct reads (sweep)",
                  report.no_direct_reads
                      ? "no, by process_vm_readv: " + to_string(*report.no_direct_reads)
                      : "yes"});
  rows.push_back({"unprivileged_bpf_disabled", sysctl(kernel.unprivileged_bpf_disabled)});
  rows.push_back({"yama.ptrace_scope", sysctl(kernel.yama_ptrace_scope)});
  print_table(rows, out);

  out << "\ncapabilities of this process\n";
  rows.clear();
  for (const Named &capability : capabilities_of(report))
    rows.push_back({capability.name, yes_no(capability.value)});
  rows.back().back() += " (stands in for CAP_BPF and CAP_PERFMON; not needed beside them)";
  print_table(rows, out);
  if (!report.missing.empty()) {
    out << "\nmissing\n";
    print_errors(report.missing, out);
  }
}

void print_servers(const DoctorReport &report, std::ostream &out)
{
  out << "\nservers\n";
  if (report.search_failed)
    print_errors({*report.search_failed}, out);
  else if (report.servers.empty() && report.refused.empty())
    out << "  none found\n";
  if (!report.servers.empty()) {
    std::vector<Row> rows{{"pid", "processes", "major", "layout", "build-id", "binary", "instance",
                           "data directory"}};
    for (const auto &server : report.servers)
      rows.push_back({std::to_string(server.pid), std::to_string(server.processes),
                      std::to_string(server.major), "ok", server.build_id.substr(0, kBuildIdShown),
                      server.binary, server.instance, server.data_directory});
    print_table(rows, out);
    for (const auto &server : report.servers)
      if (!server.without_frame_pointers.empty())
        fmt::print(out,
                   "  {}: {} of its libraries keep no frame pointers (--format json names them): "
                   "stacks through them are copied and unwound\n",
                   server.instance, server.without_frame_pointers.size());
    for (const auto &server : report.servers)
      if (server.binary_replaced)
        fmt::print(out,
                   "  {} was replaced since process {} began: the server runs the old file, and is "
                   "watched in it, until it restarts\n",
                   server.binary, server.pid);
  }
  if (!report.refused.empty()) {
    out << "\nrefused\n";
    print_errors(report.refused, out);
  }
}

// Copies of one build (containers, backups) have one plan.
const DoctorReport::Binary *same_build_before(const DoctorReport &report,
                                              const DoctorReport::Binary &binary)
{
  for (const auto &other : report.binaries) {
    if (&other == &binary)
      break;
    if (!binary.build_id.empty() && other.build_id == binary.build_id)
      return &other;
  }
  return nullptr;
}

// Other users of the probe's level do without it.
bool record_only(const ProbeSite &site) { return site.block && site.block->record_only; }

// Attached to the processes that need it, one by one: Attachments, Probes::attach_starts().
bool by_process(const ProbeSite &site)
{
  return site.probe == PGMT_PROBE_START || site.probe == PGMT_PROBE_END ||
         site.probe == PGMT_PROBE_UTILITY || site.probe == PGMT_PROBE_XACT;
}

std::string level_word(const ProbeSite &site)
{
  if (record_only(site))
    return "record";
  return fmt::format("{}{}", to_string(level_of(site.probe)), by_process(site) ? ", some" : "");
}

void print_plan(const DoctorReport &report, const DoctorReport::Binary &binary, std::ostream &out)
{
  fmt::print(out, "\nplan for {} {}, build-id {}\n", binary.path, binary.version,
             binary.build_id.substr(0, kBuildIdShown));
  if (const auto *same = same_build_before(report, binary)) {
    fmt::print(out, "  as for {}: the same build\n", same->path);
    return;
  }
  std::vector<Row> rows{
      {"probe", "from level", "site", "instruction", "kernel", "callers", "per hit"}};
  for (const ProbeSite &site : binary.plan.sites) {
    const auto cost = seconds_per_hit(report, binary, site);
    Row row{std::string(name_of(site.probe)),
            level_word(site),
            fmt::format("{}+{:#x}", site.function, site.displacement),
            site.instruction,
            site.emulated ? "emulates" : "single-steps, dear",
            site.callers ? std::to_string(site.callers) : "-",
            cost ? microseconds(*cost) : "not measured"};
    if (is_answer(report, binary, site)) {
      row[2] = "the answer's send";
      row[3] = row[5] = "-";
      row[4] = "tracepoint, no trap";
    }
    rows.push_back(std::move(row));
  }
  print_table(rows, out);
  for (const UnplacedProbe &probe : binary.plan.unplaced)
    fmt::print(out, "  not placed: {} at {}: {}\n", name_of(probe.probe), probe.function,
               probe.reason);
  out << (is_sampled(report, binary)
              ? "  peaks: sampled by the clock of each CPU, without a trap; start, end and utility "
                "are probed in processes that grow\n"
              : "  peaks: at the end of every statement; start and utility are probed in processes "
                "that grow\n");
  if (const auto &kept = binary.frame_pointers; kept.functions > 0)
    fmt::print(out, "  frame pointers: {} ({} of {} functions looked at keep them); {}\n",
               yes_no(kept.kept()), kept.keeping, kept.functions,
               kept.kept() ? "stacks are walked" : "stacks are copied and unwound");
}

void print_costs(const DoctorReport &report, std::ostream &out)
{
  out << "\ncost of a probe hit with an empty program\n";
  if (report.calibration) {
    const Calibration &cost = *report.calibration;
    const auto row = [&](const char *name, double seconds) {
      return Row{name, microseconds(seconds), microseconds(seconds * kColdFactor)};
    };
    print_table(
        {{"instruction", "measured now", fmt::format("with cold caches (x{})", kColdFactor)},
         row("emulated", cost.emulated_seconds),
         row("single-stepped", cost.stepped_seconds),
         cost.send_seconds > 0
             ? row("none: behind a send", cost.send_seconds)
             : Row{"none: behind a send", "this kernel has no tracepoint there", ""}},
        out);
  } else if (report.calibration_failed) {
    print_errors({*report.calibration_failed}, out);
  } else {
    out << "  not measured: BPF programs cannot be loaded\n";
  }
}

using json = nlohmann::ordered_json; // a reader looks for the verdict first

json error_json(const Error &error)
{
  return {{"what", error.what},
          {"error", error.err == 0 ? json() : json(std::generic_category().message(error.err))},
          {"hint", error.hint.empty() ? json() : json(error.hint)}};
}

template <typename T, typename F> json array_of(const std::vector<T> &values, F to_json)
{
  json out = json::array();
  for (const T &value : values)
    out.push_back(to_json(value));
  return out;
}

json optional_number(const std::optional<double> &value) { return value ? json(*value) : json(); }

json plan_json(const DoctorReport &report, const DoctorReport::Binary &binary)
{
  const auto probe = [](pgmt_probe which, const std::string &function, bool placed) {
    return json{{"probe", name_of(which)},
                {"level", to_string(level_of(which))},
                {"function", function},
                {"placed", placed}};
  };
  json probes = json::array();
  for (const ProbeSite &site : binary.plan.sites) {
    json out = probe(site.probe, site.function, true);
    out.update(
        {{"record_only", record_only(site)},
         {"displacement", site.displacement},
         {"address", site.address},
         {"file_offset", site.file_offset},
         {"instruction", site.instruction},
         {"emulated", site.emulated},
         {"callers", site.callers},
         {"tracepoint", is_answer(report, binary, site) ? json(PGMT_ANSWER_TRACEPOINT) : json()},
         {"seconds_per_hit", optional_number(seconds_per_hit(report, binary, site))}});
    probes.push_back(std::move(out));
  }
  for (const UnplacedProbe &unplaced : binary.plan.unplaced) {
    json out = probe(unplaced.probe, unplaced.function, false);
    out["reason"] = unplaced.reason;
    probes.push_back(std::move(out));
  }
  return {{"path", binary.path},
          {"version", binary.version},
          {"build_id", binary.build_id},
          {"frame_pointers",
           binary.frame_pointers.functions == 0 ? json() : json(binary.frame_pointers.kept())},
          {"samples", is_sampled(report, binary)},
          {"probes", std::move(probes)}};
}

json kernel_json(const DoctorReport &report)
{
  const KernelFeatures &kernel = report.kernel;
  const auto number = [](int value) { return value < 0 ? json() : json(value); };
  json out{{"release", kernel.release},
           {"unprivileged_bpf_disabled", number(kernel.unprivileged_bpf_disabled)},
           {"yama_ptrace_scope", number(kernel.yama_ptrace_scope)}};
  for (const Named &feature : features_of(report))
    out[feature.name] = feature.value;
  out["direct_reads"] = !report.no_direct_reads;
  return out;
}

json server_json(const DoctorReport::Server &server)
{
  return {{"pid", server.pid},
          {"major", server.major},
          {"version", server.version},
          {"instance", server.instance},
          {"data_directory", server.data_directory},
          {"binary", server.binary},
          {"build_id", server.build_id},
          {"binary_replaced", server.binary_replaced},
          {"without_frame_pointers", server.without_frame_pointers},
          {"processes", server.processes}};
}

} // namespace

std::optional<std::string> obstacle(const DoctorReport &report)
{
  const auto first = [](const std::string &text, std::size_t others) {
    return others == 0 ? text : text + ", and " + std::to_string(others) + " more";
  };
  if (!report.missing.empty())
    return first(to_string(report.missing.front()), report.missing.size() - 1);
  if (report.search_failed)
    return to_string(*report.search_failed);
  if (report.servers.empty() && !report.refused.empty())
    return first(to_string(report.refused.front()), report.refused.size() - 1);
  if (report.servers.empty())
    return "no PostgreSQL server is running";
  if (report.calibration_failed)
    return to_string(*report.calibration_failed);
  return std::nullopt;
}

void print_text(const DoctorReport &report, std::ostream &out)
{
  print_kernel(report, out);
  print_servers(report, out);
  for (const auto &binary : report.binaries)
    print_plan(report, binary, out);
  print_costs(report, out);
  const auto reason = obstacle(report);
  fmt::print(out, "\npgmemtrace --pid {} would work: {}\n", report.selection,
             reason ? fmt::format("no ({})", *reason) : "yes");
}

void print_json(const DoctorReport &report, std::ostream &out)
{
  json capabilities = json::object();
  for (const Named &capability : capabilities_of(report))
    capabilities[capability.name] = capability.value;
  json calibration;
  if (report.calibration)
    calibration = {{"emulated_seconds", report.calibration->emulated_seconds},
                   {"stepped_seconds", report.calibration->stepped_seconds},
                   {"send_seconds", report.calibration->send_seconds > 0
                                        ? json(report.calibration->send_seconds)
                                        : json()},
                   {"cold_factor", kColdFactor}};
  std::vector<Error> failures;
  for (const auto &failure : {report.search_failed, report.calibration_failed})
    if (failure)
      failures.push_back(*failure);
  const auto reason = obstacle(report);
  const json object{
      {"type", "doctor"},
      {"selection", report.selection},
      {"works", !reason},
      {"reason", reason ? json(*reason) : json()},
      {"kernel", kernel_json(report)},
      {"capabilities", std::move(capabilities)},
      {"missing", array_of(report.missing, error_json)},
      {"failures", array_of(failures, error_json)},
      {"servers", array_of(report.servers, server_json)},
      {"refused", array_of(report.refused, error_json)},
      {"binaries",
       array_of(report.binaries, [&](const auto &binary) { return plan_json(report, binary); })},
      {"calibration", std::move(calibration)}};
  // Names come from foreign memory and need not be UTF-8.
  out << object.dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
}

} // namespace pgmemtrace
