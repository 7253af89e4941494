// SPDX-License-Identifier: BSD-2-Clause
// dsm_reader_test.cpp - control segments and lists of segments made of bytes.
#include "collect/dsm_reader.h"

#include <cstring>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "collect/dsm_files.h"
#include "fake_process.h"

namespace pgmemtrace::test {
namespace {

namespace fs = std::filesystem;

constexpr pid_t kPostmaster = 100;
constexpr pid_t kBackend = 101;
constexpr std::uint64_t kBias = 0x550000000000;
constexpr DsmVariables kVariables{
    .shared_memory = 0x1000, .segments = 0x1010, .transaction_context = 0x1020, .session = 0x1028};
constexpr std::uint64_t kShared = 0x7f0000000000; // PGShmemHeader
constexpr std::uint64_t kControl = 0x7f0000100000;
constexpr std::uint32_t kControlHandle = 77778;

// A server as dsm.c lays it out: a postmaster with a control segment, a backend with a list.
class FakeDsm : public testing::TestWithParam<int> {
protected:
  FakeDsm() : layout_(*load_layout(GetParam()))
  {
    root_ = fs::path(testing::TempDir()) / ("dsm." + std::to_string(getpid()));
    fs::create_directories(root_ / "100" / "root" / "dev" / "shm");
    std::ofstream(root_ / "100" / "maps")
        << "7f0000100000-7f0000110000 rw-s 00000000 00:1a 5 /dev/shm/PostgreSQL.77778\n";
    postmaster_->map(kBias + 0x1000, 4096);
    postmaster_->put(kBias + kVariables.shared_memory, kShared);
    postmaster_->map(kShared, 4096);
    postmaster_->put(kShared + layout_.shared_memory.magic, std::uint32_t{679834894});
    postmaster_->put(kShared + layout_.shared_memory.control, kControlHandle);
    postmaster_->map(kControl, 0x10000);
    postmaster_->put(kControl + layout_.dsm_control.magic, std::uint32_t{0x9a503d32});
    postmaster_->put(kControl + layout_.dsm_control.maxitems, std::uint32_t{200});
    backend_->map(kBias + 0x1000, 4096);
    empty_list();
  }
  ~FakeDsm() override { fs::remove_all(root_); }

  void item(std::uint32_t handle, std::uint32_t refcnt, bool pinned, std::uint64_t npages = 0)
  {
    const auto &at = layout_.dsm_item;
    const std::uint64_t item =
        kControl + layout_.dsm_control.items + std::uint64_t{at.size} * items_;
    postmaster_->put(item + at.handle, handle);
    postmaster_->put(item + at.refcnt, refcnt);
    postmaster_->put(item + at.pinned, static_cast<std::uint8_t>(pinned));
    if (at.npages != kAbsent)
      postmaster_->put(item + at.npages, npages);
    postmaster_->put(kControl + layout_.dsm_control.nitems, ++items_);
  }

  void empty_list()
  {
    const std::uint64_t head = kBias + kVariables.segments;
    backend_->put(head, head);
    backend_->put(head + 8, head);
  }

  // At the front of the backend's list; its address.
  std::uint64_t mapping(std::uint32_t handle, std::uint64_t bytes, std::uint64_t resowner)
  {
    const auto &at = layout_.dsm_segment;
    const std::uint64_t head = kBias + kVariables.segments;
    const std::uint64_t segment = next_;
    next_ += 4096;
    backend_->map(segment, 4096);
    const auto first = backend_->get<std::uint64_t>(head + 8);
    backend_->put(segment + at.node, head);
    backend_->put(segment + at.node + 8, first);
    backend_->put(first, segment);
    backend_->put(head + 8, segment);
    backend_->put(segment + at.handle, handle);
    backend_->put(segment + at.resowner, resowner);
    backend_->put(segment + at.mapped_address, std::uint64_t{0x7e0000000000});
    backend_->put(segment + at.mapped_size, bytes);
    return segment;
  }

  Result<DsmSnapshot> read(DsmLimits limits = {})
  {
    ProcessIdentity postmaster{.id = {kPostmaster, 1}, .postmaster = kPostmaster};
    DsmReader reader(
        postmaster, layout_, kVariables, kBias, Proc(root_),
        [this](pid_t pid) { return memory_of(pid == kPostmaster ? postmaster_ : backend_); },
        limits);
    const std::vector<DsmReader::Process> processes{
        {.identity = {.id = {kBackend, 2}, .backend_type = "client backend"}, .requests = 9}};
    return reader.read(processes, true);
  }

  DsmSnapshot read_well(DsmLimits limits = {})
  {
    auto snapshot = read(limits);
    EXPECT_TRUE(snapshot) << to_string(snapshot.error());
    return snapshot ? *snapshot : DsmSnapshot{};
  }

  Layout layout_;
  fs::path root_;
  std::shared_ptr<Image> postmaster_ = std::make_shared<Image>();
  std::shared_ptr<Image> backend_ = std::make_shared<Image>();
  std::uint32_t items_ = 0;
  std::uint64_t next_ = 0x560000000000;
};

TEST_P(FakeDsm, segments_are_those_that_the_control_segment_holds)
{
  item(1234, 2, false);
  item(999, 1, false); // on its way out
  item(0, 0, false);   // free
  item(5678, 4, true);
  mapping(1234, 70000, 42);
  mapping(5678, 4096, 0);
  const auto snapshot = read_well();
  ASSERT_EQ(snapshot.segments.size(), 2U);
  const auto &plain = snapshot.segments[0];
  EXPECT_EQ(plain.handle, 1234U);
  EXPECT_EQ(plain.attachments, 1U);
  EXPECT_FALSE(plain.pinned);
  EXPECT_TRUE(plain.settled);
  EXPECT_EQ(plain.bytes, 70000U);
  ASSERT_EQ(plain.mappings.size(), 1U);
  EXPECT_EQ(plain.mappings[0].process.id.pid, kBackend);
  EXPECT_EQ(plain.mappings[0].requests, 9U);
  EXPECT_TRUE(plain.mappings[0].idle);
  EXPECT_FALSE(plain.mappings[0].pinned);
  const auto &pinned = snapshot.segments[1];
  EXPECT_TRUE(pinned.pinned);
  EXPECT_EQ(pinned.attachments, 2U);
  EXPECT_TRUE(pinned.mappings[0].pinned);
  EXPECT_TRUE(snapshot.everybody);
  EXPECT_TRUE(snapshot.complete);
}

TEST_P(FakeDsm, a_transaction_and_the_sessions_own_segment_are_told)
{
  item(1234, 2, false);
  const auto segment = mapping(1234, 65536, 0);
  backend_->put(kBias + kVariables.transaction_context, std::uint64_t{0x1111});
  backend_->put(kBias + kVariables.session, std::uint64_t{0x570000000000});
  backend_->map(0x570000000000, 4096);
  backend_->put(0x570000000000 + layout_.session.segment, segment);
  const auto snapshot = read_well();
  EXPECT_FALSE(snapshot.segments[0].mappings[0].idle);
  EXPECT_TRUE(snapshot.segments[0].mappings[0].session);
}

TEST_P(FakeDsm, what_nobody_has_is_measured_by_its_file)
{
  item(2468, 2, true);
  std::ofstream(root_ / "100" / "root" / "dev" / "shm" / "PostgreSQL.2468") << std::string(5000, 0);
  const auto snapshot = read_well();
  EXPECT_EQ(snapshot.segments[0].bytes, 5000U);
  EXPECT_EQ(snapshot.segments[0].attachments, 0U);
  EXPECT_FALSE(snapshot.segments[0].area);
}

TEST_P(FakeDsm, what_was_seen_once_is_known_when_nobody_can_look)
{
  item(2468, 3, true);
  mapping(2468, 8192, 0);
  backend_->map(0x7e0000000000, 4096);
  ProcessIdentity postmaster{.id = {kPostmaster, 1}, .postmaster = kPostmaster};
  DsmReader reader(postmaster, layout_, kVariables, kBias, Proc(root_), [this](pid_t pid) {
    return memory_of(pid == kPostmaster ? postmaster_ : backend_);
  });
  const std::vector<DsmReader::Process> processes{{.identity = {.id = {kBackend, 2}}}};
  EXPECT_TRUE(reader.read(processes, true)->segments[0].seen);
  empty_list();
  const auto later = reader.read(processes, true);
  EXPECT_TRUE(later->segments[0].seen);
  EXPECT_EQ(later->segments[0].bytes, 8192U);
  EXPECT_FALSE(read_well().segments[0].seen); // by one who never saw it before
}

TEST_P(FakeDsm, a_segment_smaller_than_that_header_is_none)
{
  item(2468, 2, true);
  std::ofstream(root_ / "100" / "root" / "dev" / "shm" / "PostgreSQL.2468") << "a few bytes";
  const auto segment = read_well().segments[0];
  EXPECT_EQ(segment.bytes, 11U);
  EXPECT_TRUE(segment.seen);
  EXPECT_FALSE(segment.area);
}

TEST_P(FakeDsm, a_piece_of_an_area_is_told_by_its_header)
{
  item(2468, 2, true);
  std::string bytes(8192, 0);
  const std::uint32_t magic = 0x0ce26608U ^ 2468U;
  const std::uint64_t size = bytes.size();
  std::memcpy(bytes.data(), &magic, sizeof(magic));
  std::memcpy(bytes.data() + 16, &size, sizeof(size));
  std::ofstream(root_ / "100" / "root" / "dev" / "shm" / "PostgreSQL.2468") << bytes;
  EXPECT_TRUE(read_well().segments[0].area);
}

TEST_P(FakeDsm, the_registry_knows_a_name)
{
  item(2468, 2, true); // the area that has the registry's entries
  item(1357 * 2, 2, true);
  std::string bytes(600000, 0);
  const std::uint32_t magic = 0x0ce26608U ^ 2468U, handle = 1357 * 2;
  const std::uint64_t size = bytes.size(), asked = 3000;
  std::memcpy(bytes.data(), &magic, sizeof(magic));
  std::memcpy(bytes.data() + 16, &size, sizeof(size));
  char *entry = bytes.data() + 262144 - 40; // across two of the reader's steps
  std::strcpy(entry, "my_extension");
  std::memcpy(entry + 64, &handle, sizeof(handle));
  std::memcpy(entry + 72, &asked, sizeof(asked));
  std::ofstream(root_ / "100" / "root" / "dev" / "shm" / "PostgreSQL.2468") << bytes;
  std::ofstream(root_ / "100" / "root" / "dev" / "shm" / "PostgreSQL.2714")
      << std::string(asked, 0);
  EXPECT_EQ(read_well().segments[1].registered, GetParam() >= 17);
  EXPECT_FALSE(read_well({.search = 0}).segments[1].registered);
  EXPECT_FALSE(read_well({.searches = 0}).segments[1].registered);
}

TEST_P(FakeDsm, an_odd_handle_is_a_part_of_main_shared_memory)
{
  if (GetParam() < 14)
    return; // all handles are the system's there
  item(1235, 2, false, 3);
  EXPECT_TRUE(read_well().segments[0].in_main);
  EXPECT_EQ(read_well().segments[0].bytes, 3 * 4096U);
}

TEST_P(FakeDsm, what_changes_while_we_look_is_not_settled)
{
  item(1234, 2, false);
  mapping(1234, 65536, 0);
  backend_->before_read = [&] {
    postmaster_->put(kControl + layout_.dsm_control.items + layout_.dsm_item.refcnt,
                     std::uint32_t{3});
  };
  EXPECT_FALSE(read_well().segments[0].settled);
}

TEST_P(FakeDsm, garbage_is_refused_or_bounded)
{
  item(1234, 2, false);
  // A list that leads nowhere, one without an end, one that is longer than we follow it.
  const auto segment = mapping(1234, 1ULL << 60, 0);
  EXPECT_EQ(read_well().segments[0].bytes, 0U); // no size at all
  backend_->put(segment + layout_.dsm_segment.node + 8, std::uint64_t{0xdead});
  EXPECT_FALSE(read_well().everybody);
  backend_->put(segment + layout_.dsm_segment.node + 8, segment);
  EXPECT_FALSE(read_well().everybody);
  empty_list();
  for (int i = 0; i < 20; ++i)
    mapping(1234, 4096, 0);
  EXPECT_FALSE(read_well({.mappings = 10}).complete);
  // A backend that cannot be read.
  backend_->gone = ESRCH;
  EXPECT_FALSE(read_well().everybody);

  postmaster_->put(kControl + layout_.dsm_control.nitems, std::uint32_t{0xffffffff});
  EXPECT_FALSE(read());
  postmaster_->put(kControl + layout_.dsm_control.maxitems, std::uint32_t{0xffffffff});
  EXPECT_FALSE(read()); // more than its mapping holds
  postmaster_->put(kControl + layout_.dsm_control.magic, std::uint32_t{1});
  EXPECT_FALSE(read());
  postmaster_->put(kShared + layout_.shared_memory.control, std::uint32_t{4});
  EXPECT_FALSE(read()); // not mapped
  postmaster_->put(kBias + kVariables.shared_memory, std::uint64_t{0});
  EXPECT_FALSE(read());
}

TEST_P(FakeDsm, a_server_that_restarted_after_a_crash_has_another_control_segment)
{
  item(1234, 2, false);
  ProcessIdentity postmaster{.id = {kPostmaster, 1}, .postmaster = kPostmaster};
  DsmReader reader(postmaster, layout_, kVariables, kBias, Proc(root_),
                   [this](pid_t) { return memory_of(postmaster_); });
  ASSERT_EQ(reader.read({}, true)->segments.size(), 1U);
  constexpr std::uint64_t kOther = 0x7f0000200000;
  std::ofstream(root_ / "100" / "maps")
      << "7f0000200000-7f0000210000 rw-s 00000000 00:1a 5 /SYSV0000007b (deleted)\n";
  postmaster_->map(kOther, 4096);
  postmaster_->put(kOther + layout_.dsm_control.magic, std::uint32_t{0x9a503d32});
  postmaster_->put(kShared + layout_.shared_memory.control, std::uint32_t{0x7b});
  const auto after = reader.read({}, true);
  ASSERT_TRUE(after);
  EXPECT_TRUE(after->segments.empty());
}

INSTANTIATE_TEST_SUITE_P(EveryMajor, FakeDsm, testing::Values(13, 14, 15, 16, 17, 18));

TEST(DsmHandle, is_in_the_name_of_each_kind_of_mapping)
{
  EXPECT_TRUE(is_mapping_of("/dev/shm/PostgreSQL.4294967294", 4294967294U));
  EXPECT_TRUE(is_mapping_of("/srv/data/pg_dynshmem/mmap.12", 12));
  EXPECT_TRUE(is_mapping_of("/SYSV0000007b", 123));
  EXPECT_TRUE(is_mapping_of("/SYSV5a0b7cea", 0xa5f48316)); // no key is negative
  EXPECT_FALSE(is_mapping_of("/SYSVa5f48316", 0xa5f48316));
  EXPECT_FALSE(is_mapping_of("/dev/shm/PostgreSQL.112", 12));
  EXPECT_FALSE(is_mapping_of("/dev/shm/PostgreSQL.12x", 12));
  EXPECT_FALSE(is_mapping_of("/dev/zero", 0));
}

} // namespace
} // namespace pgmemtrace::test
