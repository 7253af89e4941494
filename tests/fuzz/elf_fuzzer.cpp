// SPDX-License-Identifier: BSD-2-Clause
// elf_fuzzer.cpp - any file as a process's executable: every question that we ask of one.
#include "attach/elf_file.h"
#include "attach/planner.h"
#include "fuzz.h"

namespace pgmemtrace::test {
namespace {

void ask(const ElfFile &elf)
{
  (void)elf.build_id();
  (void)elf.exports("PostmasterMain");
  (void)elf.find_string("PostgreSQL 1");
  if (const auto top = elf.object("TopMemoryContext"))
    (void)elf.bytes(top->address, 8);

  for (const auto &segment : elf.executable_segments())
    must(elf.bytes(segment.address, segment.bytes.size()).size() <= segment.bytes.size(),
         "no more bytes than the segment has");
  if (const auto function = elf.bounds(elf.entry_address()))
    must(elf.entry_address() - function->address < function->size,
         "a function's bounds hold the address that was asked for");

  for (const ProbeSite &site : plan_probes(elf).sites) {
    must(site.callers > 0, "what is probed is called");
    must(elf.file_offset(site.address) == site.file_offset, "a site lies in the file");
    must(!elf.bytes(site.address, 1).empty(), "a site has an instruction");
  }
}

} // namespace
} // namespace pgmemtrace::test

int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  const test::InputFile file({bytes, size});
  if (const auto elf = ElfFile::open(file.path())) {
    test::ask(*elf);
    elf->drop_bytes();
    test::ask(*elf); // from the tables that were kept
  }
  return 0;
}
