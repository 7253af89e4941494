// SPDX-License-Identifier: BSD-2-Clause
// module_cache.cpp - finding the file that a process has mapped, and keeping what was read of it.
#include "symbols/module_cache.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "symbols/debuginfod.h"
#include "util/foreign_memory.h"

namespace pgmemtrace {

namespace {

constexpr std::uint64_t kMaxVdso = 64 << 10;

// Every process of a kernel has the same one; ours needs no trust in another's memory.
std::optional<UniqueFd> own_vdso(const Proc &proc)
{
  const std::uint64_t start = getauxval(AT_SYSINFO_EHDR);
  const auto mappings = proc.maps(getpid());
  if (!mappings)
    return std::nullopt;
  const auto mapping = std::ranges::find(*mappings, start, &Proc::Mapping::start);
  UniqueFd file(memfd_create("vdso", MFD_CLOEXEC));
  if (mapping == mappings->end() || mapping->end - start > kMaxVdso || !file)
    return std::nullopt;
  std::vector<std::byte> image(static_cast<std::size_t>(mapping->end - start));
  if (!ForeignMemory(getpid()).read_bytes(start, image) ||
      write(file.get(), image.data(), image.size()) != static_cast<ssize_t>(image.size()))
    return std::nullopt;
  return file;
}

} // namespace

ModuleCache::ModuleCache(Proc proc, Limits limits, DebugFilePlaces places)
    : proc_(std::move(proc)), limits_(limits), places_(std::move(places))
{
}

std::optional<ModuleCache::Opened> ModuleCache::of_process(pid_t pid, const ProcessMaps &maps,
                                                           const ProcessMaps::Region &region)
{
  const auto &module = maps.modules[region.module];
  if (module.path == kVdso)
    return vdso(module.build_id);
  if (module.inode == 0)
    return std::nullopt;

  const auto root = proc_.path(pid, "root").string();
  const auto try_file = [&](std::optional<RootedFile> file) -> std::optional<Opened> {
    if (!file || (module.build_id.empty() && file->identity().inode != module.inode))
      return std::nullopt;
    return open(*file, {module.path, module.build_id}, root);
  };
  // /proc/PID/exe and map_files lead to the file itself, deleted or not; the latter asks for
  // CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
  if (const auto exe = proc_.exe(pid); exe && exe->starts_with(module.path))
    if (auto found = try_file(open_link(proc_.path(pid, "exe").string())))
      return found;
  const auto range = fmt::format("map_files/{:x}-{:x}", region.start, region.end);
  if (auto found = try_file(open_link(proc_.path(pid, range).string())))
    return found;
  return try_file(open_in_root(root, module.path));
}

std::optional<ModuleCache::Opened> ModuleCache::of_recording(const CodeAddress &code)
{
  if (code.module == kVdso)
    return vdso(code.build_id);
  if (code.build_id.empty() || !code.module.starts_with('/'))
    return std::nullopt;
  if (const auto file = open_in_root("", code.module))
    if (auto found = open(*file, code, ""))
      return found;
  if (places_.debuginfod)
    if (const auto path = debuginfod_file(code.build_id, DebuginfodKind::executable))
      if (const auto file = open_in_root("", *path))
        return open(*file, code, "");
  return std::nullopt;
}

std::optional<ModuleCache::Opened> ModuleCache::vdso(const std::string &build_id)
{
  auto known = cached_.find(Proc::File{});
  if (known == cached_.end()) {
    Cached cached;
    if (const auto file = own_vdso(proc_))
      if (auto elf = ElfFile::open("/proc/self/fd/" + std::to_string(file->get()))) {
        cached.build_id = elf->build_id();
        cached.module =
            std::make_shared<Module>(std::move(*elf), kVdso, DebugFilePlaces{.roots = {}});
      }
    known = cached_.emplace(Proc::File{}, std::move(cached)).first;
  }
  return use(known->first, known->second, build_id);
}

std::optional<ModuleCache::Opened>
ModuleCache::open(const RootedFile &file, const CodeAddress &code, const std::string &root)
{
  auto known = cached_.find(file.identity());
  if (known == cached_.end())
    known = cached_.emplace(file.identity(), read(file, code, root)).first;
  return use(known->first, known->second, code.build_id);
}

ModuleCache::Cached ModuleCache::read(const RootedFile &file, const CodeAddress &code,
                                      const std::string &root) const
{
  Cached cached;
  if (auto elf = ElfFile::open(file.path())) {
    auto places = places_;
    if (!root.empty())
      places.roots.insert(places.roots.begin(), root);
    cached.build_id = elf->build_id();
    cached.module = std::make_shared<Module>(std::move(*elf), code.module, std::move(places));
  }
  return cached;
}

std::shared_ptr<Module> ModuleCache::again(const Proc::File &file)
{
  const auto known = cached_.find(file);
  if (known == cached_.end())
    return nullptr;
  const auto found = use(known->first, known->second, {});
  return found ? found->module : nullptr;
}

std::optional<ModuleCache::Opened> ModuleCache::use(const Proc::File &file, Cached &cached,
                                                    const std::string &build_id)
{
  cached.used = ++uses_;
  std::optional<Opened> opened;
  if (cached.module != nullptr && (build_id.empty() || cached.build_id == build_id))
    opened = Opened{file, cached.module};
  keep_limits();
  return opened;
}

// All but what was used last may go.
void ModuleCache::keep_limits()
{
  const auto bytes = [this] {
    std::size_t sum = 0;
    for (const auto &[file, cached] : cached_)
      sum += cached.module ? cached.module->memory_bytes() : 0;
    return sum;
  };
  while (cached_.size() > 1 && (cached_.size() > limits_.modules || bytes() > limits_.bytes)) {
    const auto oldest =
        std::ranges::min_element(cached_, {}, [](const auto &entry) { return entry.second.used; });
    cached_.erase(oldest);
  }
}

} // namespace pgmemtrace
