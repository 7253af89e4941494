// SPDX-License-Identifier: BSD-2-Clause
// sweep_hostile_test.cpp - trees that lie, change under the reader, or end: never a hang, a
// crash or a number that is wrong.
#include <cerrno>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "collect/context_header.h"
#include "fake_process.h"

namespace pgmemtrace::test {
namespace {

using testing::HasSubstr;

struct HostileSweep : testing::Test {
  FakeProcess process{layout_15()};
  std::uint64_t top = process.alloc_set(0, "TopMemoryContext", 8192);
  const Layout &layout = process.layout();

  Sweeper::Tree sweep(Pass pass = Pass::exact, SweepLimits limits = {})
  {
    auto sweeper = process.sweeper(limits);
    auto tree = sweeper.sweep(pass);
    EXPECT_TRUE(tree) << to_string(tree.error());
    return tree ? *tree : Sweeper::Tree{};
  }
  std::uint64_t keeper(std::uint64_t context)
  {
    return process.image().get<std::uint64_t>(context + layout.aset.blocks);
  }
};

// Of a layout that somebody made for --postgres-btf: readers hold kMaxImage bytes of a header.
TEST(HeaderDecoder, reads_no_more_than_an_image_by_any_layout)
{
  Layout layout = layout_15();
  layout.slab.size = 2 * HeaderDecoder::kMaxImage;
  const HeaderDecoder decoder(layout);
  EXPECT_LE(decoder.image_size(), HeaderDecoder::kMaxImage);
  EXPECT_LE(decoder.least_size(), decoder.image_size());
}

TEST_F(HostileSweep, a_circle_among_the_children_ends)
{
  const auto first = process.alloc_set(top, "first");
  const auto second = process.alloc_set(top, "second");
  process.image().put(first + layout.context.nextchild, second);
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  EXPECT_EQ(tree.contexts.size(), 3U);
  EXPECT_THAT(tree.incomplete_reason, HasSubstr("kept changing"));
}

TEST_F(HostileSweep, a_child_that_is_its_own_ancestor_ends)
{
  const auto child = process.alloc_set(top, "child");
  process.image().put(child + layout.context.firstchild, top);
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  EXPECT_EQ(tree.contexts.size(), 2U);
}

TEST_F(HostileSweep, a_child_of_somebody_else_is_left_out)
{
  const auto child = process.alloc_set(top, "child");
  process.alloc_set(top, "other");
  process.image().put(child + layout.context.parent, std::uint64_t{0x12345678});
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  EXPECT_EQ(tree.contexts.size(), 2U);
}

TEST_F(HostileSweep, what_is_no_context_is_left_out)
{
  const auto child = process.alloc_set(top, "child");
  process.image().put(child + layout.context.type, std::uint32_t{7});
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  EXPECT_EQ(tree.contexts.size(), 1U);
}

TEST_F(HostileSweep, an_unreadable_page_costs_what_is_on_it)
{
  for (int i = 0; i < 100; ++i)
    process.alloc_set(top, "child", 2048);
  const auto lost = process.alloc_set(top, "lost", 16384);
  process.alloc_set(top, "newest", 16384);
  process.image().unmap(lost);
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  EXPECT_EQ(tree.contexts.size(), 2U);
  EXPECT_THAT(tree.incomplete_reason, HasSubstr("cannot be read"));
}

TEST_F(HostileSweep, wild_pointers_are_not_followed)
{
  for (const std::uint64_t wild : {std::uint64_t{1}, std::uint64_t{8}, ~std::uint64_t{7},
                                   std::uint64_t{0xffffffffff600000}, std::uint64_t{1} << 55}) {
    const auto child = process.alloc_set(top, "child");
    process.image().put(child + layout.context.firstchild, wild);
    process.image().put(keeper(child) + layout.aset_block.next, wild);
    const auto tree = sweep();
    EXPECT_FALSE(tree.complete);
    EXPECT_FALSE(tree.contexts[1].exact);
    process.remove(child);
  }
}

TEST_F(HostileSweep, a_large_tree_is_read_whole)
{
  for (int i = 0; i < 19999; ++i)
    process.alloc_set(top, "child");
  for (const Pass pass : {Pass::header, Pass::exact}) {
    const auto tree = sweep(pass);
    EXPECT_TRUE(tree.complete) << tree.incomplete_reason;
    EXPECT_EQ(tree.contexts.size(), 20000U);
  }
}

TEST_F(HostileSweep, a_deep_tree_is_read_whole)
{
  auto parent = top;
  for (int i = 0; i < 199; ++i)
    parent = process.alloc_set(parent, "deeper");
  const auto tree = sweep();
  EXPECT_TRUE(tree.complete) << tree.incomplete_reason;
  EXPECT_EQ(tree.contexts.back().level, 200);
}

TEST_F(HostileSweep, bounds_are_kept_and_named)
{
  auto parent = top;
  for (int i = 0; i < 20; ++i) {
    parent = process.alloc_set(parent, "deeper");
    process.add_free_chunk(parent, 1);
  }
  auto tree = sweep(Pass::header, {.contexts = 10});
  EXPECT_EQ(tree.contexts.size(), 10U);
  EXPECT_THAT(tree.incomplete_reason, HasSubstr("larger than 10 contexts"));
  tree = sweep(Pass::header, {.depth = 7});
  EXPECT_EQ(tree.contexts.size(), 7U);
  EXPECT_THAT(tree.incomplete_reason, HasSubstr("deeper than 7 levels"));
  tree = sweep(Pass::exact, {.blocks = 5});
  EXPECT_EQ(tree.contexts.size(), 21U);
  EXPECT_THAT(tree.incomplete_reason, HasSubstr("the bound"));
  tree = sweep(Pass::exact, {.free_chunks = 5});
  EXPECT_FALSE(tree.complete);
  tree = sweep(Pass::exact, {.contexts = 21, .depth = 21, .blocks = 21, .free_chunks = 20});
  EXPECT_TRUE(tree.complete) << tree.incomplete_reason;
}

TEST_F(HostileSweep, circles_of_blocks_and_free_chunks_end)
{
  const auto blocks = process.alloc_set(top, "blocks");
  const auto second = process.add_block(blocks, 8192, 100);
  process.image().put(second + layout.aset_block.next, second);
  const auto chunks = process.alloc_set(top, "chunks", 8192);
  const auto chunk = process.add_free_chunk(chunks, 0);
  process.image().put(chunk + 8, chunk);
  const auto slab = process.slab(top, "slab", 100, 10, {3, 3});
  const auto head = slab + layout.slab.freelist + 3 * 16;
  const auto node = process.image().get<std::uint64_t>(head + 8);
  process.image().put(node + 8, node);
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  ASSERT_EQ(tree.contexts.size(), 4U);
  for (std::size_t i = 1; i < 4; ++i)
    EXPECT_FALSE(tree.contexts[i].exact) << tree.contexts[i].name;
  EXPECT_TRUE(tree.contexts[0].exact);
}

TEST_F(HostileSweep, a_free_chunk_of_another_context_is_not_counted)
{
  const auto mine = process.alloc_set(top, "mine", 8192);
  const auto other = process.alloc_set(top, "other", 8192);
  process.add_free_chunk(mine, 2);
  const auto chunk = process.add_free_chunk(other, 2);
  process.image().put(mine + layout.aset.freelist + 16, chunk);
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  EXPECT_TRUE(tree.contexts[1].exact);
  EXPECT_FALSE(tree.contexts[2].exact);
  EXPECT_EQ(tree.contexts[2].total_bytes, 8192U) << "mem_allocated says so at any moment";
}

TEST_F(HostileSweep, sums_that_contradict_mem_allocated_are_not_exact)
{
  process.image().put(top + layout.context.mem_allocated, std::uint64_t{9000});
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  EXPECT_FALSE(tree.contexts[0].exact);
}

TEST_F(HostileSweep, a_slab_with_nonsense_sizes_is_not_exact)
{
  const auto slab = process.slab(top, "slab", 100, 10, {3});
  process.image().put(slab + layout.slab.chunks_per_block, std::int32_t{0x7fffffff});
  const auto tree = sweep();
  EXPECT_FALSE(tree.complete);
  EXPECT_FALSE(tree.contexts[1].exact);
}

// From 16 on the number of lists says nothing of the chunks in a block.  Eight blocks of 2^30 free
// chunks of 2^31 bytes have, modulo 2^64, no free byte: that would fit.
TEST(HostileSlab, chunks_that_no_block_can_hold_are_not_counted)
{
  FakeProcess process(layout_17());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  const int chunks = 1 << 30;
  const auto slab = process.slab(top, "TXN", 8, 30, std::vector<int>(8, 3));
  const Layout &layout = process.layout();
  process.image().put(slab + layout.slab.full_chunk_size, std::uint32_t{1} << 31);
  process.image().put(slab + layout.slab.chunks_per_block, std::int32_t{chunks});
  auto node = process.image().get<std::uint64_t>(slab + layout.slab.blocklist + 8);
  for (int i = 0; i < 8; ++i) {
    process.image().put(node - layout.slab_block.node + layout.slab_block.nfree,
                        std::int32_t{chunks});
    node = process.image().get<std::uint64_t>(node + 8);
  }
  const auto tree = process.sweeper().sweep(Pass::exact);
  ASSERT_TRUE(tree);
  EXPECT_FALSE(tree->complete);
  EXPECT_FALSE(tree->contexts.back().exact);
}

// ---- torn reads ----------------------------------------------------------------------

TEST_F(HostileSweep, a_change_in_the_middle_is_read_again)
{
  const auto child = process.alloc_set(top, "child");
  int reads = 0;
  const auto allocated = child + layout.context.mem_allocated;
  process.image().put(allocated, std::uint64_t{1025}); // caught between two stores
  process.image().before_read = [&] {
    if (++reads == 8)
      process.image().put(allocated, std::uint64_t{1024});
  };
  auto sweeper = process.sweeper();
  const auto tree = sweeper.sweep(Pass::exact);
  ASSERT_TRUE(tree);
  EXPECT_TRUE(tree->complete) << tree->incomplete_reason;
  EXPECT_TRUE(tree->contexts[1].exact);
  EXPECT_EQ(tree->contexts[1].total_bytes, 1024U);
  EXPECT_GT(sweeper.stats().retries, 0U);
}

TEST_F(HostileSweep, a_context_deleted_while_it_is_counted_is_gone)
{
  const auto child = process.alloc_set(top, "child");
  process.alloc_set(top, "other");
  auto sweeper = process.sweeper();
  ASSERT_TRUE(sweeper.sweep(Pass::header));
  int reads = 0;
  process.image().before_read = [&] {
    if (++reads == 3) { // after the variable and the headers
      process.remove(child);
      process.image().put(child + layout.context.type, std::uint32_t{0});
      process.image().put(child + layout.aset.blocks, std::uint64_t{0});
    }
  };
  const auto tree = sweeper.sweep(Pass::exact);
  ASSERT_TRUE(tree);
  EXPECT_TRUE(tree->complete) << tree->incomplete_reason;
  EXPECT_EQ(tree->contexts.size(), 2U);
}

TEST_F(HostileSweep, a_process_that_never_holds_still_ends)
{
  const auto child = process.alloc_set(top, "child");
  std::uint64_t reads = 0;
  process.image().before_read = [&] {
    process.image().put(child + layout.context.prevchild, ++reads % 2 * 4096);
    process.image().put(child + layout.context.mem_allocated, 1024 + reads);
  };
  for (const Pass pass : {Pass::header, Pass::changed, Pass::exact}) {
    const auto tree = sweep(pass);
    EXPECT_LE(tree.contexts.size(), 2U);
  }
}

TEST_F(HostileSweep, a_process_that_exits_meanwhile_is_an_error)
{
  for (int i = 0; i < 50; ++i)
    process.add_block(process.alloc_set(top, "child"), 4096, 50);
  for (int exits_at = 1; exits_at <= 4; ++exits_at) {
    auto sweeper = process.sweeper();
    int reads = 0;
    process.image().before_read = [&] { process.image().gone = ++reads >= exits_at ? ESRCH : 0; };
    const auto tree = sweeper.sweep(Pass::exact);
    ASSERT_FALSE(tree);
    EXPECT_EQ(tree.error().err, ESRCH);
  }
}

TEST_F(HostileSweep, refused_reads_say_what_to_do)
{
  process.image().gone = EPERM;
  auto sweeper = process.sweeper();
  const auto tree = sweeper.sweep(Pass::header);
  ASSERT_FALSE(tree);
  EXPECT_EQ(tree.error().err, EPERM);
  EXPECT_THAT(tree.error().hint, HasSubstr("CAP_SYS_PTRACE"));
}

TEST_F(HostileSweep, a_process_without_a_tree_is_an_error)
{
  process.image().put(FakeProcess::kVariable, std::uint64_t{0});
  EXPECT_FALSE(process.sweeper().sweep(Pass::header));
  process.image().put(FakeProcess::kVariable, std::uint64_t{0xdead0000});
  EXPECT_FALSE(process.sweeper().sweep(Pass::header));
  process.image().put(FakeProcess::kVariable, process.text("not a context at all"));
  EXPECT_FALSE(process.sweeper().sweep(Pass::header));
}

// A poor man's fuzzer: one word of the image at a time becomes something else.
TEST_F(HostileSweep, any_word_may_be_garbage)
{
  const auto child = process.alloc_set(top, "child", 8192);
  process.add_block(child, 8192, 500);
  process.add_free_chunk(child, 3);
  process.add_free_chunk(child, 3);
  const auto slab = process.slab(top, "slab", 100, 4, {0, 2, 4});
  const auto generation = process.generation(top, "generation", {{}, {}});
  const auto end = process.text("the end of what was allocated");
  std::mt19937_64 random(15);
  std::vector<std::uint64_t> targets;
  for (const auto context : {top, child, slab, generation})
    for (std::uint64_t offset = 0; offset < 320; offset += 4)
      targets.push_back(context + offset);
  for (const auto target : targets) {
    const auto before = process.image().get<std::uint64_t>(target);
    for (const std::uint64_t value :
         {std::uint64_t{0}, ~std::uint64_t{0}, random(), top + random() % (end - top) / 8 * 8}) {
      process.image().put(target, value);
      for (const Pass pass : {Pass::header, Pass::exact}) {
        auto sweeper = process.sweeper({.contexts = 64, .blocks = 1000, .free_chunks = 1000});
        const auto tree = sweeper.sweep(pass);
        if (tree) {
          for (const Context &context : tree->contexts)
            EXPECT_LE(context.free_bytes, context.total_bytes);
        }
      }
    }
    process.image().put(target, before);
  }
}

} // namespace
} // namespace pgmemtrace::test
