// SPDX-License-Identifier: BSD-2-Clause
// sample_clock_test.cpp - the kernel's lists of CPUs.
#include "attach/sample_clock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pgmemtrace::test {

using testing::ElementsAre;
using testing::Optional;

TEST(CpuList, is_read_as_the_kernel_writes_it)
{
  EXPECT_THAT(parse_cpu_list("0"), Optional(ElementsAre(0)));
  EXPECT_THAT(parse_cpu_list("0-3"), Optional(ElementsAre(0, 1, 2, 3)));
  EXPECT_THAT(parse_cpu_list("0-1,4,6-7"), Optional(ElementsAre(0, 1, 4, 6, 7)));
  EXPECT_THAT(parse_cpu_list(""), Optional(ElementsAre())); // of the offline ones, mostly
}

TEST(CpuList, that_is_none_is_refused)
{
  for (const auto *text :
       {"all", "3-1", "0,0", "1-2,2", "0-", "-1", "0,", "0 1", "0-4000000000", "0-99999", "0\n1"})
    EXPECT_FALSE(parse_cpu_list(text)) << text;
}

TEST(CpuList, of_this_machine_has_a_cpu)
{
  EXPECT_FALSE(cpus_in(kOnlineCpus).value().empty());
  EXPECT_FALSE(cpus_in("/nonexistent"));
}

} // namespace pgmemtrace::test
