// SPDX-License-Identifier: BSD-2-Clause
// symbols_files_test.cpp - which file's names count: debug files, containers, deleted and hostile
// files.
#include "symbols/symbolizer.h"

#include <cstddef>
#include <cstring>
#include <elf.h>
#include <iterator>
#include <random>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "attach/elf_file.h"
#include "symbols_fixture.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace pgmemtrace::test {

namespace {

using Kind = Symbolizer::Kind;

std::string function_at(Symbolizer &symbolizer, const void *pointer)
{
  return symbolizer.frames(self(), address_of(pointer), Kind::instruction).back().function;
}

std::string hidden_name(const std::string &library, DebugFilePlaces places)
{
  Symbolizer symbolizer({.debug_files = std::move(places)});
  return function_at(symbolizer, LoadedExample(library).places().hidden);
}

constexpr const char *kHidden = "(anonymous namespace)::hidden_neighbour(int)";

std::string bytes_of(const std::string &path)
{
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

} // namespace

TEST(DebugFiles, are_found_by_build_id)
{
  const TemporaryFolder folder;
  const auto library = folder.copy(PGMT_EXAMPLE_STRIPPED, "lib/example.so");
  const auto id = ElfFile::open(library)->build_id();
  const auto debug = (folder.path() / "debug").string();
  EXPECT_EQ(hidden_name(library, {.folder = debug}), "") << "not there yet";
  const auto name = "debug/.build-id/" + id.substr(0, 2) + "/" + id.substr(2) + ".debug";
  folder.copy(PGMT_EXAMPLE_NO_ID_DEBUG, name);
  EXPECT_EQ(hidden_name(library, {.folder = debug}), "") << "of another build";
  folder.copy(PGMT_EXAMPLE_DEBUG, name);
  EXPECT_EQ(hidden_name(library, {.folder = debug}), kHidden);
}

TEST(DebugFiles, are_found_by_debuglink)
{
  for (const char *place : {"lib/example.debug", "lib/.debug/example.debug"}) {
    const TemporaryFolder folder;
    const auto library = folder.copy(PGMT_EXAMPLE_STRIPPED, "lib/example.so");
    folder.copy(PGMT_EXAMPLE_DEBUG, place);
    EXPECT_EQ(hidden_name(library, {.folder = "/nonexistent"}), kHidden) << place;
  }
  const TemporaryFolder folder;
  const auto library = folder.copy(PGMT_EXAMPLE_STRIPPED, "lib/example.so");
  const auto debug = (folder.path() / "debug").string();
  folder.copy(PGMT_EXAMPLE_DEBUG, "debug/" + folder.path().string() + "/lib/example.debug");
  EXPECT_EQ(hidden_name(library, {.folder = debug}), kHidden);
}

TEST(DebugFiles, without_a_build_id_their_checksum_decides)
{
  const TemporaryFolder folder;
  const auto library = folder.copy(PGMT_EXAMPLE_NO_ID_STRIPPED, "example.so");
  ASSERT_EQ(ElfFile::open(library)->build_id(), "");
  const auto debug = folder.copy(PGMT_EXAMPLE_NO_ID_DEBUG, "example_no_id.debug");
  EXPECT_EQ(hidden_name(library, {.folder = "/nonexistent"}), kHidden);
  std::ofstream(debug, std::ios::app) << "one more byte";
  EXPECT_EQ(hidden_name(library, {.folder = "/nonexistent"}), "");
}

TEST(DebugFiles, give_lines_and_inlined_calls_too)
{
  const TemporaryFolder folder;
  const auto path = folder.copy(PGMT_EXAMPLE_STRIPPED, "example.so");
  folder.copy(PGMT_EXAMPLE_DEBUG, "example.debug");
  const LoadedExample library(path);
  Symbolizer symbolizer({});
  const auto frames =
      symbolizer.frames(self(), address_of(library.places().inlined), Kind::return_address);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_TRUE(frames[0].inlined);
  EXPECT_GT(frames[1].line, 0);
}

// As distributions pack them.  A section says how large it will be when it is unpacked.
TEST(DebugFiles, may_be_compressed_but_not_without_bounds)
{
  const TemporaryFolder folder;
  const auto path = folder.copy(PGMT_EXAMPLE_COMPRESSED, "example.so");
  const auto line = [&] {
    const LoadedExample library(path);
    Symbolizer symbolizer(without_debug_files());
    const auto frame =
        symbolizer.frames(self(), address_of(library.places().hidden), Kind::instruction).back();
    EXPECT_EQ(frame.function, kHidden) << "by its symbol";
    return frame.line;
  };
  EXPECT_GT(line(), 0);

  auto bytes = bytes_of(path);
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  int compressed = 0;
  for (std::size_t i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section;
    std::memcpy(&section, &bytes[header.e_shoff + i * sizeof section], sizeof section);
    if ((section.sh_flags & SHF_COMPRESSED) == 0)
      continue;
    const std::uint64_t huge = 1ull << 40;
    std::memcpy(&bytes[section.sh_offset + offsetof(Elf64_Chdr, ch_size)], &huge, sizeof huge);
    ++compressed;
  }
  ASSERT_GT(compressed, 0);
  folder.write("example.so", bytes);
  EXPECT_EQ(line(), 0);
}

// The client library is asked by a URL of the file system: no network, the same code.
TEST(DebugFiles, come_from_debuginfod_only_where_it_is_asked_for)
{
  void *client = dlopen("libdebuginfod.so.1", RTLD_NOW);
  if (client == nullptr)
    GTEST_SKIP() << "libdebuginfod is not installed";
  const TemporaryFolder folder;
  const auto library = folder.copy(PGMT_EXAMPLE_STRIPPED, "lib/example.so");
  const auto id = ElfFile::open(library)->build_id();
  folder.copy(PGMT_EXAMPLE_DEBUG, "server/buildid/" + id + "/debuginfo");
  folder.copy(PGMT_EXAMPLE_STRIPPED, "server/buildid/" + id + "/executable");
  setenv("DEBUGINFOD_URLS", ("file://" + (folder.path() / "server").string()).c_str(), 1);
  setenv("DEBUGINFOD_CACHE_PATH", (folder.path() / "cache").c_str(), 1);
  EXPECT_EQ(hidden_name(library, {.folder = "/nonexistent"}), "");
  EXPECT_EQ(hidden_name(library, {.folder = "/nonexistent", .debuginfod = true}), kHidden);

  // A recording from a machine whose files are not here.
  CodeAddress code;
  {
    Symbolizer recording({});
    const LoadedExample loaded(library);
    code = recording.locate(self(), address_of(loaded.places().hidden), Kind::instruction);
  }
  fs::remove(library);
  Symbolizer reporting({.debug_files = {.folder = "/nonexistent", .debuginfod = true}});
  EXPECT_EQ(reporting.frames(code, Kind::instruction).back().function, kHidden);

  unsetenv("DEBUGINFOD_URLS");
  unsetenv("DEBUGINFOD_CACHE_PATH");
  EXPECT_EQ(
      hidden_name(PGMT_EXAMPLE_NO_ID_STRIPPED, {.folder = "/nonexistent", .debuginfod = true}), "");
}

TEST(ModuleFiles, deleted_and_replaced_ones_are_not_taken_for_what_is_there_now)
{
  const TemporaryFolder folder;
  const auto path = folder.copy(PGMT_EXAMPLE_STRIPPED, "example.so");
  const LoadedExample library(path);
  fs::remove(path);
  const bool can_follow = access(("/proc/self/map_files"), X_OK) == 0 && geteuid() == 0;
  Symbolizer deleted(without_debug_files());
  EXPECT_EQ(function_at(deleted, library.places().exported),
            can_follow ? "pgmt_example_exported" : "");

  // An upgrade: another build's bytes at the same path.
  folder.copy(PGMT_EXAMPLE_NO_ID, "example.so");
  Symbolizer replaced(without_debug_files());
  EXPECT_EQ(function_at(replaced, library.places().exported),
            can_follow ? "pgmt_example_exported" : "");
  EXPECT_EQ(function_at(replaced, library.places().hidden), "") << "the other build names it";
}

// This process as a container would show it: /lib/inside.so of a root directory of its own.
class ContainerTest : public testing::Test {
protected:
  ContainerTest() : library_(host_.copy(PGMT_EXAMPLE_STRIPPED, "outside.so"))
  {
    const auto pid = std::to_string(getpid());
    auto maps = bytes_of("/proc/self/maps");
    const auto path = (host_.path() / "outside.so").string();
    for (auto at = maps.find(path); at != std::string::npos; at = maps.find(path, at))
      maps.replace(at, path.size(), "/lib/inside.so");
    host_.write("proc/" + pid + "/maps", maps);
    host_.write("proc/" + pid + "/stat", bytes_of("/proc/self/stat"));
    fs::create_directories(root() / "lib");
    fs::create_directory_symlink(root(), host_.path() / "proc" / pid / "root");
  }

  fs::path root() const { return host_.path() / "root"; }
  std::string exported()
  {
    auto options = without_debug_files();
    options.proc = Proc(host_.path() / "proc");
    Symbolizer symbolizer(options);
    return function_at(symbolizer, library_.places().exported);
  }

  TemporaryFolder host_;
  LoadedExample library_;
};

TEST_F(ContainerTest, files_are_looked_for_in_the_process_s_own_root)
{
  EXPECT_EQ(exported(), "");
  fs::copy_file(PGMT_EXAMPLE_STRIPPED, root() / "lib/inside.so");
  EXPECT_EQ(exported(), "pgmt_example_exported");
}

TEST_F(ContainerTest, links_do_not_lead_out_of_it)
{
  fs::create_symlink(host_.path() / "outside.so", root() / "lib/inside.so");
  EXPECT_EQ(exported(), "") << "the host's file of that name is none of the container's";
  fs::remove(root() / "lib/inside.so");
  fs::copy_file(PGMT_EXAMPLE_STRIPPED, root() / "real.so");
  fs::create_symlink("/real.so", root() / "lib/inside.so");
  EXPECT_EQ(exported(), "pgmt_example_exported");
}

TEST_F(ContainerTest, nothing_but_a_file_is_opened)
{
  ASSERT_EQ(mkfifo((root() / "lib/inside.so").c_str(), 0600), 0);
  EXPECT_EQ(exported(), "");
  fs::remove(root() / "lib/inside.so");
  fs::create_directory(root() / "lib/inside.so");
  EXPECT_EQ(exported(), "");
}

TEST(ModuleFiles, are_bounded_in_number_and_come_back_when_they_are_asked_for)
{
  const TemporaryFolder folder;
  const LoadedExample one(folder.copy(PGMT_EXAMPLE_STRIPPED, "one.so"));
  const LoadedExample two(folder.copy(PGMT_EXAMPLE, "two.so"));
  const ModuleCache::Limits few{.modules = 1}, small{.bytes = 1};
  for (const auto limits : {few, small}) {
    auto options = without_debug_files();
    options.modules = limits;
    Symbolizer symbolizer(options);
    for (int round = 0; round < 3; ++round)
      for (const auto *library : {&one, &two}) {
        EXPECT_EQ(function_at(symbolizer, library->places().exported), "pgmt_example_exported");
        EXPECT_EQ(symbolizer.modules_open(), 1u);
      }
  }
}

// --- files that somebody broke ---

namespace {

// What is left of a sane answer does not matter; that there is an end to it does.
void ask_everything(const std::string &path)
{
  auto elf = ElfFile::open(path);
  if (!elf)
    return;
  std::uint64_t size = 0;
  for (const auto &segment : elf->executable_segments())
    size = std::max(size, std::uint64_t{elf->file_offset(segment.address).value_or(0)} +
                              segment.bytes.size());
  Module module(std::move(*elf), path, {});
  for (std::uint64_t offset = 0; offset < std::min<std::uint64_t>(size, 1 << 16); offset += 7) {
    EXPECT_FALSE(module.frames({path, "", offset}, 1).empty());
    const auto address = module.link_address(offset);
    if (!address || module.unwind_rules() == nullptr)
      continue;
    std::array<std::byte, 256> stack{};
    unwind({*address, 0x7000, 0x7010}, stack, [&](std::uint64_t) {
      return std::optional(UnwindRules{module.unwind_rules(), 0});
    });
  }
}

} // namespace

TEST(BrokenFiles, that_are_cut_are_survived)
{
  const TemporaryFolder folder;
  const auto whole = bytes_of(PGMT_EXAMPLE);
  for (std::size_t part = 1; part < 16; ++part)
    ask_everything(folder.write("cut.so", whole.substr(0, whole.size() * part / 16)));
}

TEST(BrokenFiles, with_wrong_bytes_are_survived)
{
  const TemporaryFolder folder;
  const auto whole = bytes_of(PGMT_EXAMPLE);
  const char *rounds_wanted = getenv("PGMT_BROKEN_FILES"); // more, by hand
  const int rounds = rounds_wanted != nullptr ? std::atoi(rounds_wanted) : 60;
#ifdef __SANITIZE_ADDRESS__
  // elf_end() of elfutils 0.192 does not free what it read of some of these files' sections.
  const __lsan::ScopedDisabler leaks_of_libelf;
#endif
  std::mt19937 random(42); // the same damage each time
  for (int round = 0; round < rounds; ++round) {
    std::string bytes = whole;
    const std::size_t begin = round % 3 == 0 ? 64 : sizeof(Elf64_Ehdr) + whole.size() / 8;
    for (int i = 0; i < 40; ++i)
      bytes[begin + random() % (bytes.size() - begin)] = static_cast<char>(random());
    ask_everything(folder.write("broken.so", bytes));
  }
}

TEST(BrokenFiles, that_shrink_while_they_are_open_are_survived)
{
  const TemporaryFolder folder;
  const auto path = folder.copy(PGMT_EXAMPLE, "shrinks.so");
  auto elf = ElfFile::open(path);
  ASSERT_TRUE(elf);
  Module module(std::move(*elf), path, {});
  fs::resize_file(path, 4096);
  const auto frames = module.frames({path, "", 0x1100}, 0);
  EXPECT_EQ(frames.back().line, 0);
  module.unwind_rules();
}

} // namespace pgmemtrace::test
