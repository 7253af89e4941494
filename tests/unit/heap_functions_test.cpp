// SPDX-License-Identifier: BSD-2-Clause
// heap_functions_test.cpp - where malloc is probed, in C libraries as they are shipped; and who
// asked.
#include <filesystem>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "attach/heap_functions.h"
#include "recording/asker.h"
#include "recording/recording.h"

namespace pgmemtrace::test {
namespace {

using testing::Contains;
using testing::UnorderedElementsAre;

// The C libraries at hand: the host's, and those in the folders of scripts/suites.sh.
std::vector<std::string> libraries()
{
  std::vector<std::string> found;
  std::vector<std::filesystem::path> roots{"/"};
  const std::filesystem::path suites = "/var/cache/pgmemtrace/suites";
  if (std::filesystem::is_directory(suites))
    for (const auto &suite : std::filesystem::directory_iterator(suites))
      roots.push_back(suite.path());
  for (const auto &root : roots)
    for (const char *path : {"lib/x86_64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libc.so.6"})
      if (std::filesystem::exists(root / path))
        found.push_back(root / path);
  return found;
}

TEST(HeapFunctions, all_are_found_in_a_c_library_and_cheap_to_probe)
{
  const auto all = libraries();
  ASSERT_FALSE(all.empty());
  for (const auto &path : all) {
    const auto library = ElfFile::open(path);
    ASSERT_TRUE(library) << path;
    std::vector<pgmt_heap_call> calls;
    for (const auto &function : heap_functions_of(*library, HeapFamily::chunks)) {
      calls.push_back(function.call);
      if (library->machine() == ElfFile::Machine::x86_64 && function.name != "valloc" &&
          function.name != "pvalloc") {
        EXPECT_TRUE(function.emulated) << path << ' ' << function.name;
      }
    }
    for (const auto call : {PGMT_HEAP_MALLOC, PGMT_HEAP_CALLOC, PGMT_HEAP_REALLOC,
                            PGMT_HEAP_ALIGNED_ALLOC, PGMT_HEAP_POSIX_MEMALIGN, PGMT_HEAP_FREE})
      EXPECT_THAT(calls, Contains(call)) << path;
    std::vector<pgmt_heap_call> mappings;
    for (const auto &function : heap_functions_of(*library, HeapFamily::mappings)) {
      mappings.push_back(function.call);
      if (library->machine() == ElfFile::Machine::x86_64 && function.name == "mmap") {
        EXPECT_TRUE(function.emulated) << path << ' ' << function.name;
      }
    }
    EXPECT_THAT(mappings, UnorderedElementsAre(PGMT_HEAP_MMAP, PGMT_HEAP_MUNMAP, PGMT_HEAP_MREMAP,
                                               PGMT_HEAP_BRK, PGMT_HEAP_BRK))
        << path;
  }
}

// Two names of one function are one probe: each call would count twice.
TEST(HeapFunctions, no_place_is_probed_twice)
{
  for (const auto &path : libraries()) {
    const auto library = ElfFile::open(path);
    ASSERT_TRUE(library);
    std::map<std::uint64_t, std::string> names;
    for (const auto &function : heap_functions_of(*library, HeapFamily::chunks))
      EXPECT_TRUE(names.emplace(function.file_offset, function.name).second) << function.name;
  }
}

// This process takes malloc from a library too, unless a sanitizer brought its own.
TEST(HeapFunctions, the_library_is_the_one_that_a_process_calls)
{
  const auto self = ElfFile::open("/proc/self/exe");
  ASSERT_TRUE(self);
  const auto entry = Proc().entry_address(getpid());
  ASSERT_TRUE(entry);
  const auto found = find_heap_functions(getpid(), *self, *entry - self->entry_address());
  if (!self->pointer_to("malloc") || !self->pointer_to("mmap")) {
    EXPECT_FALSE(found);
    return;
  }
  ASSERT_TRUE(found) << to_string(found.error());
  EXPECT_THAT(found->front().path, testing::HasSubstr("libc"));
}

TEST(HeapFunctions, an_executable_that_imports_no_malloc_is_refused)
{
  const auto libc = ElfFile::open(libraries().at(0)); // as if it were one
  ASSERT_TRUE(libc);
  const auto found = find_heap_functions(getpid(), *libc, 0);
  ASSERT_FALSE(found);
  EXPECT_THAT(to_string(found.error()), testing::HasSubstr("malloc"));
}

// ---- who asked ----

Frame frame(const char *module, const char *function)
{
  return {.code = {.module = module, .build_id = {}, .offset = 0x1000}, .function = function};
}

struct Asked {
  std::vector<Frame> frames;
  const char *by;
};

TEST(Asker, is_the_first_library_above_malloc)
{
  const Heap heap{.libraries = {"/lib/libjemalloc.so.2", "/lib/libc.so.6"},
                  .executable = "/usr/bin/postgres"};
  const auto malloc_frame = frame("/lib/libjemalloc.so.2", "malloc");
  const Asked cases[] = {
      {{malloc_frame, frame("/lib/libxml2.so.2", "xmlStrdup"), frame("/usr/bin/postgres", "f")},
       "libxml2.so.2"},
      {{malloc_frame, frame("/lib/libc.so.6", "strdup"), frame("/lib/ext.so", "f")}, "ext.so"},
      {{malloc_frame, frame("/lib/libstdc++.so.6", "operator new(unsigned long)"),
        frame("/lib/libLLVM.so", "f")},
       "libLLVM.so"},
      {{malloc_frame, frame("/usr/bin/postgres", "guc_malloc")}, "postgres"},
      {{malloc_frame}, "libjemalloc.so.2"},
      {{malloc_frame, frame("/lib/ext.so", "f"), frame(kTruncated, "")}, "ext.so"},
      {{malloc_frame, frame("/lib/libc.so.6", "strdup"), frame(kTruncated, "")}, "libc.so.6"},
      {{frame(kTruncated, "")}, ""},
      {{}, ""},
  };
  for (const auto &[frames, by] : cases)
    EXPECT_EQ(asker_of(frames, heap), by);
}

} // namespace
} // namespace pgmemtrace::test
