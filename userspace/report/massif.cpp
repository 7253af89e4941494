// SPDX-License-Identifier: BSD-2-Clause
// massif.cpp - what valgrind's massif writes, for ms_print and massif-visualizer.
//
// The heap over time is what was grown and not returned.  Extra is what nobody asked for, as massif
// counts it.  Of blocks: their headers, with malloc's own; those of chunks are not known at level
// block and count as useful.  Of chunks, at level alloc: their headers, and what they are larger
// than was asked for, on the average of their context.  At level malloc: malloc's headers.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>

#include <fmt/format.h>

#include "report/formats.h"
#include "util/text.h"

namespace pgmemtrace {

namespace {

constexpr std::int64_t kBlockHeader = 40; // ALLOC_BLOCKHDRSZ, PostgreSQL 13 to 18, 64 bits
constexpr std::int64_t kMallocHeader = 8; // glibc: the word before each piece
constexpr std::size_t kSnapshots = 100;   // massif's own default
constexpr double kLeastShare = 0.01;      // massif's --threshold

struct Heap {
  std::int64_t bytes = 0; // useful and extra, without what lies before a block or chunk
  std::int64_t useful = 0, extra = 0;
};

// Bytes asked for, of those in chunks, by name of context; level alloc.
std::map<std::string, double> asked_shares(const Recording &recording)
{
  struct Sum {
    double asked = 0, taken = 0;
  };
  std::map<std::string, Sum> sums;
  for (const auto &process : recording.processes)
    for (const auto &context : process.contexts)
      for (const auto &one : context.allocations)
        if (one.requests) {
          sums[context.name].asked += static_cast<double>(one.requests->asked);
          sums[context.name].taken += static_cast<double>(one.bytes);
        }
  std::map<std::string, double> shares;
  for (const auto &[name, sum] : sums)
    shares[name] = sum.taken > 0 ? std::min(1.0, sum.asked / sum.taken) : 1.0;
  return shares;
}

// How large the header before each chunk is, by the servers' versions.
std::int64_t chunk_header(const Recording &recording)
{
  const auto old = [](const Recording::Server &server) {
    return std::atoi(server.version.c_str()) < 16; // PostgreSQL c6e0fe1f2a
  };
  return std::ranges::any_of(recording.servers, old) ? 16 : 8;
}

class Heaps {
public:
  Heaps(const Recording &recording, const std::string &context)
      : recording_(recording), context_(context), by_requests_(recording.level == "alloc"),
        shares_(asked_shares(recording)), chunk_header_(chunk_header(recording)),
        block_header_(recording.level == kLevelMalloc ? 0 : kBlockHeader)
  {
  }

  Heap at(const Recording::Sample &sample) const
  {
    Heap heap;
    for (const auto &held : sample.contexts) {
      const auto &name = recording_.names[held.name];
      if ((!context_.empty() && name != context_) || held.bytes <= 0)
        continue;
      const auto pieces = std::max<std::int64_t>(0, held.blocks);
      heap.bytes += held.bytes;
      if (by_requests_) {
        const auto share = shares_.find(name);
        const auto useful = std::llround(static_cast<double>(held.bytes) *
                                         (share == shares_.end() ? 1.0 : share->second));
        heap.useful += useful;
        heap.extra += held.bytes - useful + pieces * chunk_header_;
      } else {
        const auto headers = std::min(held.bytes, pieces * block_header_);
        heap.useful += held.bytes - headers;
        heap.extra += headers + pieces * kMallocHeader;
      }
    }
    return heap;
  }

private:
  const Recording &recording_;
  const std::string &context_;
  bool by_requests_;
  std::map<std::string, double> shares_;
  std::int64_t chunk_header_, block_header_;
};

// Every so many, the largest, and the last.
std::vector<std::size_t> chosen(std::size_t count, std::size_t largest)
{
  std::vector<std::size_t> out;
  const auto stride = std::max<std::size_t>(1, (count + kSnapshots - 1) / kSnapshots);
  for (std::size_t i = 0; i < count; ++i)
    if (i % stride == 0 || i == largest || i + 1 == count)
      out.push_back(i);
  return out;
}

class Tree {
public:
  Tree(const Recording &recording, const Recording::Sample &sample, const std::string &context,
       std::int64_t heap)
      : profile_(make_profile(recording, {.view = View::peak, .context = context})),
        whole_(static_cast<double>(heap))
  {
    std::map<std::string, std::int64_t> held;
    for (const auto &one : sample.contexts)
      held[recording.names[one.name]] = std::max<std::int64_t>(0, one.bytes);
    scale(held);
    for (std::uint32_t i = 0; i < profile_.contexts.size(); ++i)
      roots_.push_back(call_tree(profile_, i, View::peak, Innermost::first));
    std::ranges::stable_sort(order(), std::ranges::greater(),
                             [&](std::uint32_t i) { return roots_[i].bytes; });
  }

  std::string print(std::int64_t heap)
  {
    const auto large = std::ranges::count_if(roots_, [&](const auto &t) { return is_large(t); });
    const auto small = static_cast<std::int64_t>(roots_.size()) - large;
    out_ = fmt::format("n{}: {} ({})\n", large + (small > 0), heap,
                       profile_.grouping == Grouping::module ? "libraries that called malloc"
                                                             : "memory contexts, by name");
    std::int64_t rest = 0;
    for (const auto i : order_) {
      if (is_large(roots_[i]))
        branch(roots_[i], one_line(profile_.contexts[i].name), 1);
      else
        rest += roots_[i].bytes;
    }
    if (small > 0)
      below_threshold(rest, static_cast<std::size_t>(small), 1);
    return std::move(out_);
  }

private:
  std::vector<std::uint32_t> &order()
  {
    for (std::uint32_t i = 0; i < roots_.size(); ++i)
      order_.push_back(i);
    return order_;
  }

  bool is_large(const CallTree &tree) const
  {
    return tree.bytes > 0 && static_cast<double>(tree.bytes) >= kLeastShare * whole_;
  }

  // What was held then, by how much each stack raised the peak.
  void scale(const std::map<std::string, std::int64_t> &held)
  {
    const auto peak = static_cast<std::size_t>(View::peak);
    for (std::uint32_t i = 0; i < profile_.contexts.size(); ++i) {
      std::vector<std::uint64_t> weights;
      std::vector<Profile::Entry *> entries;
      for (auto &entry : profile_.entries)
        if (entry.context == i) {
          entries.push_back(&entry);
          weights.push_back(static_cast<std::uint64_t>(entry.of(View::peak)));
        }
      const auto found = held.find(profile_.contexts[i].name);
      const auto bytes = found == held.end() ? 0 : found->second;
      profile_.contexts[i].bytes[peak] = bytes;
      const auto parts = spread(bytes, weights);
      for (std::size_t k = 0; k < parts.size(); ++k)
        entries[k]->bytes[peak] = parts[k];
    }
  }

  void branch(const CallTree &tree, const std::string &name, std::size_t depth)
  {
    const auto large =
        std::ranges::count_if(tree.children, [&](const auto &t) { return is_large(t); });
    const auto small = static_cast<std::int64_t>(tree.children.size()) - large;
    out_ += fmt::format("{:{}}n{}: {} {}\n", "", depth, large + (small > 0), tree.bytes, name);
    std::int64_t rest = 0;
    for (const auto &child : tree.children) {
      if (!is_large(child)) {
        rest += child.bytes;
        continue;
      }
      const auto &function = profile_.functions[child.function];
      const auto place =
          function.file.empty()
              ? "in " + function.path
              : fmt::format("{}:{}", function.file.substr(function.file.rfind('/') + 1),
                            function.line);
      branch(child, fmt::format("{} ({})", one_line(function.name), one_line(place)), depth + 1);
    }
    if (small > 0)
      below_threshold(rest, static_cast<std::size_t>(small), depth + 1);
  }

  void below_threshold(std::int64_t bytes, std::size_t places, std::size_t depth)
  {
    out_ += fmt::format("{:{}}n0: {} in {} places, all below massif's threshold (1.00%)\n", "",
                        depth, bytes, places);
  }

  Profile profile_;
  double whole_;
  std::vector<CallTree> roots_; // by context
  std::vector<std::uint32_t> order_;
  std::string out_;
};

} // namespace

std::string to_massif(const Recording &recording, const std::string &context)
{
  const Heaps heaps(recording, context);
  const auto &samples = recording.samples;
  std::size_t largest = 0;
  for (std::size_t i = 0; i < samples.size(); ++i)
    if (heaps.at(samples[i]).bytes > heaps.at(samples[largest]).bytes)
      largest = i;

  auto out =
      fmt::format("desc: pgmemtrace record --level {}\ncmd: PostgreSQL on {}\ntime_unit: ms\n",
                  one_line(recording.level), one_line(recording.host));
  std::size_t number = 0;
  for (const auto i : chosen(samples.size(), largest)) {
    const auto &sample = samples[i];
    const auto heap = heaps.at(sample);
    const bool detailed = i == largest || i + 1 == samples.size();
    out += fmt::format("#-----------\nsnapshot={}\n#-----------\ntime={}\nmem_heap_B={}\n"
                       "mem_heap_extra_B={}\nmem_stacks_B=0\nheap_tree={}\n",
                       number++, sample.ms, heap.useful, heap.extra,
                       i == largest ? "peak"
                       : detailed   ? "detailed"
                                    : "empty");
    if (detailed)
      out += Tree(recording, sample, context, heap.bytes).print(heap.bytes);
  }
  return out;
}

} // namespace pgmemtrace
