// SPDX-License-Identifier: BSD-2-Clause
// layout.cpp - offsets from BTF, and by major what BTF does not say.
#include "attach/layout.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <optional>

#include <bpf/btf.h>
#include <sys/stat.h>

#include "attach/layout_blobs.h"

namespace pgmemtrace {

namespace {

// ---- what BTF does not say, by major ------------------------------------------

struct MajorFacts {
  int major;
  std::uint32_t aset, generation, slab, bump; // T_AllocSetContext, ... of nodes/nodetags.h
  std::vector<std::string> backend_types;     // enum BackendType of miscadmin.h, in its order
};

// The words are those of GetBackendTypeDesc(), miscinit.c.
const std::vector<MajorFacts> &major_facts()
{
  static const std::vector<MajorFacts> facts{
      {13,
       217,
       219,
       218,
       0,
       {"", "autovacuum launcher", "autovacuum worker", "client backend", "background worker",
        "background writer", "checkpointer", "startup", "walreceiver", "walsender", "walwriter",
        "archiver", "stats collector", "logger"}},
      {14,
       222,
       224,
       223,
       0,
       {"", "autovacuum launcher", "autovacuum worker", "client backend", "background worker",
        "background writer", "checkpointer", "startup", "walreceiver", "walsender", "walwriter",
        "archiver", "stats collector", "logger"}},
      {15,
       223,
       225,
       224,
       0,
       {"", "autovacuum launcher", "autovacuum worker", "client backend", "background worker",
        "background writer", "checkpointer", "startup", "walreceiver", "walsender", "walwriter",
        "archiver", "logger"}},
      {16,
       450,
       451,
       452,
       0,
       {"", "archiver", "autovacuum launcher", "autovacuum worker", "client backend",
        "background worker", "background writer", "checkpointer", "logger", "standalone backend",
        "startup", "walreceiver", "walsender", "walwriter"}},
      {17,
       469,
       470,
       471,
       472,
       {"", "client backend", "autovacuum launcher", "autovacuum worker", "background worker",
        "walsender", "slotsync worker", "standalone backend", "archiver", "background writer",
        "checkpointer", "startup", "walreceiver", "walsummarizer", "walwriter", "logger"}},
      {18,
       474,
       475,
       476,
       477,
       {"", "client backend", "dead-end client backend", "autovacuum launcher", "autovacuum worker",
        "background worker", "walsender", "slotsync worker", "standalone backend", "archiver",
        "background writer", "checkpointer", "io worker", "startup", "walreceiver", "walsummarizer",
        "walwriter", "logger"}},
  };
  return facts;
}

const MajorFacts *facts_of(int major)
{
  const auto &all = major_facts();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto &facts) { return facts.major == major; });
  return found == all.end() ? nullptr : &*found;
}

std::string unknown_major(int major)
{
  std::string known;
  for (const int supported : supported_majors())
    known += (known.empty() ? "" : ", ") + std::to_string(supported);
  return "choose the memory layout: PostgreSQL " + std::to_string(major) +
         " is not known here (known: " + known + ")";
}

// ---- offsets from BTF -----------------------------------------------------------

struct BtfFree {
  void operator()(btf *types) const { btf__free(types); }
};
using Btf = std::unique_ptr<btf, BtfFree>;

// Private structs of PostgreSQL are far smaller; readers allocate by these sizes.
constexpr std::uint32_t kMaxStruct = 65536;

enum class Need { required, optional };

// One struct of the blob.  The first thing that is missing is noted in `missing`.
class Struct {
public:
  Struct(const btf &types, const char *name, Need need, std::string &missing)
      : types_(types), name_(name), missing_(missing)
  {
    int id = btf__find_by_name_kind(&types, name, BTF_KIND_STRUCT);
    if (id < 0) // a struct without a tag
      id = btf__find_by_name_kind(&types, name, BTF_KIND_TYPEDEF);
    if (id > 0)
      type_ = resolved(static_cast<std::uint32_t>(id));
    if (type_ != nullptr && !btf_is_struct(type_))
      type_ = nullptr;
    if (type_ != nullptr && type_->size > kMaxStruct)
      type_ = nullptr;
    if (type_ == nullptr && need == Need::required)
      miss(name_);
  }

  bool present() const { return type_ != nullptr; }
  std::uint32_t size() const { return type_ == nullptr ? kAbsent : type_->size; }

  // Offset of a member that is at least `width` bytes wide (an array without a length has
  // none).  A struct that is absent as a whole was noted before.
  std::uint32_t at(const char *member, std::uint32_t width, Need need = Need::required) const
  {
    const btf_member *found = find(member);
    if (found != nullptr && fits(*found, width))
      return found->offset / 8;
    if (type_ != nullptr && need == Need::required)
      miss(std::string(name_) + "." + member);
    return kAbsent;
  }

  std::uint32_t elements(const char *member) const
  {
    const btf_member *found = find(member);
    const btf_type *type = found == nullptr ? nullptr : resolved(found->type);
    return type == nullptr || !btf_is_array(type) ? 0 : btf_array(type)->nelems;
  }

private:
  const btf_type *resolved(std::uint32_t id) const
  {
    const int at = btf__resolve_type(&types_, id);
    return at < 0 ? nullptr : btf__type_by_id(&types_, static_cast<std::uint32_t>(at));
  }

  const btf_member *find(const char *member) const
  {
    if (type_ == nullptr)
      return nullptr;
    const btf_member *members = btf_members(type_);
    for (std::uint32_t i = 0; i < btf_vlen(type_); ++i) {
      const char *name = btf__name_by_offset(&types_, members[i].name_off);
      if (name != nullptr && std::string_view(name) == member)
        return btf_member_bitfield_size(type_, i) == 0 ? &members[i] : nullptr;
    }
    return nullptr;
  }

  bool fits(const btf_member &member, std::uint32_t width) const
  {
    if (type_ == nullptr)
      return false;
    const std::uint32_t offset = member.offset / 8;
    const auto size = btf__resolve_size(&types_, member.type);
    return member.offset % 8 == 0 && size >= 0 && static_cast<std::uint64_t>(size) >= width &&
           offset + static_cast<std::uint64_t>(size) <= type_->size;
  }

  void miss(std::string what) const
  {
    if (missing_.empty())
      missing_ = std::move(what);
  }

  const btf &types_;
  const char *name_;
  std::string &missing_;
  const btf_type *type_ = nullptr;
};

constexpr std::uint32_t kPointer = 8;
constexpr std::uint32_t kInt = 4;
constexpr std::uint32_t kList = 16; // dlist_head, dlist_node

void read_context(Layout &layout, const btf &types, std::string &missing)
{
  const Struct context(types, "MemoryContextData", Need::required, missing);
  layout.context = {context.size(),
                    context.at("type", kInt),
                    context.at("mem_allocated", kPointer),
                    context.at("methods", kPointer),
                    context.at("parent", kPointer),
                    context.at("firstchild", kPointer),
                    context.at("prevchild", kPointer),
                    context.at("nextchild", kPointer),
                    context.at("name", kPointer),
                    context.at("ident", kPointer)};
}

// Readers take one address for a context and for its header.
void require_header_first(const Struct &context, const char *name, std::string &missing)
{
  if (context.present() && context.at("header", kPointer) != 0 && missing.empty())
    missing = std::string(name) + ".header at offset 0";
}

void read_aset(Layout &layout, const btf &types, std::string &missing)
{
  const Struct aset(types, "AllocSetContext", Need::required, missing);
  require_header_first(aset, "AllocSetContext", missing);
  layout.aset = {aset.size(),
                 aset.at("blocks", kPointer),
                 aset.at("freelist", kPointer),
                 aset.elements("freelist"),
                 aset.at("keeper", kPointer, Need::optional),
                 aset.at("freeListIndex", kInt)};
  const Struct block(types, "AllocBlockData", Need::required, missing);
  layout.aset_block = {block.size(),
                       block.at("aset", kPointer),
                       block.at("prev", kPointer),
                       block.at("next", kPointer),
                       block.at("freeptr", kPointer),
                       block.at("endptr", kPointer)};

  const Struct old_chunk(types, "AllocChunkData", Need::optional, missing);
  const Struct chunk(types, "MemoryChunk", old_chunk.present() ? Need::optional : Need::required,
                     missing);
  layout.aset_chunk_header = old_chunk.present() ? old_chunk.size() : chunk.size();
  if (chunk.present()) // MEMORY_CONTEXT_METHODID_BITS: three in 16, four since; then `external`
    layout.chunk_value_shift = layout.major == 16 ? 4 : 5;
  layout.aset_chunk_link =
      old_chunk.present() ? old_chunk.at("aset", kPointer) - old_chunk.size() : 0;
}

void read_generation(Layout &layout, const btf &types, std::string &missing)
{
  const Struct generation(types, "GenerationContext", Need::required, missing);
  require_header_first(generation, "GenerationContext", missing);
  layout.generation = {generation.size(), generation.at("blocks", kList),
                       generation.at("keeper", kPointer, Need::optional),
                       generation.at("freeblock", kPointer, Need::optional)};
  const Struct block(types, "GenerationBlock", Need::required, missing);
  layout.generation_block = {block.size(),
                             block.at("node", kList),
                             block.at("blksize", kPointer),
                             block.at("nchunks", kInt),
                             block.at("nfree", kInt),
                             block.at("freeptr", kPointer),
                             block.at("endptr", kPointer),
                             block.at("context", kPointer, Need::optional)};
  const Struct chunk(types, "GenerationChunk", Need::optional, missing);
  layout.generation_chunk_header = chunk.present() ? chunk.size() : layout.aset_chunk_header;
}

void read_slab(Layout &layout, const btf &types, std::string &missing)
{
  const Struct slab(types, "SlabContext", Need::required, missing);
  require_header_first(slab, "SlabContext", missing);
  const bool old = slab.at("freelist", 0, Need::optional) != kAbsent;
  const Need before_16 = old ? Need::required : Need::optional;
  const Need since_16 = old ? Need::optional : Need::required;
  layout.slab.size = slab.size();
  layout.slab.chunk_size = slab.at("chunkSize", kInt);
  layout.slab.full_chunk_size = slab.at("fullChunkSize", kInt);
  layout.slab.block_size = slab.at("blockSize", kInt);
  layout.slab.header_size = slab.at("headerSize", kInt, before_16);
  layout.slab.chunks_per_block = slab.at("chunksPerBlock", kInt);
  layout.slab.nblocks = slab.at("nblocks", kInt, before_16);
  layout.slab.freelist = slab.at("freelist", 0, before_16);
  layout.slab.emptyblocks = slab.at("emptyblocks", kList, since_16);
  layout.slab.emptyblocks_count = kAbsent;
  if (layout.slab.emptyblocks != kAbsent) {
    const Struct list(types, "dclist_head", Need::required, missing);
    if (list.present())
      layout.slab.emptyblocks_count = layout.slab.emptyblocks + list.at("count", kInt);
  }
  layout.slab.blocklist = slab.at("blocklist", kList, since_16);
  layout.slab.blocklists = slab.elements("blocklist");
  layout.slab.is_chunk_free = slab.at("isChunkFree", kPointer, Need::optional);
  const Struct block(types, "SlabBlock", Need::required, missing);
  layout.slab_block = {block.size(), block.at("node", kList), block.at("nfree", kInt),
                       block.at("slab", kPointer, since_16)};
}

void read_bump(Layout &layout, const btf &types, std::string &missing)
{
  const Need need = layout.tag.bump == 0 ? Need::optional : Need::required;
  const Struct bump(types, "BumpContext", need, missing);
  require_header_first(bump, "BumpContext", missing);
  layout.bump = {bump.size(), bump.at("blocks", kList)};
  const Struct block(types, "BumpBlock", need, missing);
  layout.bump_block = {block.size(), block.at("node", kList), block.at("freeptr", kPointer),
                       block.at("endptr", kPointer)};
}

void read_identity(Layout &layout, const btf &types, std::string &missing)
{
  const Struct port(types, "Port", Need::required, missing);
  layout.port = {port.at("database_name", kPointer), port.at("user_name", kPointer)};
  const Struct worker(types, "BackgroundWorker", Need::required, missing);
  layout.bgworker = {worker.at("bgw_type", 1), worker.elements("bgw_type")};
}

void read_statement(Layout &layout, const btf &types, std::string &missing)
{
  const Struct query(types, "QueryDesc", Need::required, missing);
  layout.query_desc = {query.at("plannedstmt", kPointer), query.at("sourceText", kPointer)};
  const Struct planned(types, "PlannedStmt", Need::required, missing);
  layout.planned_stmt = {planned.at("queryId", kPointer), planned.at("stmt_location", kInt),
                         planned.at("stmt_len", kInt)};
}

void read_catalog_caches(Layout &layout, const btf &types, std::string &missing)
{
  const Struct header(types, "catcacheheader", Need::required, missing);
  layout.catcache_header = {header.size(), header.at("ch_caches", kPointer),
                            header.at("ch_ntup", kInt)};

  const Struct cache(types, "catcache", Need::required, missing);
  const bool hashed_lists = cache.at("cc_lbucket", kPointer, Need::optional) != kAbsent;
  layout.catcache = {
      .size = cache.size(),
      .id = cache.at("id", kInt),
      .nbuckets = cache.at("cc_nbuckets", kInt),
      .bucket = cache.at("cc_bucket", kPointer),
      .lists = cache.at("cc_lists", kList, hashed_lists ? Need::optional : Need::required),
      .ntup = cache.at("cc_ntup", kInt),
      .relname = cache.at("cc_relname", kPointer),
      .reloid = cache.at("cc_reloid", kInt),
      .indexoid = cache.at("cc_indexoid", kInt),
      .next = cache.at("cc_next", kPointer),
      .nlist = cache.at("cc_nlist", kInt, hashed_lists ? Need::required : Need::optional),
      .nlbuckets = cache.at("cc_nlbuckets", kInt, hashed_lists ? Need::required : Need::optional),
      .lbucket = cache.at("cc_lbucket", kPointer, Need::optional)};

  const Struct tuple(types, "HeapTupleData", Need::required, missing);
  const Struct entry(types, "catctup", Need::required, missing);
  layout.catctup = {entry.size(),
                    entry.at("ct_magic", kInt),
                    entry.at("hash_value", kInt),
                    entry.at("cache_elem", kList),
                    entry.at("dead", 1),
                    entry.at("negative", 1),
                    entry.at("tuple", kInt) + tuple.at("t_len", kInt),
                    entry.at("my_cache", kPointer)};
  const Struct list(types, "catclist", Need::required, missing);
  layout.catclist = {list.size(),
                     list.at("cl_magic", kInt),
                     list.at("hash_value", kInt),
                     list.at("cache_elem", kList),
                     list.at("n_members", kInt),
                     list.at("my_cache", kPointer)};
}

void read_plans_and_tables(Layout &layout, const btf &types, std::string &missing)
{
  const Struct plan(types, "CachedPlanSource", Need::required, missing);
  layout.plan_source = {plan.size(),
                        plan.at("magic", kInt),
                        plan.at("gplan", kPointer),
                        plan.at("is_saved", 1),
                        plan.at("is_valid", 1),
                        plan.at("node", kList)};
  const Struct table(types, "HTAB", Need::required, missing);
  const Struct header(types, "HASHHDR", Need::required, missing);
  const Struct free_list(types, "FreeListData", Need::required, missing);
  layout.hash_table = {table.size(), table.at("hctl", kPointer), table.at("tabname", kPointer),
                       header.at("freeList", kPointer) + free_list.at("nentries", kPointer)};
}

void read_dynamic_shared_memory(Layout &layout, const btf &types, std::string &missing)
{
  const Struct shared(types, "PGShmemHeader", Need::required, missing);
  layout.shared_memory = {shared.size(), shared.at("magic", kInt), shared.at("dsm_control", kInt)};
  const Struct session(types, "Session", Need::required, missing);
  layout.session = {session.at("segment", kPointer)};
  const Struct segment(types, "dsm_segment", Need::required, missing);
  layout.dsm_segment = {segment.size(),
                        segment.at("node", kList),
                        segment.at("resowner", kPointer),
                        segment.at("handle", kInt),
                        segment.at("mapped_address", kPointer),
                        segment.at("mapped_size", kPointer)};
  const Struct control(types, "dsm_control_header", Need::required, missing);
  layout.dsm_control = {control.at("magic", kInt), control.at("nitems", kInt),
                        control.at("maxitems", kInt), control.at("item", 0)};
  const Struct item(types, "dsm_control_item", Need::required, missing);
  layout.dsm_item = {item.size(), item.at("handle", kInt), item.at("refcnt", kInt),
                     item.at("npages", kPointer, Need::optional), item.at("pinned", 1)};
}

Result<Layout> layout_from(int major, const btf &types)
{
  const MajorFacts *facts = facts_of(major);
  if (facts == nullptr)
    return Error{unknown_major(major), 0, "update pgmemtrace"};
  if (btf__pointer_size(&types) != kPointer && btf__pointer_size(&types) != 0)
    return Error{"read the memory layout: the BTF is not of a 64-bit build", 0, {}};

  Layout layout;
  layout.major = major;
  layout.tag = {facts->aset, facts->generation, facts->slab, facts->bump};
  layout.backend_types = facts->backend_types;
  std::string missing;
  read_context(layout, types, missing);
  read_aset(layout, types, missing);
  read_generation(layout, types, missing);
  read_slab(layout, types, missing);
  read_bump(layout, types, missing);
  read_identity(layout, types, missing);
  read_statement(layout, types, missing);
  read_catalog_caches(layout, types, missing);
  read_plans_and_tables(layout, types, missing);
  read_dynamic_shared_memory(layout, types, missing);
  if (!missing.empty())
    return Error{"read the memory layout: the BTF has no " + missing, 0,
                 "make it from the debug information of this very server, with pahole"};
  return layout;
}

Result<Layout> layout_from_file(int major, const std::string &path)
{
  const std::string what = "read the memory layout from " + path;
  struct stat st {};
  if (stat(path.c_str(), &st) != 0)
    return Error{what, errno, {}};
  // A whole debug file would fit; an endless one, or a FIFO, is a mistake.
  constexpr off_t kMaxFile = 1 << 30;
  if (!S_ISREG(st.st_mode) || st.st_size > kMaxFile)
    return Error{what + ": not a BTF file", 0, {}};
  const Btf types(btf__parse(path.c_str(), nullptr));
  if (!types)
    return Error{what + ": not a BTF file", 0,
                 "make one with: pahole --btf_encode_detached FILE /path/to/postgres"};
  auto layout = layout_from(major, *types);
  if (!layout)
    return Error{layout.error().what + " (" + path + ")", layout.error().err, layout.error().hint};
  return layout;
}

} // namespace

ContextType Layout::type_of_tag(std::uint32_t value) const
{
  if (value == 0)
    return ContextType::unknown;
  if (value == tag.aset)
    return ContextType::alloc_set;
  if (value == tag.generation)
    return ContextType::generation;
  if (value == tag.slab)
    return ContextType::slab;
  return value == tag.bump ? ContextType::bump : ContextType::unknown;
}

std::span<const std::byte> layout_btf(int major, bool checking)
{
  for (const auto &blob : layout_blobs())
    if (blob.major == major && blob.checking == checking)
      return {blob.begin, blob.end};
  return {};
}

std::vector<int> supported_majors()
{
  std::vector<int> majors;
  for (const auto &blob : layout_blobs())
    if (!blob.checking)
      majors.push_back(blob.major);
  std::sort(majors.begin(), majors.end());
  return majors;
}

Result<Layout> parse_layout(int major, std::span<const std::byte> blob)
{
  if (blob.size() > UINT32_MAX)
    return Error{"read the memory layout: not BTF", 0, {}};
  const Btf types(btf__new(blob.data(), static_cast<std::uint32_t>(blob.size())));
  if (!types)
    return Error{"read the memory layout: not BTF", 0, {}};
  return layout_from(major, *types);
}

Result<Layout> load_layout(int major, bool checking, const std::string &btf_file)
{
  if (!btf_file.empty())
    return layout_from_file(major, btf_file);
  const auto blob = layout_btf(major, checking);
  if (blob.empty())
    return Error{unknown_major(major), 0,
                 "give the layout of this server with --postgres-btf FILE, made by pahole from its "
                 "debug information"};
  return parse_layout(major, blob);
}

} // namespace pgmemtrace
