// SPDX-License-Identifier: BSD-2-Clause
// symbols_test.cpp - names for addresses of this process: right ones, or none.
#include "symbols/symbolizer.h"

#include <cstring>
#include <map>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "attach/elf_file.h"
#include "symbols/demangle.h"
#include "symbols/plt.h"
#include "symbols_fixture.h"

namespace pgmemtrace::test {

namespace {

using Kind = Symbolizer::Kind;

std::string example() { return PGMT_EXAMPLE; }
std::string stripped() { return PGMT_EXAMPLE_STRIPPED; }

__attribute__((noinline)) int of_this_test(int x) { return x * 11 + static_cast<int>(getpid()); }

Frame only_frame(Symbolizer &symbolizer, const void *pointer, Kind kind = Kind::instruction)
{
  const auto frames = symbolizer.frames(self(), address_of(pointer), kind);
  EXPECT_EQ(frames.size(), 1u);
  return frames.back();
}

// Of the fixture's only line that has this comment.
int line_of(const std::string &comment)
{
  std::ifstream source(PGMT_FIXTURES "/symbols/example.cpp");
  int number = 1;
  for (std::string line; std::getline(source, line); ++number)
    if (line.ends_with(comment))
      return number;
  return -1;
}

const void *plus(const void *pointer, std::ptrdiff_t bytes)
{
  return static_cast<const char *>(pointer) + bytes;
}

} // namespace

TEST(Symbols, name_functions_of_the_executable_and_of_the_c_library)
{
  Symbolizer symbolizer({});
  const auto own = symbolizer
                       .frames(self(), address_of(reinterpret_cast<void *>(&of_this_test)) + 1,
                               Kind::instruction)
                       .back();
  EXPECT_NE(own.function.find("of_this_test(int)"), std::string::npos) << own.function;
  EXPECT_EQ(own.offset, 1u);
  EXPECT_EQ(own.code.module, fs::read_symlink("/proc/self/exe"));

  Symbolizer stripped_ones(without_debug_files());
  const auto library = only_frame(stripped_ones, dlsym(RTLD_DEFAULT, "posix_memalign"));
  EXPECT_EQ(library.function, "posix_memalign");
  EXPECT_EQ(library.offset, 0u);
  EXPECT_FALSE(library.code.build_id.empty());
}

TEST(Symbols, name_the_vdso)
{
  const auto start = getauxval(AT_SYSINFO_EHDR);
  ASSERT_NE(start, 0u);
  Symbolizer symbolizer({});
  const auto file = only_frame(symbolizer, reinterpret_cast<const void *>(start));
  EXPECT_EQ(file.code.module, "[vdso]");
  EXPECT_EQ(file.function, "") << "the ELF header is no function";

  // What the loader found there is what we have to find.
  bool found = false;
  for (std::uint64_t at = start; at < start + 4096; ++at) {
    const auto frame = only_frame(symbolizer, reinterpret_cast<const void *>(at));
    found = found || (frame.function.find("clock_gettime") != std::string::npos);
  }
  EXPECT_TRUE(found);
}

TEST(Symbols, demangle)
{
  Symbolizer symbolizer(without_debug_files());
  const LoadedExample library(stripped());
  EXPECT_EQ(only_frame(symbolizer, library.places().method).function,
            "pgmt_example::Box::weigh(int) const");
  EXPECT_EQ(demangled("palloc"), "palloc");
  EXPECT_EQ(demangled("_Zgarbage"), "_Zgarbage");
  EXPECT_EQ(demangled("_ZN1\x1b[2J1aEv").find('\x1b'), std::string::npos);
}

TEST(Symbols, names_made_to_exhaust_memory_stay_as_they_are)
{
  // B<A,A>, then B<that,that>, and so on: each doubles.
  std::string name = "_Z1f1AIiE1BIS0_S0_E";
  for (int i = 2; i < 36; ++i) {
    const char digit = static_cast<char>(i < 10 ? '0' + i : 'A' + i - 10);
    name += std::string("S1_IS") + digit + "_S" + digit + "_E";
  }
  EXPECT_EQ(demangled(name), name);
  EXPECT_LE(demangled("_Z1f1AIiE1BIS0_S0_ES1_IS2_S2_ES1_IS3_S3_ES1_IS4_S4_ES1_IS5_S5_E").size(),
            1024u + 3);
}

TEST(Symbols, a_function_without_a_name_is_never_called_by_its_neighbours)
{
  Symbolizer symbolizer(without_debug_files());
  const LoadedExample library(stripped());
  const auto &places = library.places();
  EXPECT_EQ(only_frame(symbolizer, places.exported).function, "pgmt_example_exported");
  const auto hidden = only_frame(symbolizer, plus(places.hidden, 1));
  EXPECT_EQ(hidden.function, "");

  const auto elf = ElfFile::open(example());
  ASSERT_TRUE(elf);
  const auto exported = elf->function("pgmt_example_exported");
  ASSERT_TRUE(exported);
  const auto distance = address_of(places.hidden) - address_of(places.exported);
  EXPECT_EQ(hidden.start, exported->address + distance) << "still told from other functions";
  EXPECT_EQ(hidden.offset, hidden.start + 1) << "as addr2line takes it";
  EXPECT_EQ(
      to_string(hidden), "example.so+0x" + [&] {
        char text[32];
        snprintf(text, sizeof text, "%lx", static_cast<unsigned long>(hidden.offset));
        return std::string(text);
      }());
}

TEST(Symbols, every_byte_of_a_stripped_library_has_its_own_name_or_none)
{
  Symbolizer symbolizer(without_debug_files());
  const LoadedExample library(stripped());
  const auto whole = ElfFile::open(example());
  ASSERT_TRUE(whole);
  const auto exported = whole->function("pgmt_example_exported");
  ASSERT_TRUE(exported);
  const auto bias = address_of(library.places().exported) - exported->address;
  std::map<std::string, ElfFile::Symbol> truth;
  for (const auto &function : whole->functions())
    truth[demangled(function.name.substr(0, function.name.find('@')))] = function.symbol;

  int named = 0;
  for (const auto &segment : whole->executable_segments())
    for (std::uint64_t at = segment.address; at < segment.address + segment.bytes.size(); ++at) {
      const auto frame = only_frame(symbolizer, reinterpret_cast<const void *>(bias + at));
      if (frame.function.empty() || frame.function.ends_with("@plt"))
        continue;
      ++named;
      const auto function = truth.find(frame.function);
      ASSERT_NE(function, truth.end()) << frame.function;
      EXPECT_EQ(at - frame.offset, function->second.address);
      EXPECT_LT(frame.offset, std::max<std::uint64_t>(function->second.size, 1)) << frame.function;
    }
  EXPECT_GT(named, 100);
}

TEST(Symbols, names_are_shown_without_their_versions)
{
  Symbolizer symbolizer(without_debug_files());
  for (const auto &path : {example(), stripped()}) {
    const LoadedExample library(path);
    EXPECT_EQ(only_frame(symbolizer, library.places().versioned).function,
              "pgmt_example_versioned");
  }
}

TEST(Symbols, code_without_a_size_has_its_first_byte_only)
{
  Symbolizer symbolizer(without_debug_files());
  const LoadedExample library(stripped());
  EXPECT_EQ(only_frame(symbolizer, library.places().sizeless).function, "pgmt_example_sizeless");
  EXPECT_EQ(only_frame(symbolizer, plus(library.places().sizeless, 1)).function, "");
}

TEST(Symbols, a_call_at_the_end_belongs_to_its_caller)
{
  Symbolizer symbolizer(without_debug_files());
  const LoadedExample library(stripped());
  const auto frame = only_frame(symbolizer, library.places().last_call, Kind::return_address);
  EXPECT_EQ(frame.function, "pgmt_example_ends_in_call");
  EXPECT_GT(frame.offset, 0u);
}

TEST(Symbols, plt_entries_are_called_by_what_they_lead_to)
{
  Symbolizer symbolizer(without_debug_files());
  const LoadedExample library(stripped());
  const auto elf = ElfFile::open(stripped());
  ASSERT_TRUE(elf);
  const auto exported = elf->function("pgmt_example_exported");
  ASSERT_TRUE(exported);
  const auto bias = address_of(library.places().exported) - exported->address;
  bool found = false;
  for (const auto &entry : plt_entries(*elf)) {
    const auto frame = only_frame(symbolizer, reinterpret_cast<const void *>(bias + entry.address));
    EXPECT_EQ(frame.function, std::string(entry.name) + "@plt");
    found = found || frame.function == "longjmp@plt" || frame.function == "__longjmp_chk@plt";
  }
  EXPECT_TRUE(found) << "example.cpp calls longjmp";
}

TEST(Symbols, inlined_calls_and_lines_come_from_dwarf)
{
  Symbolizer symbolizer(without_debug_files());
  const LoadedExample library(example());
  const auto frames =
      symbolizer.frames(self(), address_of(library.places().inlined), Kind::return_address);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_TRUE(frames[0].inlined);
  // gcc notes no linkage name for a function of an anonymous namespace, clang does.
  EXPECT_THAT(frames[0].function, testing::AnyOf("here", "(anonymous namespace)::here()"));
  EXPECT_FALSE(frames[1].inlined);
  EXPECT_EQ(frames[1].function, "pgmt_example_inlines");

  EXPECT_EQ(frames[0].line, line_of("// the inlined instruction"));
  EXPECT_EQ(frames[1].line, line_of("// the inlined call"));
  for (const auto &frame : frames)
    EXPECT_TRUE(frame.file.ends_with("fixtures/symbols/example.cpp")) << frame.file;
}

TEST(Symbols, libraries_loaded_late_are_found_but_mappings_are_not_read_at_every_miss)
{
  std::uint64_t now = 1'000'000'000;
  auto options = without_debug_files();
  options.clock = [&now] { return now; };
  Symbolizer symbolizer(options);
  symbolizer.remember(self());
  const TemporaryFolder folder;
  const LoadedExample library(folder.copy(stripped(), "late.so"));
  EXPECT_EQ(only_frame(symbolizer, library.places().exported).code.module, "[unmapped]");
  now += options.reread_after_ns - 1;
  EXPECT_EQ(only_frame(symbolizer, library.places().exported).code.module, "[unmapped]");
  now += 1;
  EXPECT_EQ(only_frame(symbolizer, library.places().exported).function, "pgmt_example_exported");
}

TEST(Symbols, anonymous_code_has_no_name_and_no_wrong_one)
{
  void *code = mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(code, MAP_FAILED);
  Symbolizer symbolizer({});
  const auto frame = only_frame(symbolizer, plus(code, 5));
  EXPECT_EQ(frame.code.module, "[anon]");
  EXPECT_EQ(to_string(frame), "[anon]");
  munmap(code, 4096);
  EXPECT_EQ(to_string(only_frame(symbolizer, nullptr)), "[unmapped]");
}

TEST(Symbols, anonymous_code_beside_llvmjit_is_jit)
{
  ForeignMemory memory(getpid());
  const auto maps = read_process_maps(
      {{.start = 0x1000, .end = 0x2000, .executable = true},
       {.start = 0x5000, .end = 0x6000, .inode = 7, .path = "/usr/lib/llvmjit.so"}},
      memory);
  EXPECT_EQ(maps.locate(0x1800), (CodeAddress{"[jit]", "", 0x1800}));
  EXPECT_EQ(maps.locate(0x5800).module, "[unmapped]") << "data";
}

TEST(Symbols, a_process_that_was_never_seen_is_read_as_its_postmaster)
{
  const pid_t child = fork();
  if (child == 0)
    _exit(0);
  const ProcessId process = id_of(child);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  Symbolizer symbolizer({});
  const auto frames =
      symbolizer.frames({process, id_of(getpid())},
                        address_of(reinterpret_cast<void *>(&of_this_test)), Kind::instruction);
  EXPECT_NE(frames.back().function.find("of_this_test"), std::string::npos);
  const auto alone = symbolizer.frames(
      {process, {}}, address_of(reinterpret_cast<void *>(&of_this_test)), Kind::instruction);
  EXPECT_EQ(alone.back().code.module, "[unmapped]");
}

TEST(Symbols, what_a_process_had_loaded_is_known_when_it_is_gone)
{
  int to_parent[2], to_child[2];
  ASSERT_EQ(pipe(to_parent), 0);
  ASSERT_EQ(pipe(to_child), 0);
  const pid_t child = fork();
  if (child == 0) {
    const LoadedExample late(stripped());
    const void *exported = late.places().exported;
    char wait = 0;
    const bool done = write(to_parent[1], &exported, sizeof exported) == sizeof exported &&
                      read(to_child[0], &wait, 1) == 1;
    _exit(done ? 0 : 1);
  }
  const void *exported = nullptr;
  ASSERT_EQ(read(to_parent[0], &exported, sizeof exported), static_cast<ssize_t>(sizeof exported));
  Symbolizer symbolizer(without_debug_files());
  const Symbolizer::Target target{id_of(child), id_of(getpid())};
  symbolizer.remember(target);
  ASSERT_EQ(write(to_child[1], "x", 1), 1);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  for (const int fd : {to_parent[0], to_parent[1], to_child[0], to_child[1]})
    close(fd);
  EXPECT_EQ(symbolizer.frames(target, address_of(exported), Kind::instruction).back().function,
            "pgmt_example_exported");
}

TEST(Symbols, another_process_with_the_pid_is_not_taken_for_the_first)
{
  Symbolizer symbolizer({});
  auto other = self();
  other.process.start += 1;
  EXPECT_EQ(
      symbolizer
          .frames(other, address_of(reinterpret_cast<void *>(&of_this_test)), Kind::instruction)
          .back()
          .code.module,
      "[unmapped]");
}

TEST(Symbols, a_recorded_address_means_the_same_elsewhere)
{
  const TemporaryFolder folder;
  const auto path = folder.copy(stripped(), "recorded.so");
  CodeAddress code;
  {
    Symbolizer recording(without_debug_files());
    const LoadedExample library(path);
    code = recording.locate(self(), address_of(library.places().last_call), Kind::return_address);
  }
  EXPECT_EQ(code.module, path);
  EXPECT_FALSE(code.build_id.empty());
  Symbolizer reporting(without_debug_files());
  EXPECT_EQ(reporting.frames(code, Kind::return_address).back().function,
            "pgmt_example_ends_in_call");

  // Another build at the same path: no names rather than wrong ones.
  folder.copy(PGMT_EXAMPLE_NO_ID, "recorded.so");
  const auto frame = reporting.frames(code, Kind::return_address).back();
  EXPECT_EQ(frame.function, "");
  EXPECT_EQ(frame.code, code) << "what was recorded is still there to be looked up later";
}

} // namespace pgmemtrace::test
