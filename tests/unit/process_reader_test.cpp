// SPDX-License-Identifier: BSD-2-Clause
// process_reader_test - the statement that runs, read from a process: our own memory is the server.
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

#include "collect/process_reader.h"

namespace pgmemtrace::test {
namespace {

constexpr std::uint64_t kNowhere = 0x10; // never mapped

template <typename T> std::uint64_t address_of(const T *object)
{
  return reinterpret_cast<std::uintptr_t>(object);
}

class CurrentStatement : public testing::Test {
protected:
  CurrentStatement()
  {
    binary_.layout = *load_layout(15);
    process_.binary = &binary_;
    process_.identity.id = {getpid(), 1};
    const auto &planned = binary_.layout.planned_stmt;
    put(planned_, planned.query_id, std::uint64_t{4711});
    put(planned_, planned.location, std::int32_t{10});
    put(planned_, planned.length, std::int32_t{8});
    const auto &query = binary_.layout.query_desc;
    put(query_desc_, query.planned_stmt, address_of(planned_.data()));
    put(query_desc_, query.source_text, address_of(text_));
    slot_.statements = 1;
    binary_.globals.debug_query_string = address_of(&query_string_);
    process_.identity.backend_type = "client backend";
  }

  template <typename T, std::size_t size>
  static void put(std::array<std::byte, size> &object, std::uint32_t offset, T value)
  {
    std::memcpy(object.data() + offset, &value, sizeof(value));
  }

  // As the kernel half sees it.
  Activity read()
  {
    Activity activity;
    activity.in_statement = true;
    ProcessReader(process_, Proc()).read_statement(&slot_, activity);
    return activity;
  }

  // As the process itself has it in hand.
  Activity read_in_hand()
  {
    Activity activity;
    ProcessReader reader(process_, Proc());
    ProcessSnapshot snapshot;
    reader.read(snapshot);
    if (after_read_)
      after_read_();
    reader.read_statement(nullptr, activity);
    return activity;
  }

  const char *text_ = "SELECT 1; SELECT 2; SELECT 3";
  std::array<std::byte, 256> planned_{};
  std::array<std::byte, 256> query_desc_{};
  pgmt_process slot_{};
  const char *query_string_ = nullptr; // debug_query_string
  std::function<void()> after_read_;
  Binary binary_;
  ServerProcess process_;
};

TEST_F(CurrentStatement, of_the_executor_is_its_part_of_the_text)
{
  slot_.phase = PGMT_PHASE_EXECUTE;
  slot_.query_desc = address_of(query_desc_.data());
  EXPECT_EQ(read().current_query, "SELECT 2");
  EXPECT_EQ(read().current_query_id, 4711u);
}

TEST_F(CurrentStatement, of_a_utility_has_no_query_desc)
{
  slot_.phase = PGMT_PHASE_UTILITY;
  slot_.query_desc = kNowhere; // of the statement before
  slot_.utility_stmt = address_of(planned_.data());
  slot_.utility_text = address_of(text_);
  EXPECT_EQ(read().current_query, "SELECT 2");
  EXPECT_EQ(read().current_query_id, 4711u);
}

TEST_F(CurrentStatement, that_was_joined_midway_is_the_whole_text)
{
  slot_.phase = PGMT_PHASE_UTILITY;
  slot_.utility_text = address_of(text_);
  EXPECT_EQ(read().current_query, text_);
  EXPECT_EQ(read().current_query_id, 0u);
}

TEST_F(CurrentStatement, is_unknown_when_idle)
{
  slot_.phase = PGMT_PHASE_IDLE;
  slot_.query_desc = address_of(query_desc_.data());
  EXPECT_EQ(read().current_query, "");
}

TEST_F(CurrentStatement, is_unknown_when_its_pointers_lead_nowhere)
{
  slot_.phase = PGMT_PHASE_EXECUTE;
  slot_.query_desc = kNowhere;
  EXPECT_EQ(read().current_query, "");
  slot_.query_desc = address_of(query_desc_.data());
  put(query_desc_, 16, kNowhere); // sourceText
  EXPECT_EQ(read().current_query, "");
}

TEST_F(CurrentStatement, is_cut_where_its_text_ends)
{
  put(planned_, 120, std::int32_t{20});      // stmt_location
  put(planned_, 124, std::int32_t{1 << 20}); // stmt_len
  slot_.phase = PGMT_PHASE_EXECUTE;
  slot_.query_desc = address_of(query_desc_.data());
  EXPECT_EQ(read().current_query, "SELECT 3");
}

TEST_F(CurrentStatement, whose_start_was_not_seen_is_what_the_process_has_in_hand)
{
  query_string_ = text_;
  EXPECT_EQ(read_in_hand().current_query, text_);
  EXPECT_TRUE(read_in_hand().in_statement);
}

TEST_F(CurrentStatement, is_none_between_messages)
{
  EXPECT_EQ(read_in_hand().current_query, "");
  EXPECT_FALSE(read_in_hand().in_statement);
}

TEST_F(CurrentStatement, that_ended_while_it_was_read_is_none)
{
  query_string_ = text_;
  after_read_ = [this] { query_string_ = nullptr; };
  EXPECT_EQ(read_in_hand().current_query, "");
  EXPECT_FALSE(read_in_hand().in_statement);
}

// Its one command lasts as long as it does.
TEST_F(CurrentStatement, is_none_of_a_walsender)
{
  query_string_ = "START_REPLICATION";
  process_.identity.backend_type = "walsender";
  EXPECT_FALSE(read_in_hand().in_statement);
}

} // namespace
} // namespace pgmemtrace::test
