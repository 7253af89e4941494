// SPDX-License-Identifier: BSD-2-Clause
// proc.cpp - parsers of proc(5).
#include "attach/proc.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <elf.h>
#include <memory>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/file.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kSmallFile = 64 << 10;
constexpr std::size_t kMapsFile = 16 << 20; // 65,530 mappings (vm.max_map_count) at 150 bytes
constexpr std::size_t kChildrenFile = 1 << 20;

template <typename T> std::optional<T> number(std::string_view text, int base = 10)
{
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size())
    return std::nullopt;
  return value;
}

// The next word, which is taken off `text`.
std::string_view take_word(std::string_view &text)
{
  text.remove_prefix(std::min(text.find_first_not_of(" \t\n"), text.size()));
  const auto word = text.substr(0, text.find_first_of(" \t\n"));
  text.remove_prefix(word.size());
  return word;
}

std::string_view take_line(std::string_view &text)
{
  const auto line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  return line;
}

// Some of these files lie in directories that others write to: a pipe must not keep us.
constexpr int kRead = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

// At most `limit` bytes of a file, if it could be opened.
std::optional<std::string> read_all(const UniqueFd &fd, std::size_t limit)
{
  if (!fd)
    return std::nullopt;
  std::string text;
  std::array<char, 4096> step;
  ssize_t got = 0;
  while (text.size() < limit &&
         ((got = read(fd.get(), step.data(), step.size())) > 0 || (got < 0 && errno == EINTR)))
    if (got > 0)
      text.append(step.data(), static_cast<std::size_t>(got));
  if (got < 0)
    return std::nullopt; // ESRCH: gone while we read
  if (text.size() > limit)
    text.resize(limit);
  return text;
}

std::optional<std::string> read_file(const std::string &path, std::size_t limit)
{
  return read_all(UniqueFd(open(path.c_str(), kRead | O_NOFOLLOW)), limit);
}

std::optional<std::string> read_link(const std::string &path)
{
  std::array<char, PATH_MAX> target;
  const ssize_t got = readlink(path.c_str(), target.data(), target.size());
  if (got < 0)
    return std::nullopt;
  return std::string(target.data(), static_cast<std::size_t>(got));
}

// "7f0c5e600000-7f0c5e7a0000 r-xp 00028000 fe:01 1316 /usr/lib/libc.so.6"
std::optional<Proc::Mapping> parse_mapping(std::string_view line)
{
  const auto range = take_word(line);
  const auto dash = range.find('-');
  if (dash == std::string_view::npos)
    return std::nullopt;
  const auto start = number<std::uint64_t>(range.substr(0, dash), 16);
  const auto end = number<std::uint64_t>(range.substr(dash + 1), 16);
  const auto permissions = take_word(line);
  const auto offset = number<std::uint64_t>(take_word(line), 16);
  take_word(line); // device
  const auto inode = number<std::uint64_t>(take_word(line));
  if (!start || !end || !offset || !inode)
    return std::nullopt;
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  constexpr std::string_view kDeleted = " (deleted)";
  if (line.ends_with(kDeleted))
    line.remove_suffix(kDeleted.size());
  return Proc::Mapping{
      *start,           *end, *offset, *inode, permissions.find('x') != std::string_view::npos,
      std::string(line)};
}

// "VmSwap:      12 kB"
std::optional<std::uint64_t> kilobytes(std::string_view line)
{
  const auto value = number<std::uint64_t>(take_word(line));
  if (!value || *value > UINT64_MAX / 1024)
    return std::nullopt;
  return *value * 1024;
}

} // namespace

std::filesystem::path Proc::path(pid_t pid, std::string_view entry) const
{
  return root_ / std::to_string(pid) / entry;
}

std::vector<pid_t> Proc::pids() const
{
  std::vector<pid_t> found;
  const std::unique_ptr<DIR, int (*)(DIR *)> directory(opendir(root_.c_str()), closedir);
  if (!directory)
    return found;
  while (const dirent *entry = readdir(directory.get()))
    if (const auto pid = number<pid_t>(entry->d_name); pid && *pid > 0)
      found.push_back(*pid);
  return found;
}

std::optional<Proc::Stat> Proc::stat(pid_t pid) const
{
  const auto text = read_file(path(pid, "stat"), kSmallFile);
  if (!text)
    return std::nullopt;
  // The command may hold anything, also ") R 1": the last parenthesis ends it.
  const auto command_end = text->rfind(')');
  if (command_end == std::string::npos)
    return std::nullopt;
  std::string_view rest = std::string_view(*text).substr(command_end + 1);
  std::array<std::string_view, 20> fields; // [0] is field 3 of proc(5), the state
  for (auto &field : fields)
    field = take_word(rest);

  const auto ppid = number<pid_t>(fields[1]);
  const auto start = number<std::uint64_t>(fields[19]);
  std::array<std::uint64_t, 4> ticks{}; // utime, stime, cutime, cstime
  for (std::size_t i = 0; i < ticks.size(); ++i) {
    const auto value = number<std::int64_t>(fields[11 + i]);
    if (!value || *value < 0)
      return std::nullopt;
    ticks[i] = static_cast<std::uint64_t>(*value);
  }
  if (fields[0].empty() || !ppid || !start)
    return std::nullopt;
  return Stat{*ppid, fields[0][0], *start, ticks[0] + ticks[1], ticks[2] + ticks[3]};
}

std::optional<Proc::Memory> Proc::memory(pid_t pid) const
{
  const auto text = read_file(path(pid, "status"), kSmallFile);
  if (!text)
    return std::nullopt;
  Memory memory;
  bool found = false; // a zombie has no memory lines
  for (std::string_view rest = *text; !rest.empty();) {
    auto line = take_line(rest);
    const auto key = take_word(line);
    const auto value = key == "RssAnon:" || key == "VmSwap:" ? kilobytes(line) : std::nullopt;
    if (!value)
      continue;
    (key == "RssAnon:" ? memory.anon_bytes : memory.swap_bytes) = *value;
    found = true;
  }
  return found ? std::optional(memory) : std::nullopt;
}

std::optional<std::vector<Proc::Mapping>> Proc::maps(pid_t pid) const
{
  const auto text = read_file(path(pid, "maps"), kMapsFile);
  if (!text)
    return std::nullopt;
  std::vector<Mapping> mappings;
  for (std::string_view rest = *text; !rest.empty();)
    if (auto mapping = parse_mapping(take_line(rest)))
      mappings.push_back(std::move(*mapping));
  return mappings;
}

std::optional<pid_t> Proc::namespace_pid(pid_t pid) const
{
  const auto text = read_file(path(pid, "status"), kSmallFile);
  if (!text)
    return std::nullopt;
  for (std::string_view rest = *text; !rest.empty();) {
    auto line = take_line(rest);
    if (take_word(line) != "NSpid:")
      continue;
    std::optional<pid_t> last;
    for (auto word = take_word(line); !word.empty(); word = take_word(line))
      last = number<pid_t>(word);
    return last;
  }
  return pid; // a kernel without pid namespaces
}

std::optional<std::string> Proc::exe(pid_t pid) const { return read_link(path(pid, "exe")); }

std::optional<std::string> Proc::cwd(pid_t pid) const { return read_link(path(pid, "cwd")); }

Proc::File Proc::file(const struct ::stat &st)
{
  return {st.st_dev, st.st_ino, static_cast<std::uint64_t>(st.st_size),
          st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec};
}

Result<Proc::File> Proc::executable(pid_t pid) const
{
  struct stat st {};
  const auto link = path(pid, "exe");
  if (::stat(link.c_str(), &st) != 0)
    return Error{"look at " + link.string(), errno, {}};
  return file(st);
}

std::optional<std::vector<pid_t>> Proc::children(pid_t pid) const
{
  const auto text =
      read_file(path(pid, "task/" + std::to_string(pid) + "/children"), kChildrenFile);
  if (!text)
    return std::nullopt;
  std::vector<pid_t> found;
  std::string_view rest = *text;
  for (auto word = take_word(rest); !word.empty(); word = take_word(rest))
    if (const auto child = number<pid_t>(word))
      found.push_back(*child);
  return found;
}

std::optional<std::uint64_t> Proc::entry_address(pid_t pid) const
{
  const auto bytes = read_file(path(pid, "auxv"), kSmallFile);
  if (!bytes)
    return std::nullopt;
  for (std::size_t at = 0; at + sizeof(Elf64_auxv_t) <= bytes->size(); at += sizeof(Elf64_auxv_t)) {
    Elf64_auxv_t entry;
    std::memcpy(&entry, bytes->data() + at, sizeof entry);
    if (entry.a_type == AT_ENTRY)
      return entry.a_un.a_val;
  }
  return std::nullopt;
}

std::optional<std::string> Proc::cmdline(pid_t pid) const
{
  auto text = read_file(path(pid, "cmdline"), kSmallFile);
  if (!text)
    return std::nullopt;
  while (!text->empty() && text->back() == '\0')
    text->pop_back();
  std::replace(text->begin(), text->end(), '\0', ' ');
  return text;
}

std::optional<std::string> Proc::text(pid_t pid, std::string_view entry) const
{
  return read_file(path(pid, entry), kSmallFile);
}

std::optional<std::string> Proc::text_in_root(pid_t pid, const std::string &file) const
{
  const UniqueFd root(open(path(pid, "root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root)
    return std::nullopt;
  return read_all(open_rooted(root.get(), file, kRead), kSmallFile);
}

std::optional<std::string> Proc::setting(std::string_view name) const
{
  auto text = read_file(root_ / "sys" / name, kSmallFile);
  while (text && !text->empty() && text->back() == '\n')
    text->pop_back();
  return text;
}

bool jit_loaded(const std::vector<Proc::Mapping> &mappings)
{
  return std::ranges::any_of(mappings, [](const Proc::Mapping &mapping) {
    return mapping.path.find("llvmjit") != std::string::npos;
  });
}

} // namespace pgmemtrace
