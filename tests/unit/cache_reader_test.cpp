// SPDX-License-Identifier: BSD-2-Clause
// cache_reader_test.cpp - catalog caches, plans and tables in a process made of bytes.
#include "collect/cache_reader.h"

#include <cerrno>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_process.h"

namespace pgmemtrace::test {
namespace {

using testing::HasSubstr;

// Caches as catcache.c lays them out.
class FakeCaches {
public:
  explicit FakeCaches(int major) : FakeCaches(*load_layout(major)) {}
  explicit FakeCaches(Layout layout) : layout_(std::move(layout))
  {
    image_->map(kVariables, 4096);
    header_ = take(16);
    image_->put(kCacheHdr, header_);
  }

  std::uint64_t cache(std::int32_t id, std::int32_t buckets, std::int32_t list_buckets = 0)
  {
    const auto &at = layout_.catcache;
    const std::uint64_t cache = take(at.size);
    image_->put(cache + at.id, id);
    image_->put(cache + at.nbuckets, buckets);
    image_->put(cache + at.bucket, take(16 * static_cast<std::uint64_t>(buckets)));
    image_->put(cache + at.reloid, std::uint32_t{1000} + static_cast<std::uint32_t>(id));
    image_->put(cache + at.indexoid, std::uint32_t{2000} + static_cast<std::uint32_t>(id));
    if (at.lbucket != kAbsent && list_buckets != 0) {
      image_->put(cache + at.nlbuckets, list_buckets);
      image_->put(cache + at.lbucket, take(16 * static_cast<std::uint64_t>(list_buckets)));
    }
    const auto first = image_->get<std::uint64_t>(header_);
    image_->put(cache + at.next, first);
    image_->put(header_, cache + at.next);
    return cache;
  }

  std::uint64_t tuple(std::uint64_t cache, std::uint32_t hash, std::uint32_t length)
  {
    const auto &at = layout_.catctup;
    const std::uint64_t tuple = take(at.size + length);
    image_->put(tuple + at.magic, std::uint32_t{0x57261502});
    image_->put(tuple + at.hash_value, hash);
    image_->put(tuple + at.my_cache, cache);
    image_->put(tuple + at.tuple_length, length);
    const auto buckets = image_->get<std::uint32_t>(cache + layout_.catcache.nbuckets);
    push(image_->get<std::uint64_t>(cache + layout_.catcache.bucket) + 16 * (hash % buckets),
         tuple + at.cache_elem);
    add(cache + layout_.catcache.ntup, 1);
    add(header_ + 8, 1);
    return tuple;
  }
  // What it has in place of a tuple is garbage.
  std::uint64_t negative(std::uint64_t cache, std::uint32_t hash)
  {
    const std::uint64_t address = tuple(cache, hash, 0);
    image_->put(address + layout_.catctup.negative, std::uint8_t{1});
    image_->put(address + layout_.catctup.tuple_length, ~std::uint32_t{0});
    return address;
  }

  std::uint64_t list(std::uint64_t cache, std::uint32_t hash, std::int32_t members)
  {
    const auto &at = layout_.catclist;
    const std::uint64_t list = take(at.size);
    image_->put(list + at.magic, std::uint32_t{0x52765103});
    image_->put(list + at.my_cache, cache);
    image_->put(list + at.n_members, members);
    const auto &of = layout_.catcache;
    if (of.lbucket == kAbsent) {
      push(cache + of.lists, list + at.cache_elem);
    } else {
      const auto buckets = image_->get<std::uint32_t>(cache + of.nlbuckets);
      push(image_->get<std::uint64_t>(cache + of.lbucket) + 16 * (hash % buckets),
           list + at.cache_elem);
      add(cache + of.nlist, 1);
    }
    return list;
  }

  std::uint64_t plan(bool generic, bool valid)
  {
    const auto &at = layout_.plan_source;
    const std::uint64_t plan = take(at.size);
    image_->put(plan + at.magic, std::uint32_t{195726186});
    image_->put(plan + at.is_saved, std::uint8_t{1});
    image_->put(plan + at.is_valid, static_cast<std::uint8_t>(valid));
    image_->put(plan + at.gplan, std::uint64_t{generic ? 4242u : 0u});
    push(kSavedPlans, plan + at.node);
    return plan;
  }

  void table(std::uint64_t variable, const std::string &name, std::int64_t entries)
  {
    const auto &at = layout_.hash_table;
    const std::uint64_t table = take(at.size);
    const std::uint64_t header = take(64);
    const std::uint64_t text = take(name.size() + 1);
    image_->write(text, std::as_bytes(std::span(name.c_str(), name.size() + 1)));
    image_->put(table + at.header, header);
    image_->put(table + at.name, text);
    image_->put(header + at.entries, entries);
    image_->put(variable, table);
  }

  Result<CacheSnapshot> read(CacheReaderLimits limits = {})
  {
    return CacheReader(layout_, variables_, 0, memory_of(image_), limits).read();
  }
  CacheSnapshot read_ok(CacheReaderLimits limits = {})
  {
    auto snapshot = read(limits);
    EXPECT_TRUE(snapshot) << to_string(snapshot.error());
    return snapshot ? *snapshot : CacheSnapshot{};
  }

  Image &image() { return *image_; }
  const Layout &layout() const { return layout_; }
  CacheVariables &variables() { return variables_; }
  std::uint64_t header() const { return header_; }
  void add(std::uint64_t counter, std::int32_t by)
  {
    image_->put(counter, image_->get<std::int32_t>(counter) + by);
  }

  std::uint64_t end() const { return next_; }

  static constexpr std::uint64_t kVariables = 0x400000, kHeap = 0x10000000;
  static constexpr std::uint64_t kCacheHdr = kVariables, kRelations = kVariables + 8,
                                 kPrepared = kVariables + 16, kPortals = kVariables + 24,
                                 kSavedPlans = kVariables + 32;

private:
  std::uint64_t take(std::uint64_t size)
  {
    const std::uint64_t address = next_;
    next_ += (size + 63) / 64 * 64;
    image_->map(address, size);
    return address;
  }
  // dlist_push_head
  void push(std::uint64_t head, std::uint64_t node)
  {
    if (image_->get<std::uint64_t>(head + 8) == 0) {
      image_->put(head, head);
      image_->put(head + 8, head);
    }
    const auto first = image_->get<std::uint64_t>(head + 8);
    image_->put(node, head);
    image_->put(node + 8, first);
    image_->put(first, node);
    image_->put(head + 8, node);
  }

  Layout layout_;
  std::shared_ptr<Image> image_ = std::make_shared<Image>();
  CacheVariables variables_{kCacheHdr, kRelations, kSavedPlans, kPrepared, kPortals};
  std::uint64_t next_ = kHeap;
  std::uint64_t header_ = 0;
};

const CatalogCache &cache_of(const CacheSnapshot &snapshot, std::int32_t id)
{
  static const CatalogCache kNone;
  for (const CatalogCache &cache : snapshot.caches)
    if (cache.id == id)
      return cache;
  ADD_FAILURE() << "no cache " << id;
  return kNone;
}

class EveryMajorsCaches : public testing::TestWithParam<int> {};

TEST_P(EveryMajorsCaches, are_read)
{
  FakeCaches process(GetParam());
  const auto types = process.cache(7, 4, 16);
  process.cache(8, 128);
  const auto dead = process.tuple(types, 5, 200);
  process.tuple(types, 1, 300);
  process.tuple(types, 9, 0); // in the bucket of the other two
  process.negative(types, 6);
  process.image().put(dead + process.layout().catctup.dead, std::uint8_t{1});
  process.list(types, 3, 2);
  process.list(types, 19, 1000);

  const auto snapshot = process.read_ok();
  EXPECT_TRUE(snapshot.complete) << snapshot.incomplete_reason;
  EXPECT_EQ(snapshot.tuples, 4u);
  ASSERT_EQ(snapshot.caches.size(), 2u);
  const CatalogCache &cache = cache_of(snapshot, 7);
  EXPECT_EQ(cache.catalog_oid, 1007u);
  EXPECT_EQ(cache.index_oid, 2007u);
  EXPECT_EQ(cache.tuples, 4u);
  EXPECT_EQ(cache.negative, 1u);
  EXPECT_EQ(cache.dead, 1u);
  EXPECT_EQ(cache.lists, 2u);
  EXPECT_EQ(cache.buckets, 4u);
  EXPECT_EQ(cache.entries.size(), 4u);
  EXPECT_TRUE(std::ranges::is_sorted(cache.entries));
  // Chunks: powers of two up to 8 kB with a header; above, to 8 bytes in a block of their own.
  const bool old = GetParam() <= 15;
  const std::uint64_t header = old ? 16 : 8;
  const std::uint64_t tuples = 4 * header + 512 + 512 + 128 + 128; // 104 + 8 + length, rounded up
  const std::uint64_t lists = 2 * header + 128 + 8192;             // 80 + 8 * members
  const std::uint64_t buckets = header + 64 + (GetParam() >= 16 ? header + 256 : 0);
  EXPECT_EQ(cache.bytes, tuples + lists + buckets);
  EXPECT_EQ(cache_of(snapshot, 8).bytes, header + 2048);
}

TEST_P(EveryMajorsCaches, come_with_plans_and_tables)
{
  FakeCaches process(GetParam());
  process.cache(7, 4);
  auto snapshot = process.read_ok();
  EXPECT_EQ(snapshot.prepared_statements, 0u) << "the table is made by the first PREPARE";
  ASSERT_TRUE(snapshot.plans);
  EXPECT_EQ(snapshot.plans->plans, 0u);

  process.table(FakeCaches::kRelations, "Relcache by OID", 345);
  process.table(FakeCaches::kPrepared, "Prepared Queries", 17);
  process.table(FakeCaches::kPortals, "Portal hash", 2);
  process.plan(true, true);
  process.plan(false, true);
  process.plan(true, false);
  snapshot = process.read_ok();
  EXPECT_TRUE(snapshot.complete);
  EXPECT_THAT(snapshot.unseen, testing::IsEmpty());
  EXPECT_EQ(snapshot.relations, 345u);
  EXPECT_EQ(snapshot.prepared_statements, 17u);
  EXPECT_EQ(snapshot.portals, 2u);
  ASSERT_TRUE(snapshot.plans);
  EXPECT_EQ(snapshot.plans->plans, 3u);
  EXPECT_EQ(snapshot.plans->generic, 2u);
  EXPECT_EQ(snapshot.plans->invalid, 1u);
}

INSTANTIATE_TEST_SUITE_P(Majors, EveryMajorsCaches, testing::Values(13, 14, 15, 16, 17, 18));

// 16.0 to 16.2 keep lists as 15 does, and have something else where 16.3 has its hash table.
TEST(CacheReader, reads_the_lists_of_the_first_16s)
{
  for (const char *version : {"16.0", "16.2 (Debian 16.2-1)"}) {
    FakeCaches process(cache_layout(*load_layout(16), version));
    const auto cache = process.cache(7, 4);
    process.list(cache, 3, 2);
    process.image().put(cache + 448, 0x1234567812345678);
    process.image().put(cache + 456, 0x1234567812345678);
    const auto snapshot = process.read_ok();
    EXPECT_TRUE(snapshot.complete) << snapshot.incomplete_reason;
    EXPECT_EQ(cache_of(snapshot, 7).lists, 1u);
  }
  for (const char *version : {"16.3", "16.15 (Ubuntu)", "16rc1", "17.1"})
    EXPECT_EQ(cache_layout(*load_layout(16), version).catcache.lbucket, 456u) << version;
}

// ---- what does not agree with itself ---------------------------------------------------------

TEST(CacheReader, looks_again_when_the_process_moved)
{
  for (const int looks : {1, 10}) {
    FakeCaches process(15);
    const auto cache = process.cache(7, 4);
    for (std::uint32_t hash = 0; hash < 20; ++hash)
      process.tuple(cache, hash, 100);
    // Once, when the counts were read and the buckets were not.
    process.image().before_read = [&, calls = 0]() mutable {
      if (++calls == 4)
        process.tuple(cache, 100, 100);
    };
    const auto snapshot = process.read_ok({.looks = looks});
    EXPECT_EQ(snapshot.complete, looks > 1) << snapshot.incomplete_reason;
    EXPECT_EQ(cache_of(snapshot, 7).entries.size(), 21u);
    EXPECT_EQ(snapshot.tuples, looks > 1 ? 21u : 20u);
  }
}

TEST(CacheReader, says_that_a_process_never_held_still)
{
  FakeCaches process(15);
  const auto cache = process.cache(7, 4);
  process.tuple(cache, 1, 100);
  process.add(process.header() + 8, 3); // as if it were always in the middle of a change
  const auto snapshot = process.read_ok();
  EXPECT_FALSE(snapshot.complete);
  EXPECT_THAT(snapshot.incomplete_reason, HasSubstr("did not hold still"));
  EXPECT_EQ(cache_of(snapshot, 7).tuples, 1u) << "what was seen is shown";
}

TEST(CacheReader, does_not_count_what_is_no_entry)
{
  for (const std::uint32_t field : {0u /* magic */, 40u /* previous */, 96u /* its cache */}) {
    FakeCaches process(15);
    const auto cache = process.cache(7, 4);
    const auto other = process.cache(8, 4);
    process.tuple(other, 1, 100);
    const auto bad = process.tuple(cache, 1, 100);
    process.image().put(bad + field, std::uint32_t{0xdead});
    const auto snapshot = process.read_ok();
    EXPECT_FALSE(snapshot.complete) << field;
    EXPECT_EQ(cache_of(snapshot, 7).entries.size(), 0u) << field;
    EXPECT_EQ(cache_of(snapshot, 8).entries.size(), 1u) << "the others are read all the same";
  }
}

TEST(CacheReader, ends_in_a_list_without_end)
{
  FakeCaches process(15);
  const auto cache = process.cache(7, 1);
  const auto last = process.tuple(cache, 1, 100) + process.layout().catctup.cache_elem;
  process.image().put(last, last); // its own predecessor and successor
  process.image().put(last + 8, last);
  EXPECT_FALSE(process.read_ok().complete);

  FakeCaches endless(15);
  const auto first = endless.cache(7, 1);
  endless.image().put(first + endless.layout().catcache.next,
                      first + endless.layout().catcache.next);
  const auto refused = endless.read();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("no end"));

  FakeCaches plans(15);
  plans.cache(7, 1);
  const auto node = plans.plan(false, true) + plans.layout().plan_source.node;
  plans.image().put(node, node);
  plans.image().put(node + 8, node);
  EXPECT_FALSE(plans.read_ok().complete);
}

TEST(CacheReader, keeps_to_its_limits)
{
  FakeCaches process(15);
  const auto cache = process.cache(7, 4);
  for (std::uint32_t hash = 0; hash < 50; ++hash)
    process.tuple(cache, hash, 100);
  const auto few = process.read_ok({.entries = 10});
  EXPECT_FALSE(few.complete);
  EXPECT_THAT(few.incomplete_reason, HasSubstr("more than 10"));
  EXPECT_LE(few.caches.at(0).entries.size(), 10u);

  process.image().put(cache + process.layout().catcache.nbuckets, std::int32_t{1 << 30});
  const auto buckets = process.read_ok();
  EXPECT_FALSE(buckets.complete);
  EXPECT_THAT(buckets.incomplete_reason, HasSubstr("hash buckets"));
}

// ---- what is no cache ------------------------------------------------------------------------

TEST(CacheReader, refuses_what_is_no_cache)
{
  const auto refused = [](auto spoil) {
    FakeCaches process(15);
    const auto cache = process.cache(7, 4);
    process.tuple(cache, 1, 100);
    spoil(process, cache);
    const auto snapshot = process.read();
    return snapshot ? std::string("read") : to_string(snapshot.error());
  };
  EXPECT_THAT(refused([](auto &process, auto) {
                process.image().put(FakeCaches::kCacheHdr, std::uint64_t{0});
              }),
              HasSubstr("it has none"));
  EXPECT_THAT(refused([](auto &process, auto) {
                process.image().put(FakeCaches::kCacheHdr, std::uint64_t{0x666000});
              }),
              HasSubstr("header cannot be read"));
  EXPECT_THAT(refused([](auto &process, auto) {
                process.image().put(process.header() + 8, std::int32_t{-1});
              }),
              HasSubstr("header is none"));
  EXPECT_THAT(refused([](auto &process, auto) {
                process.image().put(process.header(), std::uint64_t{0x666000});
              }),
              HasSubstr("cannot be read"));
  EXPECT_THAT(refused([](auto &process, auto cache) {
                process.image().put(cache + process.layout().catcache.nbuckets, std::int32_t{12});
              }),
              HasSubstr("is none"))
      << "a number of buckets is a power of two";
  EXPECT_THAT(refused([](auto &process, auto cache) {
                process.image().put(cache + process.layout().catcache.id, std::int32_t{-9});
              }),
              HasSubstr("is none"));
  EXPECT_THAT(refused([](auto &process, auto) {
                process.variables().catalog_caches = Error{"find CacheHdr: why not", 0, {}};
              }),
              HasSubstr("find CacheHdr: why not"));
  EXPECT_THAT(refused([](auto &process, auto) { process.image().gone = ESRCH; }),
              HasSubstr("No such process"));
}

// Whatever it is, the reader comes to an end with something that can be printed.
TEST(CacheReader, any_word_may_be_garbage)
{
  const auto read = [](std::uint64_t at, std::uint64_t garbage) {
    FakeCaches process(17);
    const auto cache = process.cache(7, 4, 16);
    process.tuple(cache, 1, 100);
    process.tuple(cache, 5, 100);
    process.list(cache, 3, 2);
    process.plan(true, true);
    process.table(FakeCaches::kPortals, "Portal hash", 2);
    if (at >= process.end())
      return false;
    process.image().put(at, garbage);
    const auto snapshot = process.read({.looks = 2, .pause = {}, .buckets = 4096, .entries = 4096});
    if (snapshot) {
      EXPECT_LE(snapshot->caches.size(), 512u);
    }
    return true;
  };
  for (const std::uint64_t garbage :
       {0ull, 1ull, ~0ull, 0x8000000080000000ull, 0x10000000ull, 0x10000048ull, 0x400020ull}) {
    for (std::uint64_t at = FakeCaches::kVariables; at < FakeCaches::kVariables + 48; at += 8)
      read(at, garbage);
    for (std::uint64_t at = FakeCaches::kHeap; read(at, garbage); at += 4)
      ;
  }
}

TEST(CacheReader, shows_the_caches_without_what_else_it_could_not_find)
{
  FakeCaches process(15);
  process.cache(7, 4);
  process.table(FakeCaches::kRelations, "Some other table", 345);
  process.table(FakeCaches::kPortals, "Portal hash", -2);
  process.variables().saved_plans = Error{"find saved_plan_list: why not", 0, {}};
  const auto snapshot = process.read_ok();
  EXPECT_TRUE(snapshot.complete);
  EXPECT_FALSE(snapshot.relations);
  EXPECT_FALSE(snapshot.portals);
  EXPECT_FALSE(snapshot.plans);
  EXPECT_EQ(snapshot.unseen.size(), 3u);
}

} // namespace
} // namespace pgmemtrace::test
