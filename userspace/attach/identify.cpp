// SPDX-License-Identifier: BSD-2-Clause
// identify.cpp - what makes a process a server process, and which one.
#include "attach/identify.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <string_view>

#include <sys/stat.h>
#include <unistd.h>

#include "attach/static_variable.h"

namespace pgmemtrace {

namespace {

// Names are at most NAMEDDATALEN - 1 bytes; builds may raise it.
constexpr std::size_t kMaxName = 255;

constexpr std::string_view kDeleted = " (deleted)";

// The leading number of "15.20 (Debian ...)", "17rc1", "15\n"; 0 if there is none.
int leading_number(std::string_view text)
{
  int value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// "15.20 (Debian 15.20-0+deb12u1)", from the answer to `postgres --version`
// (PG_BACKEND_VERSIONSTR) or else to version() (PG_VERSION_STR).
std::optional<std::string> version_of(const ElfFile &elf)
{
  constexpr std::string_view kBackend = "postgres (PostgreSQL) ";
  if (auto text = elf.find_string(kBackend)) {
    text->erase(0, kBackend.size());
    text->erase(std::min(text->find('\n'), text->size()));
    return text;
  }
  constexpr std::string_view kServer = "PostgreSQL ";
  if (auto text = elf.find_string("PostgreSQL 1")) {
    text->erase(0, kServer.size());
    text->erase(std::min(text->find(" on "), text->size()));
    return text;
  }
  return std::nullopt;
}

// Static in pgstat.c up to 13.  What reports to it there begins with loading it.
std::uint64_t status_entry_of(const ElfFile &elf)
{
  if (const auto symbol = elf.object("MyBEEntry"))
    return symbol->address;
  const auto found = find_variable(
      elf, "MyBEEntry",
      {"pgstat_report_activity", "pgstat_report_appname", "pgstat_report_xact_timestamp"},
      VariableUse::Kind::load, ElfFile::Storage::zeroed);
  return found ? *found : 0;
}

Binary::Globals globals_of(const ElfFile &elf)
{
  const auto at = [&](const char *name) {
    const auto symbol = elf.object(name);
    return symbol ? symbol->address : 0;
  };
  Binary::Globals globals{};
  globals.top_memory_context = at("TopMemoryContext");
  globals.cache_memory_context = at("CacheMemoryContext");
  globals.error_context = at("ErrorContext");
  globals.top_transaction_context = at("TopTransactionContext");
  globals.my_proc_pid = at("MyProcPid");
  globals.my_backend_type = at("MyBackendType");
  globals.my_be_entry = status_entry_of(elf);
  globals.my_proc_port = at("MyProcPort");
  globals.cluster_name = at("cluster_name");
  globals.work_mem = at("work_mem");
  globals.hash_mem_multiplier = at("hash_mem_multiplier");
  globals.parallel_worker_number = at("ParallelWorkerNumber");
  globals.my_bgworker_entry = at("MyBgworkerEntry");
  globals.message_context = at("MessageContext");
  globals.portal_context = at("PortalContext");
  globals.current_memory_context = at("CurrentMemoryContext");
  globals.debug_query_string = at("debug_query_string");
  return globals;
}

std::string_view line_of(std::string_view text, int number)
{
  for (; number > 1; --number)
    text.remove_prefix(std::min(text.size(), text.find('\n')) == text.size() ? text.size()
                                                                             : text.find('\n') + 1);
  return text.substr(0, text.find('\n'));
}

// process_vm_readv asks for the right to trace (PTRACE_MODE_ATTACH).
Error not_readable(const Error &error, pid_t pid, const Proc &proc)
{
  Error told{"read the memory of process " + std::to_string(pid), error.err, {}};
  if (error.err != EPERM)
    return told;
  const auto scope = proc.setting("kernel/yama/ptrace_scope");
  if (scope && leading_number(*scope) >= 3)
    told.hint = "kernel.yama.ptrace_scope is " + *scope +
                ": nobody may read another process's memory until the next boot with a lower value";
  else
    told.hint = "CAP_SYS_PTRACE is missing: run as root, or grant it" +
                (scope ? " (kernel.yama.ptrace_scope is " + *scope + ", which allows it then)"
                       : std::string());
  return told;
}

// A pointer variable of the process, and then what it points to.
template <typename T>
std::optional<T> global(ForeignMemory &memory, std::uint64_t load_bias, std::uint64_t address)
{
  if (address == 0)
    return std::nullopt;
  return memory.read_value<T>(load_bias + address);
}

std::optional<std::string> string_at(ForeignMemory &memory, std::uint64_t variable)
{
  const auto address = memory.read_value<std::uint64_t>(variable);
  if (!address || *address == 0)
    return std::nullopt;
  return memory.read_string(*address, kMaxName);
}

// bgw_type of core's own workers.  Extensions choose theirs freely: all one word here,
// since this becomes a metric label.
std::string worker_type(ForeignMemory &memory, const ServerProcess &process)
{
  constexpr std::array<std::string_view, 6> kCore{
      "parallel worker",
      "logical replication launcher",
      "logical replication worker",
      "logical replication apply worker",
      "logical replication tablesync worker",
      "logical replication parallel worker",
  };
  const Binary &binary = *process.binary;
  const auto &bgworker = binary.layout.bgworker;
  const auto entry =
      global<std::uint64_t>(memory, process.load_bias, binary.globals.my_bgworker_entry);
  if (entry && *entry != 0) {
    const auto type = memory.read_string(*entry + bgworker.type,
                                         std::min<std::size_t>(bgworker.type_size, kMaxName));
    if (type && std::find(kCore.begin(), kCore.end(), *type) != kCore.end())
      return *type;
  }
  const auto parallel =
      global<std::int32_t>(memory, process.load_bias, binary.globals.parallel_worker_number);
  return parallel.value_or(-1) >= 0 ? "parallel worker" : "background worker";
}

// cluster_name of a server, read from its memory; empty if it has none.
std::string cluster_name(ForeignMemory &memory, const Server &server)
{
  const std::uint64_t variable = server.binary->globals.cluster_name;
  auto name = variable == 0 ? std::nullopt : string_at(memory, server.load_bias + variable);
  if (!name)
    return {};
  // The server allows printable ASCII only; whoever runs it may not.
  std::replace_if(
      name->begin(), name->end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return *name;
}

// A container's host name, by which its users know it.  Whoever runs the container wrote the
// file, and this becomes a metric label.
std::string container_name(const Proc &proc, pid_t pid)
{
  constexpr std::size_t kMaxHostName = 64; // HOST_NAME_MAX
  struct stat ours {};
  struct stat theirs {};
  if (stat("/", &ours) != 0 || stat(proc.path(pid, "root").c_str(), &theirs) != 0 ||
      (ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino))
    return {};
  const std::string text = proc.text_in_root(pid, "etc/hostname").value_or("");
  const std::string name(line_of(text, 1));
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.' || c == '_';
  });
  std::array<char, kMaxHostName + 1> host{};
  gethostname(host.data(), kMaxHostName);
  const bool usable = plain && name.size() <= kMaxHostName && name != host.data();
  return usable ? name : std::string(); // a chroot often has its host's name
}

Error layout_error(pid_t pid, const Binary &binary, const std::string &why)
{
  return Error{"check the memory layout of process " + std::to_string(pid) + " (PostgreSQL " +
                   binary.version + "): " + why,
               0,
               "this build is laid out differently; give its own layout with --postgres-btf FILE"};
}

} // namespace

bool is_deleted(std::string_view path) { return path.ends_with(kDeleted); }

std::string without_deleted(std::string path)
{
  if (is_deleted(path))
    path.erase(path.size() - kDeleted.size());
  return path;
}

Result<std::unique_ptr<Binary>> open_binary(const Proc &proc, pid_t pid, const Proc::File &file,
                                            const std::string &postgres_btf)
{
  // Not by its path: that may be of another mount namespace, deleted or replaced.
  const std::string open_path = proc.path(pid, "exe").string();
  auto elf = ElfFile::open(open_path);
  if (!elf && elf.error().err == EACCES)
    return Error{elf.error().what, EACCES, "run as root, or grant CAP_DAC_READ_SEARCH"};
  // The process may have ended or called exec: then this says nothing about `file`.
  const auto still = proc.executable(pid);
  if (!still || *still != file)
    return Error{"look at process " + std::to_string(pid), ESRCH, {}};
  if (!elf || !elf->exports("PostmasterMain") || !elf->exports("TopMemoryContext"))
    return std::unique_ptr<Binary>();

  auto binary = std::make_unique<Binary>();
  binary->device = file.device;
  binary->inode = file.inode;
  binary->build_id = elf->build_id();
  binary->path = without_deleted(proc.exe(pid).value_or(open_path));
  binary->open_path = open_path;
  const auto version = version_of(*elf);
  if (!version || leading_number(*version) == 0)
    return Error{"use " + binary->path + ": it looks like PostgreSQL but has no version", 0, {}};
  binary->version = *version;
  binary->major = leading_number(*version);
  // A function that only such a build has, in every major (utils/memutils.h).
  const bool checking = elf->exports("MemoryContextCheck");
  auto layout = load_layout(binary->major, checking, postgres_btf);
  if (!layout)
    return Error{"use " + binary->path + ": " + layout.error().what, layout.error().err,
                 layout.error().hint};
  binary->layout = std::move(*layout);
  binary->globals = globals_of(*elf);
  binary->dsm_variables = find_dsm_variables(*elf);
  binary->elf = std::make_shared<const ElfFile>(std::move(*elf));
  return binary;
}

Result<std::optional<Server>> read_server(const Proc &proc, pid_t pid, const Binary &binary)
{
  using NoServer = std::optional<Server>;
  const auto stat = proc.stat(pid);
  const auto pid_file = proc.text(pid, "cwd/postmaster.pid");
  if (!stat || !pid_file || leading_number(*pid_file) <= 0 ||
      leading_number(*pid_file) != proc.namespace_pid(pid))
    return NoServer();

  Server server;
  server.postmaster = pid;
  server.start = stat->start;
  server.data_directory = proc.cwd(pid).value_or("");
  server.port = leading_number(line_of(*pid_file, 4));
  server.binary = &binary;

  const auto version_file = proc.text(pid, "cwd/PG_VERSION");
  const int major = version_file ? leading_number(*version_file) : 0;
  if (major != binary.major)
    return Error{
        "use the server of process " + std::to_string(pid) + ": its executable is " +
            binary.version + ", its data directory " + server.data_directory +
            (major == 0 ? " has no PG_VERSION" : " of PostgreSQL " + std::to_string(major)),
        0,
        {}};
  const auto entry = proc.entry_address(pid);
  if (!entry)
    return Error{"find where process " + std::to_string(pid) + " is loaded: cannot read " +
                     proc.path(pid, "auxv").string(),
                 0, "run as root, or grant CAP_SYS_PTRACE"};
  server.load_bias = *entry - binary.elf->entry_address();
  if (auto checked = check_layout(pid, binary, server.load_bias, proc); !checked)
    return checked.error();
  return std::optional(std::move(server));
}

ServerName name_of(const Proc &proc, const Server &server)
{
  ServerName name{.port = server.port,
                  .data_directory = server.data_directory,
                  .container = container_name(proc, server.postmaster),
                  .postmaster = server.postmaster};
  ForeignMemory memory(server.postmaster);
  name.cluster_name = cluster_name(memory, server);
  struct stat directory {};
  if (stat(proc.path(server.postmaster, "cwd").c_str(), &directory) == 0) {
    name.device = directory.st_dev;
    name.inode = directory.st_ino;
  }
  return name;
}

bool read_identity(ForeignMemory &memory, ServerProcess &process)
{
  const Binary &binary = *process.binary;
  auto &identity = process.identity;
  if (identity.id.pid == identity.postmaster) {
    identity.backend_type = "postmaster";
    return true;
  }
  const auto type =
      global<std::uint32_t>(memory, process.load_bias, binary.globals.my_backend_type);
  const auto &types = binary.layout.backend_types;
  if (!type || *type == 0 || *type >= types.size())
    return false;
  identity.backend_type = types[*type];
  if (identity.backend_type == "background worker")
    identity.backend_type = worker_type(memory, process);
  if (identity.backend_type != "client backend" && identity.backend_type != "walsender")
    return true;

  const auto port = global<std::uint64_t>(memory, process.load_bias, binary.globals.my_proc_port);
  if (!port || *port == 0)
    return false;
  identity.database = string_at(memory, *port + binary.layout.port.database_name).value_or("");
  identity.user = string_at(memory, *port + binary.layout.port.user_name).value_or("");
  return !identity.user.empty(); // a physical walsender has no database
}

Result<> check_layout(pid_t pid, const Binary &binary, std::uint64_t load_bias, const Proc &proc)
{
  const auto &fields = binary.layout.context;
  ForeignMemory memory(pid);
  std::uint64_t top = 0;
  ForeignMemory::Piece variable{load_bias + binary.globals.top_memory_context,
                                std::as_writable_bytes(std::span(&top, 1))};
  if (auto read = memory.read(std::span(&variable, 1)); !read)
    return not_readable(read.error(), pid, proc);
  if (!variable.ok)
    return layout_error(pid, binary, "the variable TopMemoryContext is not where it should be");
  if (top == 0)
    return layout_error(pid, binary, "it has no TopMemoryContext (yet)");

  const auto tag = memory.read_value<std::uint32_t>(top + fields.type);
  const auto parent = memory.read_value<std::uint64_t>(top + fields.parent);
  const auto name = string_at(memory, top + fields.name);
  if (!tag || !parent || !name)
    return layout_error(pid, binary, "TopMemoryContext cannot be read");
  if (binary.layout.type_of_tag(*tag) != ContextType::alloc_set)
    return layout_error(pid, binary,
                        "TopMemoryContext has the tag " + std::to_string(*tag) + ", not " +
                            std::to_string(binary.layout.tag.aset));
  if (*parent != 0)
    return layout_error(pid, binary, "TopMemoryContext has a parent");
  if (*name != "TopMemoryContext")
    return layout_error(pid, binary, "the name of TopMemoryContext reads otherwise");
  return Ok{};
}

} // namespace pgmemtrace
