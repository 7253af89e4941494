// SPDX-License-Identifier: BSD-2-Clause
// make_seeds.cpp - where the fuzzers begin, made from what this machine has.
//
// usage: fuzz_seeds DIRECTORY [POSTGRES...]
// Our own layouts for the layout reader; a small recording; for the planner the probed functions of
// each server binary.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "attach/elf_file.h"
#include "attach/layout.h"
#include "recording/recording_file.h"
#include "recording_fixture.h"
#include "util/gzip.h"

namespace {

using namespace pgmemtrace;
namespace fs = std::filesystem;

void write(const fs::path &path, const std::string &head, std::span<const std::byte> bytes)
{
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary)
      << head << std::string_view(reinterpret_cast<const char *>(bytes.data()), bytes.size());
}

void layouts(const fs::path &directory)
{
  for (const int major : supported_majors())
    write(directory / "layout" / std::to_string(major),
          std::string(1, static_cast<char>(major - 13)), layout_btf(major));
}

// See planner_fuzzer.cpp for what goes before the function.
void functions(const fs::path &directory, const fs::path &postgres)
{
  const auto elf = ElfFile::open(postgres);
  if (!elf)
    return;
  for (const char *name :
       {"standard_ExecutorStart", "standard_ExecutorEnd", "standard_ProcessUtility",
        "ReadyForQuery", "AtEOXact_Snapshot", "proc_exit"}) {
    const auto symbol = elf->function(name);
    if (!symbol)
      continue;
    std::string head(1, elf->machine() == ElfFile::Machine::aarch64 ? '\7' : '\6');
    head.append(reinterpret_cast<const char *>(&symbol->address), sizeof symbol->address);
    write(directory / "planner" / (elf->build_id() + "_" + name), head,
          elf->bytes(symbol->address, symbol->size));
  }
}

void recordings(const fs::path &directory)
{
  if (const auto text = gunzip(pack(test::small_recording()), kLargestRecording))
    write(directory / "recording" / "small", *text, {});
}

} // namespace

int main(int argc, char **argv)
{
  if (argc < 2) {
    std::fputs("usage: fuzz_seeds DIRECTORY [POSTGRES...]\n", stderr);
    return 2;
  }
  layouts(argv[1]);
  recordings(argv[1]);
  for (int i = 2; i < argc; ++i)
    functions(argv[1], argv[i]);
  return 0;
}
