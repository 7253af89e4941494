// SPDX-License-Identifier: BSD-2-Clause
// close_looks_test - whose statements are probed at their start, and for how long.
#include "close_looks.h"

#include <gmock/gmock.h>

namespace pgmemtrace::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;

class CloseLooksTest : public testing::Test {
protected:
  // Growth that is seen every 100 ms for so long.
  void grow(const ProcessId &process, CloseLooks::Duration lasting)
  {
    const auto until = now_ + lasting;
    for (; now_ <= until; now_ += milliseconds(100))
      looks_.grew(process, now_);
  }

  CloseLooks looks_{
      {.at_a_time = 2, .after = seconds(1), .gap = seconds(3), .for_another = seconds(20)}};
  CloseLooks::Time now_{seconds(100)};
  const ProcessId one_{1, 10}, two_{2, 10}, three_{3, 10};
};

TEST_F(CloseLooksTest, who_grows_for_a_while_is_wanted)
{
  grow(one_, milliseconds(500));
  EXPECT_THAT(looks_.wanted(), IsEmpty());
  grow(one_, milliseconds(600));
  EXPECT_THAT(looks_.wanted(), ElementsAre(one_));
}

TEST_F(CloseLooksTest, growth_now_and_then_is_not)
{
  for (int i = 0; i < 10; ++i) {
    looks_.grew(one_, now_);
    now_ += seconds(4);
    EXPECT_THAT(looks_.over(now_), IsEmpty());
  }
  EXPECT_THAT(looks_.wanted(), IsEmpty());
}

TEST_F(CloseLooksTest, slow_growth_without_a_long_pause_is)
{
  for (int i = 0; i < 3; ++i) {
    looks_.grew(one_, now_);
    now_ += seconds(2);
    EXPECT_THAT(looks_.over(now_), IsEmpty());
  }
  EXPECT_THAT(looks_.wanted(), ElementsAre(one_));
}

TEST_F(CloseLooksTest, it_is_over_some_time_after_the_growth)
{
  grow(one_, seconds(2));
  now_ += seconds(15);
  EXPECT_THAT(looks_.over(now_), IsEmpty());
  looks_.grew(one_, now_); // once more: so long again
  now_ += seconds(19);
  EXPECT_THAT(looks_.over(now_), IsEmpty());
  now_ += seconds(2);
  EXPECT_THAT(looks_.over(now_), ElementsAre(one_));
  EXPECT_THAT(looks_.wanted(), IsEmpty());
  EXPECT_THAT(looks_.over(now_), IsEmpty());
}

TEST_F(CloseLooksTest, a_place_that_gets_free_is_taken_by_who_still_grows)
{
  grow(one_, seconds(2));
  grow(two_, seconds(2));
  grow(three_, seconds(2));
  EXPECT_THAT(looks_.wanted(), ElementsAre(one_, two_));
  looks_.forget(one_);
  looks_.grew(three_, now_);
  EXPECT_THAT(looks_.wanted(), ElementsAre(two_, three_));
}

// As whoever attaches finds out.
TEST_F(CloseLooksTest, those_who_are_gone_are_forgotten_while_the_others_are_gone_through)
{
  grow(one_, seconds(2));
  grow(two_, seconds(2));
  std::size_t seen = 0;
  for (const auto &process : looks_.wanted()) {
    ++seen;
    looks_.forget(process);
  }
  EXPECT_EQ(seen, 2u);
  EXPECT_THAT(looks_.wanted(), IsEmpty());
}

} // namespace
} // namespace pgmemtrace::test
