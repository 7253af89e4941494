// SPDX-License-Identifier: BSD-2-Clause
// layout_fuzzer.cpp - any BTF as a server's layout, and a tree read by it.
//
// --postgres-btf names a file that somebody made: offsets may be anything that its structs hold.
#include "attach/layout.h"
#include "collect/sweep.h"
#include "fake_process.h"
#include "fuzz.h"

namespace pgmemtrace::test {
namespace {

FakeProcess &process()
{
  static FakeProcess fake = [] {
    FakeProcess made(layout_15());
    const auto top = made.alloc_set(0, "TopMemoryContext", 8192);
    made.add_free_chunk(made.alloc_set(top, "child"), 2);
    made.generation(top, "generation", {{}, {}});
    made.slab(top, "slab", 64, 20, {3, 0, 20});
    return made;
  }();
  return fake;
}

void read_by(const Layout &layout)
{
  const SweepLimits limits{.contexts = 64, .depth = 16, .blocks = 64, .free_chunks = 64};
  Sweeper sweeper(layout, FakeProcess::kVariable, process().memory(), limits);
  for (const Pass pass : {Pass::exact, Pass::header, Pass::changed})
    if (const auto tree = sweeper.sweep(pass))
      must(tree->contexts.size() <= limits.contexts, "no more contexts than the bound");
}

} // namespace
} // namespace pgmemtrace::test

// A byte for the major and whether the server checks its memory, then the file.
int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  if (size == 0)
    return 0;
  const int major = 13 + bytes[0] % 6;
  const bool checking = (bytes[0] & 128U) != 0;
  const test::InputFile file({bytes + 1, size - 1});
  if (const auto layout = load_layout(major, checking, file.path()))
    test::read_by(*layout);
  return 0;
}
