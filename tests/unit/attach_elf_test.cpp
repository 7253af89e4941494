// SPDX-License-Identifier: BSD-2-Clause
// attach_elf_test.cpp - ElfFile on this very executable, and on damaged copies of it.
#include "attach/elf_file.h"

#include <cstring>
#include <elf.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include <gtest/gtest.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

extern "C" {
// Found by their names.
__attribute__((noinline, used)) int pgmt_elf_test_function(int x)
{
  return x * 3 + static_cast<int>(getpid());
}
extern const char pgmt_elf_test_object[];
const char pgmt_elf_test_object[] = "pgmt elf test string 42";
}

namespace pgmemtrace::test {

namespace {

namespace fs = std::filesystem;
constexpr const char *kSelf = "/proc/self/exe";

std::uint64_t load_bias(const ElfFile &elf) { return getauxval(AT_ENTRY) - elf.entry_address(); }

class TemporaryFile {
public:
  TemporaryFile()
  {
    std::string name = (fs::temp_directory_path() / "pgmt_elf_XXXXXX").string();
    close(mkstemp(name.data()));
    path_ = name;
  }
  TemporaryFile(const TemporaryFile &) = delete;
  TemporaryFile &operator=(const TemporaryFile &) = delete;
  ~TemporaryFile() { fs::remove(path_); }
  const std::string &write(const std::string &bytes)
  {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
    return path_;
  }
  const std::string &path() const { return path_; }

private:
  std::string path_;
};

// What is left of a sane answer does not matter; that there is an end to it does.
void ask_everything(const std::string &path)
{
  const auto elf = ElfFile::open(path);
  if (!elf)
    return;
  elf->machine();
  elf->build_id();
  elf->exports("malloc");
  elf->storage(0x1000);
  elf->find_string("pgmt elf test");
  elf->unwind_rules();
  for (const char *name : {"main", "pgmt_elf_test_function", "no such symbol", ""}) {
    elf->object(name);
    if (const auto function = elf->function(name)) {
      elf->bytes(function->address, function->size);
      elf->file_offset(function->address);
      elf->bounds(function->address);
    }
  }
  std::size_t sum = 0;
  for (const auto &segment : elf->executable_segments())
    for (const std::byte byte : segment.bytes)
      sum += static_cast<std::size_t>(byte);
  EXPECT_GE(sum, 0u);
}

std::string own_bytes()
{
  std::ifstream file(kSelf, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

} // namespace

TEST(ElfFile, finds_symbols_where_they_are_loaded)
{
  const auto elf = ElfFile::open(kSelf);
  ASSERT_TRUE(elf) << to_string(elf.error());
  const auto function = elf->function("pgmt_elf_test_function");
  ASSERT_TRUE(function);
  EXPECT_EQ(load_bias(*elf) + function->address,
            reinterpret_cast<std::uint64_t>(&pgmt_elf_test_function));
  const auto object = elf->object("pgmt_elf_test_object");
  ASSERT_TRUE(object);
  EXPECT_GE(object->size, sizeof "pgmt elf test string 42"); // ASan's red zone behind it counts
  EXPECT_FALSE(elf->object("pgmt_elf_test_function")) << "a function is no object";
  EXPECT_FALSE(elf->function("pgmt_no_such_function"));
  EXPECT_FALSE(elf->function("getpid")) << "what is only imported is not in this file";
}

TEST(ElfFile, gives_the_bytes_of_a_function)
{
  const auto elf = ElfFile::open(kSelf);
  ASSERT_TRUE(elf);
  const auto function = elf->function("pgmt_elf_test_function");
  ASSERT_TRUE(function);
  const auto bytes = elf->bytes(function->address, function->size);
  ASSERT_EQ(bytes.size(), function->size);
  EXPECT_EQ(std::memcmp(bytes.data(), reinterpret_cast<const void *>(&pgmt_elf_test_function),
                        bytes.size()),
            0);
  const auto offset = elf->file_offset(function->address);
  ASSERT_TRUE(offset);
  EXPECT_EQ(std::memcmp(own_bytes().data() + *offset, bytes.data(), bytes.size()), 0);
  EXPECT_EQ(elf->link_address(*offset), function->address);
  EXPECT_FALSE(elf->link_address(~0ull));
  elf->drop_bytes();
  EXPECT_EQ(elf->bytes(function->address, 4).size(), 4u) << "read again";
  EXPECT_TRUE(elf->bytes(~0ull, 16).empty());
  EXPECT_FALSE(elf->file_offset(~0ull));
}

TEST(ElfFile, finds_function_bounds_without_symbols)
{
  const auto elf = ElfFile::open(kSelf);
  ASSERT_TRUE(elf);
  const auto function = elf->function("pgmt_elf_test_function");
  ASSERT_TRUE(function);
  for (const std::uint64_t inside : {std::uint64_t{0}, std::uint64_t{1}, function->size - 1}) {
    const auto bounds = elf->bounds(function->address + inside);
    ASSERT_TRUE(bounds) << inside;
    EXPECT_EQ(bounds->address, function->address);
    EXPECT_EQ(bounds->size, function->size);
  }
  EXPECT_FALSE(elf->bounds(0));
  EXPECT_FALSE(elf->bounds(~0ull));
}

TEST(ElfFile, finds_strings_from_their_beginning)
{
  const auto elf = ElfFile::open(kSelf);
  ASSERT_TRUE(elf);
  // Not as literals: the compiler would put those into the file too.
  const std::string whole(pgmt_elf_test_object);
  EXPECT_EQ(elf->find_string(whole.substr(0, whole.size() - 1)), whole);
  EXPECT_FALSE(elf->find_string(std::string(pgmt_elf_test_object).substr(5)));
}

TEST(ElfFile, knows_machine_and_build)
{
  const auto elf = ElfFile::open(kSelf);
  ASSERT_TRUE(elf);
#if defined(__x86_64__)
  EXPECT_EQ(elf->machine(), ElfFile::Machine::x86_64);
#elif defined(__aarch64__)
  EXPECT_EQ(elf->machine(), ElfFile::Machine::aarch64);
#endif
  EXPECT_EQ(elf->build_id().size() % 2, 0u);
  EXPECT_FALSE(elf->executable_segments().empty());
}

TEST(ElfFile, refuses_what_is_none)
{
  TemporaryFile file;
  const fs::path directory = fs::temp_directory_path();
  const std::string fifo = file.path() + ".fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_FALSE(ElfFile::open("/nonexistent"));
  EXPECT_FALSE(ElfFile::open(directory.string()));
  EXPECT_FALSE(ElfFile::open(fifo)) << "and does not wait for a writer";
  fs::remove(fifo);
  EXPECT_FALSE(ElfFile::open(file.write("")));
  EXPECT_FALSE(ElfFile::open(file.write("#!/bin/sh\nexec postgres\n")));
  EXPECT_FALSE(ElfFile::open(file.write("\x7f"
                                        "ELF")));
  EXPECT_FALSE(ElfFile::open(file.write("\x7f"
                                        "ELF\2\1\1" +
                                        std::string(200, '\xff'))));
}

// 65,535 segments may name the same megabytes: nobody has the memory for that many copies.
TEST(ElfFile, refuses_segments_that_overlap)
{
  TemporaryFile file;
  std::string bytes = own_bytes();
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  for (std::size_t i = 0; i < header.e_phnum; ++i) {
    char *at = bytes.data() + header.e_phoff + i * sizeof(Elf64_Phdr);
    Elf64_Phdr segment;
    std::memcpy(&segment, at, sizeof segment);
    segment.p_type = PT_LOAD;
    segment.p_flags = PF_R | PF_X;
    segment.p_offset = 0;
    segment.p_filesz = segment.p_memsz = bytes.size();
    std::memcpy(at, &segment, sizeof segment);
  }
  EXPECT_FALSE(ElfFile::open(file.write(bytes)));
}

TEST(ElfFile, has_unwind_rules)
{
  const auto elf = ElfFile::open(kSelf);
  ASSERT_TRUE(elf);
  EXPECT_NE(elf->unwind_rules(), nullptr);
  elf->drop_bytes();
  EXPECT_NE(elf->unwind_rules(), nullptr);
}

// The leak checker of the asan preset speaks if what was read before is forgotten.
TEST(ElfFile, without_the_section_there_are_no_unwind_rules)
{
  TemporaryFile file;
  std::string bytes = own_bytes();
  for (std::size_t at = 0; (at = bytes.find(".eh_frame", at)) != std::string::npos; ++at)
    bytes[at + 1] = 'x';
  const auto elf = ElfFile::open(file.write(bytes));
  ASSERT_TRUE(elf);
  EXPECT_FALSE(elf->build_id().empty());
  EXPECT_EQ(elf->unwind_rules(), nullptr);
}

TEST(ElfFile, survives_cut_files)
{
  TemporaryFile file;
  const std::string whole = own_bytes();
  for (std::size_t part = 0; part < 12; ++part)
    ask_everything(file.write(whole.substr(0, whole.size() * part / 12)));
}

TEST(ElfFile, survives_a_file_that_is_cut_while_open)
{
  TemporaryFile file;
  const auto elf = ElfFile::open(file.write(own_bytes()));
  ASSERT_TRUE(elf);
  fs::resize_file(file.path(), 4096);
  EXPECT_FALSE(elf->function("pgmt_elf_test_function"));
  EXPECT_FALSE(elf->find_string("pgmt elf test"));
  for (const auto &segment : elf->executable_segments())
    EXPECT_LE(segment.bytes.size(), 4096u);
}

TEST(ElfFile, survives_wrong_bytes)
{
  TemporaryFile file;
  const std::string whole = own_bytes();
  std::mt19937 random(42); // the same damage each time
  const auto damage = [&](std::size_t begin, std::size_t end) {
    std::string bytes = whole;
    for (int i = 0; i < 8; ++i)
      bytes[begin + random() % (end - begin)] = static_cast<char>(random());
    ask_everything(file.write(bytes));
  };
  Elf64_Off sections = 0;
  std::memcpy(&sections, whole.data() + 40, sizeof sections);
  for (int round = 0; round < 6; ++round) {
    damage(4, 1024);                // ELF and program headers
    damage(sections, whole.size()); // section headers
    damage(1024, whole.size());     // anything
  }
}

} // namespace pgmemtrace::test
