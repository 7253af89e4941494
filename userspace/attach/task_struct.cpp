// SPDX-License-Identifier: BSD-2-Clause
#include "attach/task_struct.h"

#include <memory>
#include <string_view>

#include <bpf/btf.h>

namespace pgmemtrace {
namespace {

constexpr int kNesting = 4; // task_struct has one level of unnamed structs, if any

// Bits from the beginning of `type`; members of unnamed structs are found, too.
std::optional<std::uint32_t> bit_offset(const btf &types, std::uint32_t type_id,
                                        std::string_view member, int nesting = kNesting)
{
  const btf_type *type = btf__type_by_id(&types, type_id);
  if (type == nullptr || !btf_is_composite(type) || nesting == 0)
    return std::nullopt;
  const btf_member *members = btf_members(type);
  for (std::uint32_t i = 0; i < btf_vlen(type); ++i) {
    const char *name = btf__name_by_offset(&types, members[i].name_off);
    const std::uint32_t offset = btf_member_bit_offset(type, i);
    if (name != nullptr && name == member)
      return offset;
    if (name == nullptr || *name == '\0')
      if (const auto inner = bit_offset(types, members[i].type, member, nesting - 1))
        return offset + *inner;
  }
  return std::nullopt;
}

// Bytes from the beginning of a struct.
std::optional<std::uint32_t> offset_of(const btf &types, const char *name, std::string_view member)
{
  const int id = btf__find_by_name_kind(&types, name, BTF_KIND_STRUCT);
  if (id < 0)
    return std::nullopt;
  const auto bits = bit_offset(types, static_cast<std::uint32_t>(id), member);
  return bits ? std::optional(*bits / 8) : std::nullopt;
}

} // namespace

std::optional<TaskStruct> task_struct_of_this_kernel()
{
  const std::unique_ptr<btf, decltype(&btf__free)> types(btf__load_vmlinux_btf(), btf__free);
  if (!types)
    return std::nullopt;
  const auto real_parent = offset_of(*types, "task_struct", "real_parent");
  const auto tgid = offset_of(*types, "task_struct", "tgid");
  const auto mm = offset_of(*types, "task_struct", "mm");
  const auto brk = offset_of(*types, "mm_struct", "brk");
  if (!real_parent || !tgid || !mm || !brk)
    return std::nullopt;
  return TaskStruct{.real_parent = *real_parent, .tgid = *tgid, .mm = *mm, .mm_brk = *brk};
}

} // namespace pgmemtrace
