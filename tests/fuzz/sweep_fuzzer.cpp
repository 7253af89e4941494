// SPDX-License-Identifier: BSD-2-Clause
// sweep_fuzzer.cpp - a process's contexts, built, swept, damaged, swept, mended and swept.
//
// The input is a script: which contexts there are, which words and pages of them are damaged and
// when, and which passes look at them.  Three things are checked:
//   - whatever the memory says, a tree is well formed and within its bounds;
//   - a tree that is said to be complete is what following its links one by one gives;
//   - a Sweeper that saw damage says of the mended process what a new one says.
#include <algorithm>
#include <array>
#include <optional>

#include <fuzzer/FuzzedDataProvider.h>

#include "attach/layout.h"
#include "fake_process.h"
#include "fuzz.h"

namespace pgmemtrace::test {
namespace {

// Of any major that is built in.
const Layout &some_layout(FuzzedDataProvider &in)
{
  static const std::vector<Layout> layouts = [] {
    std::vector<Layout> built_in;
    for (const int major : supported_majors())
      if (const auto layout = load_layout(major))
        built_in.push_back(*layout);
    return built_in;
  }();
  return layouts.at(in.ConsumeIntegralInRange<std::size_t>(0, layouts.size() - 1));
}

class Scene {
public:
  explicit Scene(FuzzedDataProvider &in)
      : in_(in), process_(some_layout(in)), at_(process_.layout())
  {
    contexts_.push_back(process_.alloc_set(0, "TopMemoryContext", 8192));
  }

  FakeProcess &process() { return process_; }

  void build()
  {
    for (int steps = in_.ConsumeIntegralInRange(0, 40); steps > 0; --steps)
      build_one();
  }

  void damage(int steps)
  {
    for (; steps > 0; --steps) {
      if (in_.ConsumeIntegralInRange(0, 15) == 0)
        process_.image().unmap(some_address());
      else if (in_.ConsumeBool())
        process_.image().put(some_address(), some_word());
      else
        process_.image().put(some_address(), static_cast<std::uint32_t>(some_word()));
    }
  }

private:
  std::uint64_t some_context()
  {
    return contexts_[in_.ConsumeIntegral<std::uint8_t>() % contexts_.size()];
  }
  std::string some_name()
  {
    return in_.ConsumeBool() ? "dynahash" : in_.ConsumeRandomLengthString(8);
  }

  void build_one()
  {
    const std::uint64_t context = some_context();
    const bool alloc_set =
        process_.image().get<std::uint32_t>(context + at_.context.type) == at_.tag.aset;
    switch (in_.ConsumeIntegralInRange(0, 7)) {
    case 0: {
      const std::uint64_t size = 512U << in_.ConsumeIntegralInRange(0, 3);
      contexts_.push_back(process_.alloc_set(context, some_name(), size,
                                             in_.ConsumeIntegralInRange<std::uint64_t>(0, 200)));
      break;
    }
    case 1: {
      std::vector<GenerationBlockSpec> blocks(in_.ConsumeIntegralInRange<std::size_t>(0, 3));
      for (auto &block : blocks)
        block = {.size = 1024, .used = in_.ConsumeIntegralInRange<std::uint64_t>(0, 900)};
      contexts_.push_back(process_.generation(context, some_name(), blocks));
      break;
    }
    case 2: {
      std::vector<int> free(in_.ConsumeIntegralInRange<std::size_t>(0, 3));
      for (int &count : free)
        count = in_.ConsumeIntegralInRange(0, 4);
      contexts_.push_back(
          process_.slab(context, some_name(), 64, 4, free,
                        at_.slab.blocklist == kAbsent ? 0 : in_.ConsumeIntegralInRange(0, 2)));
      break;
    }
    case 3:
      if (at_.tag.bump != 0)
        contexts_.push_back(process_.bump(context, some_name(), 1024,
                                          in_.ConsumeIntegralInRange<std::uint64_t>(0, 800)));
      break;
    case 4:
      if (alloc_set)
        process_.add_block(context, 2048, in_.ConsumeIntegralInRange<std::uint64_t>(0, 1000));
      break;
    case 5:
      if (alloc_set)
        add_free_chunk(context, in_.ConsumeIntegralInRange(0, 6));
      break;
    case 6: process_.set_ident(context, some_name()); break;
    default: // deeper than wide, now and then
      contexts_.push_back(process_.alloc_set(contexts_.back(), some_name(), 512, 8));
      break;
    }
  }

  // If the head block has room for it.
  void add_free_chunk(std::uint64_t aset, int list)
  {
    const auto word = [&](std::uint64_t address) {
      return process_.image().get<std::uint64_t>(address);
    };
    const auto head = word(aset + at_.aset.blocks);
    const auto room = word(head + at_.aset_block.endptr) - word(head + at_.aset_block.freeptr);
    if (room >= at_.aset_chunk_header + (std::uint64_t{8} << list))
      process_.add_free_chunk(aset, list);
  }

  // Of a field, as a rule.
  std::uint64_t some_address()
  {
    const auto &at = at_.context;
    const std::array fields{at.type,      at.mem_allocated, at.parent, at.firstchild,  at.prevchild,
                            at.nextchild, at.name,          at.ident,  at_.aset.blocks};
    const std::uint64_t context = some_context();
    switch (in_.ConsumeIntegralInRange(0, 3)) {
    case 0: // a word of the allocator's own, or of its first block
      return context + at.size + 4 * in_.ConsumeIntegralInRange<std::uint64_t>(0, 63);
    case 1: { // of the block that it leads to
      const auto block = process_.image().get<std::uint64_t>(context + at_.aset.blocks);
      return (block < 4096 || block > (1ULL << 40) ? context : block) +
             8 * in_.ConsumeIntegralInRange<std::uint64_t>(0, 7);
    }
    default:
      return context + fields.at(in_.ConsumeIntegralInRange<std::size_t>(0, fields.size() - 1));
    }
  }

  std::uint64_t some_word()
  {
    switch (in_.ConsumeIntegralInRange(0, 5)) {
    case 0: return in_.ConsumeIntegral<std::uint64_t>();
    case 1: return 0;
    case 2: return some_context() + 8 * in_.ConsumeIntegral<std::uint8_t>();
    case 3: return in_.ConsumeIntegral<std::uint16_t>();
    case 4:
      return process_.image().get<std::uint64_t>(
          some_context() + 8 * in_.ConsumeIntegralInRange<std::uint64_t>(0, 63));
    default: return some_context();
    }
  }

  FuzzedDataProvider &in_;
  FakeProcess process_;
  const Layout &at_;
  std::vector<std::uint64_t> contexts_;
};

// The tree as its links have it, one by one; nothing if they contradict one another.
std::optional<std::vector<std::uint64_t>> follow_links(FakeProcess &process, std::size_t most)
{
  const auto &at = process.layout().context;
  const Image &image = process.image();
  struct Place {
    std::uint64_t context, parent, previous;
  };
  std::vector<std::uint64_t> found;
  std::vector<Place> open{{process.root(), 0, 0}};
  while (!open.empty()) {
    const Place place = open.back();
    const std::uint64_t context = place.context;
    open.pop_back();
    std::vector<std::byte> header(process.layout().slab.size); // the least that a context has
    if (context % 8 != 0 || context < 4096 || context > (1ULL << 56) - 512 ||
        !image.read(context, header) || found.size() >= most)
      return std::nullopt;
    const auto word = [&](std::uint32_t offset) {
      return image.get<std::uint64_t>(context + offset);
    };
    if (process.layout().type_of_tag(image.get<std::uint32_t>(context + at.type)) ==
            ContextType::unknown ||
        word(at.parent) != place.parent || word(at.prevchild) != place.previous)
      return std::nullopt;
    found.push_back(context);
    if (place.parent != 0 && word(at.nextchild) != 0)
      open.push_back({word(at.nextchild), place.parent, context});
    if (word(at.firstchild) != 0)
      open.push_back({word(at.firstchild), context, 0});
  }
  return found;
}

void check_form(const Sweeper::Tree &tree, const SweepLimits &limits)
{
  must(tree.complete == tree.incomplete_reason.empty(), "what is not complete says why");
  must(!tree.contexts.empty() && tree.contexts.size() <= limits.contexts,
       "a tree has a root and a bound");
  for (std::size_t i = 0; i < tree.contexts.size(); ++i) {
    const Context &context = tree.contexts[i];
    must(context.type != ContextType::unknown, "a context is of a known type");
    must(static_cast<std::size_t>(context.level) <= limits.depth,
         "no context is deeper than the bound");
    must(context.free_bytes <= context.total_bytes, "no context has more free bytes than bytes");
    if (i == 0) {
      must(context.parent == -1 && context.level == 1, "the first is the root");
      continue;
    }
    must(context.parent >= 0 && context.parent < static_cast<std::int32_t>(i),
         "parents come first");
    must(context.level == tree.contexts[static_cast<std::size_t>(context.parent)].level + 1,
         "a child is a level deeper");
  }
}

void check_links(FakeProcess &process, const Sweeper::Tree &tree, const SweepLimits &limits)
{
  if (!tree.complete)
    return;
  const auto links = follow_links(process, limits.contexts);
  must(links.has_value(), "what is said to be complete can be followed");
  must(std::ranges::equal(*links, tree.contexts, {}, {}, &Context::address),
       "every link was followed");
}

void check_same(const Sweeper::Tree &left, const Sweeper::Tree &right)
{
  must(left.complete == right.complete, "damage that is gone leaves no trace: complete");
  must(left.contexts.size() == right.contexts.size(),
       "damage that is gone leaves no trace: contexts");
  for (std::size_t i = 0; i < left.contexts.size(); ++i) {
    const Context &a = left.contexts[i];
    const Context &b = right.contexts[i];
    must(a.address == b.address && a.parent == b.parent && a.level == b.level && a.type == b.type &&
             a.exact == b.exact && a.name == b.name && a.ident == b.ident,
         "damage that is gone leaves no trace: who a context is");
    must(a.total_bytes == b.total_bytes && a.free_bytes == b.free_bytes &&
             a.total_nblocks == b.total_nblocks && a.free_chunks == b.free_chunks,
         "damage that is gone leaves no trace: counters");
  }
}

} // namespace
} // namespace pgmemtrace::test

int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  using namespace pgmemtrace::test;
  FuzzedDataProvider in(bytes, size);
  Scene scene(in);
  scene.build();
  FakeProcess &process = scene.process();
  const Image intact = process.image();

  SweepLimits limits;
  if (in.ConsumeBool())
    limits = {.contexts = in.ConsumeIntegralInRange<std::size_t>(1, 16),
              .depth = in.ConsumeIntegralInRange<std::size_t>(1, 8),
              .blocks = in.ConsumeIntegralInRange<std::size_t>(0, 32),
              .free_chunks = in.ConsumeIntegralInRange<std::size_t>(0, 8)};
  limits.retries = in.ConsumeIntegralInRange(0, 2);
  Sweeper sweeper = process.sweeper(limits);
  for (int sweeps = in.ConsumeIntegralInRange(1, 4); sweeps > 0; --sweeps) {
    scene.damage(in.ConsumeIntegralInRange(0, 4));
    const bool meanwhile = in.ConsumeBool();
    int reads = in.ConsumeIntegralInRange(0, 8);
    if (meanwhile)
      process.image().before_read = [&] {
        if (reads-- == 0)
          scene.damage(1);
      };
    const auto tree =
        sweeper.sweep(in.PickValueInArray({Pass::header, Pass::changed, Pass::exact}));
    process.image().before_read = nullptr;
    if (!tree)
      continue;
    check_form(*tree, limits);
    if (!meanwhile)
      check_links(process, *tree, limits);
  }

  process.image() = intact;
  const auto seasoned = sweeper.sweep(Pass::exact);
  const auto fresh = process.sweeper(limits).sweep(Pass::exact);
  must(seasoned && fresh, "an intact process can be read");
  check_form(*fresh, limits);
  check_links(process, *fresh, limits);
  must(fresh->complete || limits.contexts <= 16, "an intact process is read whole");
  if (fresh->complete)
    check_same(*seasoned, *fresh);
  return 0;
}
