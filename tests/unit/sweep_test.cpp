// SPDX-License-Identifier: BSD-2-Clause
// sweep_test.cpp - what the sweep says of trees that hold still, and of changes between two.
#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_process.h"

namespace pgmemtrace::test {
namespace {

using testing::ElementsAre;
using testing::Optional;

std::vector<std::string> names(const Sweeper::Tree &tree)
{
  std::vector<std::string> result;
  for (const Context &context : tree.contexts)
    result.push_back(std::string(static_cast<std::size_t>(context.level), '.') + context.name);
  return result;
}

const Context &find(const Sweeper::Tree &tree, const std::string &name)
{
  const auto it = std::ranges::find(tree.contexts, name, &Context::name);
  EXPECT_NE(it, tree.contexts.end()) << name;
  static const Context none;
  return it == tree.contexts.end() ? none : *it;
}

Sweeper::Tree sweep(Sweeper &sweeper, Pass pass)
{
  auto tree = sweeper.sweep(pass);
  EXPECT_TRUE(tree) << to_string(tree.error());
  return tree ? *tree : Sweeper::Tree{};
}

Sweeper::Tree sweep(const FakeProcess &process, Pass pass = Pass::exact)
{
  auto sweeper = process.sweeper();
  return sweep(sweeper, pass);
}

TEST(Sweep, reports_the_tree_in_list_order)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.alloc_set(top, "first");
  const auto second = process.alloc_set(top, "second");
  process.alloc_set(second, "grandchild");
  process.alloc_set(top, "third");
  const auto tree = sweep(process);
  EXPECT_THAT(names(tree),
              ElementsAre(".TopMemoryContext", "..third", "..second", "...grandchild", "..first"));
  EXPECT_EQ(tree.contexts[3].parent, 2);
  EXPECT_EQ(tree.contexts[0].parent, -1);
  EXPECT_TRUE(tree.complete) << tree.incomplete_reason;
}

TEST(Sweep, counts_an_alloc_sets_blocks_and_free_chunks)
{
  for (const Layout &layout : {layout_15(), layout_17()}) {
    FakeProcess process(layout);
    const auto top = process.alloc_set(0, "TopMemoryContext", 8192, 1000);
    process.add_block(top, 32768, 4000);
    process.add_free_chunk(top, 0);  // 8 bytes
    process.add_free_chunk(top, 10); // 8192 bytes
    process.add_free_chunk(top, 10);
    process.add_free_chunk(top, 3); // 64 bytes
    const auto tree = sweep(process);
    ASSERT_EQ(tree.contexts.size(), 1U);
    const Context &context = tree.contexts[0];
    const std::uint64_t header = layout.aset.size + 2 * 40;
    EXPECT_TRUE(context.exact);
    EXPECT_EQ(context.type, ContextType::alloc_set);
    EXPECT_EQ(context.total_bytes, 8192U + 32768U);
    EXPECT_EQ(context.total_nblocks, 2U);
    EXPECT_EQ(context.free_chunks, 4U);
    EXPECT_EQ(context.free_bytes, 8192 + 32768 - header - 1000 - 4000);
  }
}

TEST(Sweep, counts_a_generations_freed_chunks_but_not_as_free_space)
{
  for (const Layout &layout : {layout_15(), layout_17()}) {
    FakeProcess process(layout);
    const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
    process.generation(top, "Tuples",
                       {{.size = 8192, .used = 1000, .chunks = 10, .free = 3},
                        {.size = 16384, .used = 16000, .chunks = 20, .free = 4}});
    const Context context = find(sweep(process), "Tuples");
    EXPECT_EQ(context.type, ContextType::generation);
    EXPECT_EQ(context.total_bytes, layout.generation.size + 8192 + 16384);
    EXPECT_EQ(context.total_nblocks, 2U);
    EXPECT_EQ(context.free_chunks, 7U);
    EXPECT_EQ(context.free_bytes, 8192 + 16384 - 2 * layout.generation_block.size - 1000 - 16000);
  }
}

TEST(Sweep, counts_a_slab_by_its_lists_of_blocks)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.slab(top, "TXN", 100, 50, {0, 7, 50, 7});
  const Context context = find(sweep(process), "TXN");
  EXPECT_EQ(context.type, ContextType::slab);
  EXPECT_EQ(context.total_bytes, 128 + 51 * 16 + 4 * (24 + 50 * 100));
  EXPECT_EQ(context.total_nblocks, 4U);
  EXPECT_EQ(context.free_chunks, 64U);
  EXPECT_EQ(context.free_bytes, 6400U);
}

TEST(Sweep, counts_a_newer_slabs_empty_blocks_as_used)
{
  FakeProcess process(layout_17());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.slab(top, "TXN", 100, 50, {0, 7, 49}, 2);
  const Context context = find(sweep(process), "TXN");
  EXPECT_EQ(context.total_bytes, 176 + 5 * (48 + 50 * 100));
  EXPECT_EQ(context.total_nblocks, 3U);
  EXPECT_EQ(context.free_chunks, 56U);
  EXPECT_EQ(context.free_bytes, 5600U);
}

// --enable-cassert: a byte per chunk follows the context (slab.c: Slab_CONTEXT_HDRSZ).
TEST(Sweep, counts_what_a_checking_slab_remembers_of_its_chunks)
{
  Layout layout = layout_17();
  layout.slab.is_chunk_free = layout.slab.chunks_per_block + 4;
  FakeProcess process(layout);
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.slab(top, "TXN", 100, 50, {0, 7, 49}, 2);
  EXPECT_EQ(find(sweep(process), "TXN").total_bytes, 176 + 50 + 5 * (48 + 50 * 100));
}

TEST(Sweep, leaves_a_bumps_own_header_out)
{
  FakeProcess process(layout_17());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.bump(top, "Caller tuples", 8192, 500);
  const Context context = find(sweep(process), "Caller tuples");
  EXPECT_EQ(context.type, ContextType::bump);
  EXPECT_EQ(context.total_bytes, 8192U - 112U);
  EXPECT_EQ(context.total_nblocks, 1U);
  EXPECT_EQ(context.free_chunks, 0U);
  EXPECT_EQ(context.free_bytes, 8192U - 112U - 32U - 500U);
}

TEST(Sweep, empty_slab_and_generation_have_no_blocks)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.slab(top, "TXN", 100, 50, {});
  process.generation(top, "Tuples", {});
  const auto tree = sweep(process);
  EXPECT_TRUE(tree.complete) << tree.incomplete_reason;
  EXPECT_EQ(find(tree, "TXN").total_nblocks, 0U);
  EXPECT_EQ(find(tree, "TXN").total_bytes, 128U + 51U * 16U);
  EXPECT_EQ(find(tree, "Tuples").total_bytes, 152U);
}

TEST(Sweep, a_slab_at_the_very_end_of_the_heap_is_read)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  // Its page ends 160 bytes behind it, less than a whole image.
  const auto slab = process.slab(top, "TXN", 100, 1, {});
  const auto &at = process.layout().context;
  const std::uint64_t moved = 0x7f0000001000 - 160;
  for (std::uint64_t i = 0; i < 160; i += 8)
    process.image().put(moved + i, process.image().get<std::uint64_t>(slab + i));
  process.image().put(moved + process.layout().slab.freelist + 8, std::uint64_t{0});
  process.image().put(moved + process.layout().slab.freelist + 24, std::uint64_t{0});
  process.image().put(top + at.firstchild, moved);
  auto sweeper = process.sweeper();
  EXPECT_EQ(find(sweep(sweeper, Pass::header), "TXN").total_bytes, 160U);
  EXPECT_EQ(find(sweep(sweeper, Pass::exact), "TXN").total_bytes, 160U);
  EXPECT_TRUE(sweep(sweeper, Pass::header).complete);
}

TEST(Sweep, header_pass_has_exact_totals_and_the_head_blocks_tail)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192, 1000);
  process.add_block(top, 16384, 4000);
  const auto tree = sweep(process, Pass::header);
  EXPECT_FALSE(tree.contexts[0].exact);
  EXPECT_EQ(tree.contexts[0].total_bytes, 8192U + 16384U);
  EXPECT_EQ(tree.contexts[0].free_bytes, 16384U - 40U - 4000U);
}

TEST(Sweep, used_bytes_grow_at_once_in_the_header_pass)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192, 1000);
  process.add_free_chunk(top, 6);
  auto sweeper = process.sweeper();
  const auto before = sweep(sweeper, Pass::exact).contexts[0].used_bytes();
  EXPECT_EQ(sweep(sweeper, Pass::header).contexts[0].used_bytes(), before);
  const auto keeper = process.image().get<std::uint64_t>(top + process.layout().aset.blocks);
  const auto freeptr = keeper + process.layout().aset_block.freeptr;
  process.image().put(freeptr, process.image().get<std::uint64_t>(freeptr) + 512);
  EXPECT_EQ(sweep(sweeper, Pass::header).contexts[0].used_bytes(), before + 512);
}

TEST(Sweep, changed_pass_counts_only_what_changed)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192, 1000);
  const auto child = process.alloc_set(top, "child");
  auto sweeper = process.sweeper();
  sweep(sweeper, Pass::exact);
  const auto blocks = sweeper.stats().blocks;
  process.add_block(child, 8192, 100);
  const auto tree = sweep(sweeper, Pass::changed);
  EXPECT_EQ(sweeper.stats().blocks - blocks, 2U); // the child's
  EXPECT_TRUE(tree.contexts[0].exact);
  EXPECT_TRUE(tree.contexts[1].exact);
  EXPECT_EQ(tree.contexts[1].total_nblocks, 2U);
  EXPECT_EQ(tree.contexts[0].total_nblocks, 1U);
}

TEST(Sweep, follows_contexts_that_come_and_go)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  const auto first = process.alloc_set(top, "first");
  process.alloc_set(top, "second");
  auto sweeper = process.sweeper();
  sweep(sweeper, Pass::header);
  process.alloc_set(first, "below first");
  process.alloc_set(top, "third");
  EXPECT_THAT(names(sweep(sweeper, Pass::header)),
              ElementsAre(".TopMemoryContext", "..third", "..second", "..first", "...below first"));
  process.remove(first);
  EXPECT_THAT(names(sweep(sweeper, Pass::exact)),
              ElementsAre(".TopMemoryContext", "..third", "..second"));
}

TEST(Sweep, another_context_at_the_same_address_is_another_one)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  const auto child = process.alloc_set(top, "old", 1024, 300);
  process.set_ident(child, "old ident");
  auto sweeper = process.sweeper();
  sweep(sweeper, Pass::exact);
  process.image().put(child + process.layout().context.name, process.text("new"));
  process.image().put(child + process.layout().context.ident, std::uint64_t{0});
  const auto tree = sweep(sweeper, Pass::header);
  EXPECT_EQ(tree.contexts[1].name, "new");
  EXPECT_EQ(tree.contexts[1].ident, std::nullopt);
  EXPECT_EQ(tree.contexts[1].total_nblocks, 0U) << "nobody has counted the new one yet";
}

TEST(Sweep, steady_tree_takes_two_calls)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  for (int i = 0; i < 100; ++i)
    process.add_block(process.alloc_set(top, "child"), 2048, 100);
  auto sweeper = process.sweeper();
  sweep(sweeper, Pass::header);
  process.image().calls = 0;
  sweep(sweeper, Pass::header);
  EXPECT_EQ(process.image().calls, 2U); // the variable; the headers with the head blocks
}

TEST(Sweep, a_tree_that_was_cut_stays_incomplete)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  for (int i = 0; i < 20; ++i)
    process.alloc_set(top, "child");
  auto sweeper = process.sweeper({.contexts = 10});
  for (int i = 0; i < 2; ++i)
    EXPECT_FALSE(sweeper.sweep(Pass::header)->complete);
}

// ---- names and idents ----------------------------------------------------------------

TEST(SweepNames, hash_tables_go_by_their_own_name)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.set_ident(process.alloc_set(top, "dynahash"), "Relcache by OID");
  process.set_ident(process.alloc_set(top, "index info"), "pg_class_oid_index");
  const auto tree = sweep(process);
  EXPECT_EQ(find(tree, "Relcache by OID").ident, std::nullopt);
  EXPECT_THAT(find(tree, "index info").ident, Optional(std::string("pg_class_oid_index")));
}

TEST(SweepNames, idents_are_clipped_between_characters)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  const std::string text = std::string(1022, 'a') + "\xC3\xA4" + "b"; // two bytes from 1022 on
  process.set_ident(process.alloc_set(top, "CachedPlanSource"), text);
  EXPECT_THAT(find(sweep(process), "CachedPlanSource").ident, Optional(std::string(1022, 'a')));
}

TEST(SweepNames, idents_of_just_the_limit_are_whole)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.set_ident(process.alloc_set(top, "CachedPlanSource"), std::string(1023, 'a'));
  process.set_ident(process.alloc_set(top, "CachedPlan"), std::string(5000, 'b'));
  const auto tree = sweep(process);
  EXPECT_THAT(find(tree, "CachedPlanSource").ident, Optional(std::string(1023, 'a')));
  EXPECT_THAT(find(tree, "CachedPlan").ident, Optional(std::string(1023, 'b')));
}

TEST(SweepNames, dangling_ident_is_none)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  const auto child = process.alloc_set(top, "child");
  process.image().put(child + process.layout().context.ident, std::uint64_t{0xdeadbeef0000});
  auto sweeper = process.sweeper();
  const auto tree = sweep(sweeper, Pass::exact);
  EXPECT_TRUE(tree.complete);
  EXPECT_EQ(find(tree, "child").ident, std::nullopt);
  EXPECT_GT(sweeper.stats().read_errors, 0U);
}

TEST(SweepNames, garbage_stays_as_it_is)
{
  FakeProcess process(layout_15());
  const auto top = process.alloc_set(0, "TopMemoryContext", 8192);
  process.alloc_set(top, "\xFF\x01\x1B[2J");
  const auto other = process.alloc_set(top, "other");
  process.image().put(other + process.layout().context.name, std::uint64_t{16});
  const auto tree = sweep(process);
  EXPECT_TRUE(tree.complete);
  EXPECT_EQ(find(tree, "\xFF\x01\x1B[2J").level, 2);
  EXPECT_EQ(find(tree, "???").level, 2);
}

} // namespace
} // namespace pgmemtrace::test
