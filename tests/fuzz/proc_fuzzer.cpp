// SPDX-License-Identifier: BSD-2-Clause
// proc_fuzzer.cpp - any bytes as each of a process's files in /proc.
//
// The kernel writes them, but names in them are the process's: comm, paths, the command line.
#include <array>
#include <filesystem>
#include <fstream>

#include "attach/proc.h"
#include "fuzz.h"

namespace pgmemtrace::test {
namespace {

namespace fs = std::filesystem;

// One file under all names: hard links, since Proc follows no others.
class Folder {
public:
  Folder()
  {
    std::string name = (fs::temp_directory_path() / "pgmt_proc_XXXXXX").string();
    must(mkdtemp(name.data()) != nullptr, "there is room for temporary files");
    root_ = name;
    fs::create_directories(root_ / "1/task/1");
    std::ofstream(root_ / "1/stat").flush();
    for (const char *entry : {"status", "maps", "auxv", "cmdline", "task/1/children"})
      fs::create_hard_link(root_ / "1/stat", root_ / "1" / entry);
  }
  Folder(const Folder &) = delete;
  Folder &operator=(const Folder &) = delete;
  ~Folder()
  {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }

  void fill(std::span<const std::uint8_t> bytes) const
  {
    std::ofstream(root_ / "1/stat", std::ios::binary)
        .write(reinterpret_cast<const char *>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  const fs::path &root() const { return root_; }

private:
  fs::path root_;
};

} // namespace
} // namespace pgmemtrace::test

int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  static const test::Folder folder;
  folder.fill({bytes, size});
  const Proc proc(folder.root());
  (void)proc.stat(1);
  (void)proc.memory(1);
  (void)proc.namespace_pid(1);
  (void)proc.entry_address(1);
  (void)proc.children(1);
  (void)proc.cmdline(1);
  if (const auto maps = proc.maps(1))
    for (const auto &mapping : *maps)
      test::must(mapping.path.find('\n') == std::string::npos, "a mapping is one line");
  return 0;
}
