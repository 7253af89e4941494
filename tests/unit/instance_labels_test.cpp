// SPDX-License-Identifier: BSD-2-Clause
// instance_labels_test.cpp - who is called what, first, second and after a restart.
#include "attach/instance_labels.h"

#include <string>

#include <gtest/gtest.h>

namespace pgmemtrace::test {

namespace {

ServerName server(std::uint64_t inode, const std::string &cluster_name = {},
                  const std::string &container = {})
{
  return {.cluster_name = cluster_name,
          .port = 5432,
          .data_directory = "/data",
          .device = 1,
          .inode = inode,
          .container = container,
          .postmaster = static_cast<pid_t>(100 + inode)};
}

// The same server, started again.
ServerName again(ServerName before)
{
  before.postmaster += 1000;
  return before;
}

} // namespace

TEST(InstanceLabels, cluster_name_is_enough_where_it_is_alone)
{
  InstanceLabels labels;
  EXPECT_EQ(labels.assign(server(1, "main")), "main");
  EXPECT_EQ(labels.assign(server(2, "orders", "pod-0")), "orders");
}

TEST(InstanceLabels, nameless_servers_are_called_after_what_tells_them_apart)
{
  InstanceLabels labels;
  EXPECT_EQ(labels.assign(server(1)), "5432:/data");
  EXPECT_EQ(labels.assign(server(2, "", "pod-0")), "5432:/data@pod-0");
  EXPECT_EQ(labels.assign(server(3, "", "pod-1")), "5432:/data@pod-1");
}

TEST(InstanceLabels, a_taken_label_gets_more_until_it_is_free)
{
  InstanceLabels labels;
  auto elsewhere = server(3, "main");
  elsewhere.data_directory = "/other";
  EXPECT_EQ(labels.assign(server(1, "main")), "main");
  EXPECT_EQ(labels.assign(server(2, "main", "pod-0")), "main@pod-0");
  EXPECT_EQ(labels.assign(elsewhere), "main:/other");
  // Two namespaces without a host name, one port, one path: nothing is left but the pid.
  EXPECT_EQ(labels.assign(server(4)), "5432:/data");
  EXPECT_EQ(labels.assign(server(5)), "5432:/data:105");
}

TEST(InstanceLabels, restarted_servers_keep_their_labels_whoever_comes_first)
{
  InstanceLabels labels;
  const auto one = server(1);
  const auto two = server(2);
  EXPECT_EQ(labels.assign(one), "5432:/data");
  EXPECT_EQ(labels.assign(two), "5432:/data:102");
  labels.release(one.postmaster);
  labels.release(two.postmaster);
  EXPECT_EQ(labels.assign(again(two)), "5432:/data:102");
  EXPECT_EQ(labels.assign(again(one)), "5432:/data");
}

TEST(InstanceLabels, the_label_of_a_server_that_ended_is_not_given_to_another)
{
  InstanceLabels labels;
  const auto gone = server(1, "main");
  labels.assign(gone);
  labels.release(gone.postmaster);
  EXPECT_EQ(labels.assign(server(2, "main", "pod-0")), "main@pod-0");
  EXPECT_EQ(labels.assign(again(gone)), "main");
}

TEST(InstanceLabels, a_directory_made_anew_takes_over_the_label)
{
  InstanceLabels labels;
  const auto gone = server(1, "main");
  labels.assign(gone);
  labels.release(gone.postmaster);
  EXPECT_EQ(labels.assign(server(2, "main")), "main");
}

TEST(InstanceLabels, an_upgraded_container_keeps_the_label_of_its_volume)
{
  InstanceLabels labels;
  const auto before = server(1, "", "3f2a9c");
  EXPECT_EQ(labels.assign(before), "5432:/data@3f2a9c");
  labels.release(before.postmaster);
  auto after = again(before);
  after.container = "77aa01";
  EXPECT_EQ(labels.assign(after), "5432:/data@3f2a9c");
}

TEST(InstanceLabels, a_new_cluster_name_is_a_new_label)
{
  InstanceLabels labels;
  const auto before = server(1, "old");
  labels.assign(before);
  labels.release(before.postmaster);
  auto after = again(before);
  after.cluster_name = "new";
  EXPECT_EQ(labels.assign(after), "new");
}

TEST(InstanceLabels, no_two_servers_share_one_however_many_came_and_went)
{
  InstanceLabels labels;
  const auto lasting = server(1, "main");
  labels.assign(lasting);
  for (std::uint64_t i = 2; i < 5000; ++i) {
    auto other = server(i, "main");
    other.data_directory = "/data" + std::to_string(i);
    EXPECT_NE(labels.assign(other), "main");
    labels.release(other.postmaster);
  }
}

} // namespace pgmemtrace::test
