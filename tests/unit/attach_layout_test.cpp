// SPDX-License-Identifier: BSD-2-Clause
// attach_layout_test.cpp - the built-in layouts against offsets of the servers' debug information.
#include "attach/layout.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace pgmemtrace::test {

namespace {

using testing::Contains;
using testing::HasSubstr;
namespace fs = std::filesystem;

// Of the private structs compiled from each major's own sources (DWARF).
struct Expected {
  int major;
  std::array<std::uint32_t, 5> aset;             // size, blocks, freelist, keeper, freeListIndex
  std::array<std::uint32_t, 4> generation;       // size, blocks, keeper, freeblock
  std::array<std::uint32_t, 7> generation_block; // size, blksize, nchunks, nfree, freeptr, endptr,
                                                 // context
  std::array<std::uint32_t, 10> slab;      // size, chunkSize, fullChunkSize, blockSize, headerSize,
                                           // chunksPerBlock, nblocks, freelist, emptyblocks.count,
                                           // blocklist
  std::array<std::uint32_t, 3> slab_block; // size, node, nfree
  std::array<std::uint32_t, 5> bump;       // size, blocks; block: size, freeptr, endptr
  std::array<std::uint32_t, 8> statement;  // Port: database_name, user_name; PlannedStmt: queryId,
                                           // stmt_location, stmt_len; QueryDesc: plannedstmt,
                                           // sourceText, estate
  std::array<std::uint32_t, 6> catcache;   // size, cc_ntup, cc_lists, cc_nlist, cc_nlbuckets,
                                           // cc_lbucket
  std::array<std::uint32_t, 5> plan; // CachedPlanSource: size, gplan, is_saved, is_valid, node
};

const std::vector<Expected> &expectations()
{
  static const std::vector<Expected> all{
      {13,
       {224, 80, 88, 208, 216},
       {112, 96, kAbsent, kAbsent},
       {48, 16, 24, 28, 32, 40, kAbsent},
       {128, 80, 88, 96, 104, 112, 120, 128, kAbsent, kAbsent},
       {24, 0, 16},
       {kAbsent, kAbsent, kAbsent, kAbsent, kAbsent},
       {328, 336, 8, 128, 132, 8, 16, 80},
       {448, 120, 104, kAbsent, kAbsent, kAbsent},
       {192, 136, 146, 147, 152}},
      {14,
       {224, 80, 88, 208, 216},
       {112, 96, kAbsent, kAbsent},
       {48, 16, 24, 28, 32, 40, kAbsent},
       {128, 80, 88, 96, 104, 112, 120, 128, kAbsent, kAbsent},
       {24, 0, 16},
       {kAbsent, kAbsent, kAbsent, kAbsent, kAbsent},
       {328, 336, 8, 120, 124, 8, 16, 80},
       {448, 120, 104, kAbsent, kAbsent, kAbsent},
       {200, 136, 146, 147, 152}},
      {15,
       {224, 80, 88, 208, 216},
       {152, 136, 128, 120},
       {48, 16, 24, 28, 32, 40, kAbsent},
       {128, 80, 88, 96, 104, 112, 120, 128, kAbsent, kAbsent},
       {24, 0, 16},
       {kAbsent, kAbsent, kAbsent, kAbsent, kAbsent},
       {328, 336, 8, 120, 124, 8, 16, 80},
       {448, 120, 104, kAbsent, kAbsent, kAbsent},
       {200, 136, 146, 147, 152}},
      {16,
       {224, 80, 88, 208, 216},
       {152, 136, 128, 120},
       {56, 24, 32, 36, 40, 48, 16},
       {192, 80, 88, 96, kAbsent, 104, kAbsent, kAbsent, 136, 144},
       {48, 32, 8},
       {kAbsent, kAbsent, kAbsent, kAbsent, kAbsent},
       {328, 336, 8, 128, 132, 8, 16, 80},
       {464, 120, 104, 448, 452, 456},
       {200, 136, 146, 147, 152}},
      {17,
       {200, 80, 88, kAbsent, 192},
       {128, 112, kAbsent, 104},
       {56, 24, 32, 36, 40, 48, 16},
       {176, 80, 84, 88, kAbsent, 92, kAbsent, kAbsent, 120, 128},
       {48, 32, 8},
       {112, 96, 32, 16, 24},
       {320, 328, 8, 128, 132, 8, 16, 80},
       {448, 108, kAbsent, 112, 116, 120},
       {200, 136, 146, 147, 152}},
      {18,
       {200, 80, 88, kAbsent, 192},
       {128, 112, kAbsent, 104},
       {56, 24, 32, 36, 40, 48, 16},
       {176, 80, 84, 88, kAbsent, 92, kAbsent, kAbsent, 120, 128},
       {48, 32, 8},
       {112, 96, 32, 16, 24},
       {384, 392, 8, 152, 156, 8, 16, 80},
       {448, 108, kAbsent, 112, 116, 120},
       {224, 160, 170, 171, 176}},
  };
  return all;
}

using Btf = std::unique_ptr<btf, decltype(&btf__free)>;

Btf blob_of(int major)
{
  const auto blob = layout_btf(major);
  return {btf__new(blob.data(), static_cast<std::uint32_t>(blob.size())), btf__free};
}

// As the kernel half sees it: it has no Layout.
std::uint32_t offset_of(const btf &types, const char *structure, const char *member)
{
  const int id = btf__find_by_name_kind(&types, structure, BTF_KIND_STRUCT);
  const btf_type *type = id < 0 ? nullptr : btf__type_by_id(&types, static_cast<std::uint32_t>(id));
  for (std::uint32_t i = 0; type != nullptr && i < btf_vlen(type); ++i)
    if (std::strcmp(btf__name_by_offset(&types, btf_members(type)[i].name_off), member) == 0)
      return btf_members(type)[i].offset / 8;
  return kAbsent;
}

class EveryMajor : public testing::TestWithParam<Expected> {};

} // namespace

TEST_P(EveryMajor, is_laid_out_as_the_server)
{
  const Expected &expected = GetParam();
  ASSERT_THAT(supported_majors(), Contains(expected.major));
  const auto loaded = load_layout(expected.major);
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  const Layout &layout = *loaded;

  const auto &c = layout.context; // the same in all majors
  EXPECT_EQ((std::array{c.size, c.type, c.mem_allocated, c.methods, c.parent, c.firstchild,
                        c.prevchild, c.nextchild, c.name, c.ident}),
            (std::array<std::uint32_t, 10>{80, 0, 8, 16, 24, 32, 40, 48, 56, 64}));
  const auto &a = layout.aset;
  EXPECT_EQ((std::array{a.size, a.blocks, a.freelist, a.keeper, a.freelist_index}), expected.aset);
  EXPECT_EQ(a.freelists, 11u);
  const auto &ab = layout.aset_block; // the same in all majors
  EXPECT_EQ((std::array{ab.size, ab.aset, ab.prev, ab.next, ab.freeptr, ab.endptr}),
            (std::array<std::uint32_t, 6>{40, 0, 8, 16, 24, 32}));
  const auto &g = layout.generation;
  EXPECT_EQ((std::array{g.size, g.blocks, g.keeper, g.freeblock}), expected.generation);
  const auto &gb = layout.generation_block;
  EXPECT_EQ(
      (std::array{gb.size, gb.blksize, gb.nchunks, gb.nfree, gb.freeptr, gb.endptr, gb.context}),
      expected.generation_block);
  const auto &s = layout.slab;
  EXPECT_EQ(
      (std::array{s.size, s.chunk_size, s.full_chunk_size, s.block_size, s.header_size,
                  s.chunks_per_block, s.nblocks, s.freelist, s.emptyblocks_count, s.blocklist}),
      expected.slab);
  const auto &sb = layout.slab_block;
  EXPECT_EQ((std::array{sb.size, sb.node, sb.nfree}), expected.slab_block);
  EXPECT_EQ((std::array{layout.bump.size, layout.bump.blocks, layout.bump_block.size,
                        layout.bump_block.freeptr, layout.bump_block.endptr}),
            expected.bump);
  EXPECT_EQ(layout.bgworker.type, 96u);
  EXPECT_EQ(layout.bgworker.type_size, 96u);

  const auto types = blob_of(expected.major);
  ASSERT_TRUE(types);
  EXPECT_EQ((std::array{layout.port.database_name, layout.port.user_name,
                        layout.planned_stmt.query_id, layout.planned_stmt.location,
                        layout.planned_stmt.length, layout.query_desc.planned_stmt,
                        layout.query_desc.source_text, offset_of(*types, "QueryDesc", "estate")}),
            expected.statement);
  EXPECT_EQ(offset_of(*types, "PgBackendStatus", "st_activity_start_timestamp"), 32u);
  EXPECT_EQ(offset_of(*types, "PgBackendStatus", "st_activity_raw"), 248u);
  EXPECT_EQ(offset_of(*types, "PgBackendStatus", "st_query_id"),
            expected.major >= 14 ? 424u : kAbsent);
}

TEST_P(EveryMajor, knows_its_caches)
{
  const auto layout = load_layout(GetParam().major);
  ASSERT_TRUE(layout);
  const auto &c = layout->catcache;
  EXPECT_EQ((std::array{c.size, c.ntup, c.lists, c.nlist, c.nlbuckets, c.lbucket}),
            GetParam().catcache);
  const auto &p = layout->plan_source;
  EXPECT_EQ((std::array{p.size, p.gplan, p.is_saved, p.is_valid, p.node}), GetParam().plan);
  // The same in all majors:
  EXPECT_EQ((std::array{c.id, c.nbuckets, c.bucket, c.relname, c.reloid, c.indexoid, c.next}),
            (std::array<std::uint32_t, 7>{0, 4, 16, 128, 136, 140, 152}));
  const auto &t = layout->catctup;
  EXPECT_EQ((std::array{t.size, t.magic, t.hash_value, t.cache_elem, t.dead, t.negative,
                        t.tuple_length, t.my_cache}),
            (std::array<std::uint32_t, 8>{104, 0, 4, 40, 60, 61, 64, 96}));
  const auto &l = layout->catclist;
  EXPECT_EQ((std::array{l.size, l.magic, l.hash_value, l.cache_elem, l.n_members, l.my_cache}),
            (std::array<std::uint32_t, 6>{80, 0, 4, 8, 64, 72}));
  const auto &h = layout->hash_table;
  EXPECT_EQ((std::array{h.size, h.header, h.name, h.entries}),
            (std::array<std::uint32_t, 4>{96, 0, 56, 8}));
}

// Of chunks, 16 changed all.
TEST_P(EveryMajor, knows_its_chunks)
{
  const auto layout = load_layout(GetParam().major);
  ASSERT_TRUE(layout);
  const bool old = layout->major <= 15;
  EXPECT_EQ(layout->aset_chunk_header, old ? 16u : 8u);
  EXPECT_EQ(static_cast<std::int32_t>(layout->aset_chunk_link), old ? -8 : 0);
  EXPECT_EQ(layout->slab.blocklists, old ? 0u : 3u);
}

// --enable-cassert: what was asked for stands before each chunk (aset.c, memutils_memorychunk.h),
// and slab.c and bump.c remember more.
TEST_P(EveryMajor, knows_builds_that_check_their_memory)
{
  const auto usual = load_layout(GetParam().major);
  const auto checking = load_layout(GetParam().major, true);
  ASSERT_TRUE(usual && checking);
  const bool old = usual->major <= 15;
  EXPECT_EQ(checking->aset_chunk_header, old ? 24u : 16u);
  EXPECT_EQ(static_cast<std::int32_t>(checking->aset_chunk_link), old ? -8 : 0);
  EXPECT_EQ(checking->aset.size, usual->aset.size);
  EXPECT_EQ(checking->generation_block.size, usual->generation_block.size);
  const auto lists = [&](const Layout &layout) {
    return old ? layout.slab.freelist : layout.slab.blocklist;
  };
  const bool padded = usual->major >= 17; // a pointer among five numbers of four bytes
  EXPECT_EQ(lists(*checking), lists(*usual) + (padded ? 16 : 8));
  EXPECT_EQ(usual->slab.is_chunk_free, kAbsent);
  EXPECT_EQ(checking->slab.is_chunk_free != kAbsent, !old);
  if (usual->major >= 17) {
    EXPECT_EQ(checking->bump_block.freeptr, usual->bump_block.freeptr + 8);
  }
}

INSTANTIATE_TEST_SUITE_P(Layout, EveryMajor, testing::ValuesIn(expectations()),
                         [](const auto &test) { return "pg" + std::to_string(test.param.major); });

TEST(Layout, tells_types_by_the_majors_tags)
{
  const auto pg15 = load_layout(15);
  const auto pg17 = load_layout(17);
  ASSERT_TRUE(pg15 && pg17);
  EXPECT_EQ(pg15->type_of_tag(223), ContextType::alloc_set);
  EXPECT_EQ(pg15->type_of_tag(224), ContextType::slab);
  EXPECT_EQ(pg15->type_of_tag(225), ContextType::generation);
  EXPECT_EQ(pg15->type_of_tag(472), ContextType::unknown);
  EXPECT_EQ(pg15->type_of_tag(0), ContextType::unknown) << "15 has no Bump; 0 is not its tag";
  EXPECT_EQ(pg17->type_of_tag(472), ContextType::bump);
  EXPECT_EQ(pg17->type_of_tag(223), ContextType::unknown);
}

TEST(Layout, numbers_backend_types_as_the_major_does)
{
  const auto word = [](int major, std::size_t value) {
    return load_layout(major)->backend_types.at(value);
  };
  EXPECT_EQ(word(13, 3), "client backend");
  EXPECT_EQ(word(14, 13), "logger");
  EXPECT_EQ(word(15, 3), "client backend");
  EXPECT_EQ(word(15, 9), "walsender");
  EXPECT_EQ(word(15, 12), "logger");
  EXPECT_EQ(word(16, 1), "archiver");
  EXPECT_EQ(word(16, 12), "walsender");
  EXPECT_EQ(word(17, 13), "walsummarizer");
  EXPECT_EQ(word(18, 17), "logger");
  EXPECT_EQ(word(18, 12), "io worker");
}

TEST(Layout, refuses_an_unknown_major)
{
  const auto layout = load_layout(99);
  ASSERT_FALSE(layout);
  EXPECT_THAT(layout.error().what, HasSubstr("PostgreSQL 99 is not known"));
  EXPECT_THAT(layout.error().hint, HasSubstr("--postgres-btf"));
  EXPECT_FALSE(parse_layout(99, layout_btf(15)));
  EXPECT_TRUE(layout_btf(99).empty());
}

TEST(Layout, refuses_damaged_blobs)
{
  libbpf_set_print(nullptr); // it would say so for each
  const auto whole = layout_btf(15);
  for (std::size_t size = 0; size < whole.size(); size += 7)
    EXPECT_FALSE(parse_layout(15, whole.first(size))) << size;
  // Flipped bytes may still be valid BTF; the answer must stay within its bounds.
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::vector<std::byte> blob(whole.begin(), whole.end());
    blob[at] ^= std::byte{0x24};
    const auto layout = parse_layout(15, blob);
    if (layout) {
      EXPECT_LE(layout->context.ident + 8, layout->context.size) << at;
      EXPECT_LE(layout->aset.size, 65536u) << at;
    }
  }
}

TEST(Layout, names_what_a_blob_lacks)
{
  const Btf types(btf__new_empty(), btf__free);
  btf__add_struct(types.get(), "MemoryContextData", 80);
  std::uint32_t size = 0;
  const void *raw = btf__raw_data(types.get(), &size);
  const auto layout = parse_layout(15, {static_cast<const std::byte *>(raw), size});
  ASSERT_FALSE(layout);
  EXPECT_THAT(layout.error().what, HasSubstr("MemoryContextData.type"));
}

TEST(Layout, takes_a_file_instead)
{
  const fs::path path = fs::temp_directory_path() / ("pgmt_layout_" + std::to_string(getpid()));
  const auto blob = layout_btf(15);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char *>(blob.data()),
             static_cast<std::streamsize>(blob.size()));
  const auto layout = load_layout(15, false, path.string());
  EXPECT_TRUE(layout) << to_string(layout.error());
  EXPECT_FALSE(load_layout(17, false, path.string())) << "15 has no Bump";
  std::ofstream(path) << "not BTF";
  EXPECT_THAT(load_layout(15, false, path.string()).error().what, HasSubstr("not a BTF file"));
  fs::remove(path);
  EXPECT_EQ(load_layout(15, false, path.string()).error().err, ENOENT);
}

} // namespace pgmemtrace::test
