// SPDX-License-Identifier: BSD-2-Clause
// recording_test.cpp - what was recorded comes back as it was, and no file can do harm.
#include <csignal>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "recording/recording_file.h"
#include "recording_fixture.h"
#include "util/gzip.h"

namespace pgmemtrace::test {
namespace {

using testing::HasSubstr;

class Folder {
public:
  Folder()
  {
    std::string name = "/tmp/pgmt-recording.XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const char *name) const { return path_ / name; }
  std::ptrdiff_t files() const
  {
    return std::distance(std::filesystem::directory_iterator(path_), {});
  }

private:
  std::filesystem::path path_;
};

void write_file(const std::string &path, const std::string &contents)
{
  std::ofstream(path) << contents;
}

TEST(RecordingFile, comes_back_as_it_was)
{
  const auto recording = small_recording();
  const auto again = unpack(pack(recording));
  ASSERT_TRUE(again) << to_string(again.error());
  EXPECT_EQ(again->processes.at(1).contexts.at(0).allocations.at(1).stack, 2u);
  EXPECT_EQ(again->processes.at(0).user, "eve");
  EXPECT_TRUE(again->processes.at(0).exited);
  EXPECT_EQ(again->frames.at(4).code, recording.frames.at(4).code);
  EXPECT_EQ(again->losses, recording.losses);
  EXPECT_EQ(again->samples.at(1).contexts.at(1).bytes, 4000);
  EXPECT_EQ(pack(*again), pack(recording)); // and nothing else was lost
}

TEST(RecordingFile, statements_and_what_stacks_returned_come_back)
{
  const auto recording = heap_recording();
  const auto again = unpack(pack(recording));
  ASSERT_TRUE(again) << to_string(again.error());
  EXPECT_TRUE(again->by_query);
  EXPECT_EQ(again->queries.at(0).id, -42);
  EXPECT_EQ(again->processes.at(0).contexts.at(1).allocations.at(1).query, 1u);
  EXPECT_EQ(again->processes.at(0).contexts.at(1).allocations.at(1).returned, 1000u);
  EXPECT_EQ(pack(*again), pack(recording));
  EXPECT_FALSE(unpack(pack(small_recording()))->by_query);
}

TEST(RecordingFile, names_that_are_no_utf8_are_no_obstacle)
{
  auto recording = small_recording();
  recording.processes[0].contexts[0].name = "bad\xff\x01name";
  recording.frames[0].function = "\xc3";
  EXPECT_TRUE(unpack(pack(recording)));
}

TEST(RecordingFile, cut_short_anywhere_is_an_error)
{
  const auto whole = pack(small_recording());
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_FALSE(unpack(whole.substr(0, length))) << length;
}

TEST(RecordingFile, one_flipped_byte_is_an_error_or_harmless)
{
  const auto whole = pack(small_recording());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    auto damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x55);
    (void)unpack(damaged); // the sanitizers watch
  }
}

struct Foreign {
  const char *what, *document;
};

TEST(RecordingFile, foreign_documents_are_errors)
{
  const Foreign documents[] = {
      {"no JSON", "hello"},
      {"no object", "[]"},
      {"another format", R"({"format":"something"})"},
      {"a later version", R"({"format":"pgmemtrace recording","version":99})"},
      {"nothing in it", R"({"format":"pgmemtrace recording","version":1})"},
      {"a wrong type", R"({"format":"pgmemtrace recording","version":"one"})"},
  };
  for (const auto &[what, document] : documents) {
    const auto read = unpack(gzip(document));
    ASSERT_FALSE(read) << what;
    EXPECT_THAT(to_string(read.error()), HasSubstr("read the recording")) << what;
  }
}

TEST(RecordingFile, numbers_that_are_not_whole_are_errors)
{
  auto document = nlohmann::json::parse(*gunzip(pack(small_recording()), kLargestRecording));
  ASSERT_TRUE(unpack(gzip(document.dump())));
  for (const nlohmann::json &number :
       {nlohmann::json(8e97), nlohmann::json(0.5), nlohmann::json(-1), nlohmann::json("1"),
        nlohmann::json(true)}) {
    auto wrong = document;
    wrong["duration_ms"] = number;
    EXPECT_FALSE(unpack(gzip(wrong.dump()))) << number;
  }
}

TEST(RecordingFile, indexes_out_of_range_are_errors)
{
  auto stack = small_recording();
  stack.processes[0].contexts[0].allocations[0].stack = 3;
  EXPECT_FALSE(unpack(pack(stack)));
  auto frame = small_recording();
  frame.stacks[0][0] = 5;
  EXPECT_FALSE(unpack(pack(frame)));
  auto name = small_recording();
  name.samples[1].contexts[0].name = 2;
  EXPECT_FALSE(unpack(pack(name)));
  auto query = heap_recording();
  query.processes[0].contexts[0].allocations[0].query = 3;
  EXPECT_FALSE(unpack(pack(query)));
}

TEST(RecordingFile, deep_and_huge_documents_are_errors)
{
  EXPECT_FALSE(unpack(gzip(std::string(1 << 20, '['))));
  EXPECT_FALSE(unpack(gzip(std::string(kLargestRecording + 1, ' ')))); // packs to 64 KiB
}

TEST(RecordingFile, only_regular_files_are_read)
{
  EXPECT_FALSE(read_recording("/nonexistent/file"));
  EXPECT_FALSE(read_recording("/dev/zero"));
  EXPECT_FALSE(read_recording("/tmp"));
}

TEST(NewFile, is_there_when_it_is_committed)
{
  Folder folder;
  {
    auto file = NewFile::create(folder / "a");
    ASSERT_TRUE(file);
    EXPECT_FALSE(std::filesystem::exists(folder / "a"));
    ASSERT_TRUE(file->commit(pack(small_recording())));
  }
  EXPECT_TRUE(read_recording(folder / "a"));
  EXPECT_EQ(folder.files(), 1);
}

TEST(NewFile, leaves_nothing_when_it_is_not)
{
  Folder folder;
  write_file(folder / "a", "earlier");
  {
    auto file = NewFile::create(folder / "a");
    ASSERT_TRUE(file);
  }
  EXPECT_EQ(folder.files(), 1);
  EXPECT_EQ(std::filesystem::file_size(folder / "a"), 7u);
}

TEST(NewFile, a_disk_that_fills_up_leaves_no_half_file)
{
  Folder folder;
  const auto ignored = signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit tight{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  {
    auto file = NewFile::create(folder / "a");
    ASSERT_TRUE(file);
    setrlimit(RLIMIT_FSIZE, &tight);
    EXPECT_FALSE(file->commit(std::string(10'000, 'x')));
    setrlimit(RLIMIT_FSIZE, &before);
  }
  signal(SIGXFSZ, ignored);
  EXPECT_EQ(folder.files(), 0);
}

TEST(NewFile, refuses_devices_and_folders_that_are_not_there)
{
  EXPECT_FALSE(NewFile::create("/dev/null"));
  EXPECT_FALSE(NewFile::create("/nonexistent/file"));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST(RecordingFile, keeps_requests_where_there_are_any)
{
  const auto read = unpack(pack(requests_recording()));
  ASSERT_TRUE(read);
  const auto &requests = read->processes[0].contexts[0].allocations[0].requests;
  ASSERT_TRUE(requests);
  EXPECT_EQ(requests->allocs, 4U);
  EXPECT_EQ(requests->frees, 1U);
  EXPECT_EQ(requests->asked, 800U);
  EXPECT_EQ(requests->live, 768U);
  EXPECT_FALSE(read->processes[1].contexts[0].allocations[0].requests);
}

} // namespace
} // namespace pgmemtrace::test
