// SPDX-License-Identifier: BSD-2-Clause
#include "attach/dsm_variables.h"

#include <string>

#include "attach/static_variable.h"

namespace pgmemtrace {

Result<DsmVariables> find_dsm_variables(const ElfFile &elf)
{
  const auto list = find_variable(elf, "dsm_segment_list", {"dsm_find_mapping"},
                                  VariableUse::Kind::address, ElfFile::Storage::initialized);
  if (!list)
    return list.error();
  DsmVariables found{.segments = *list};
  const auto exported = [&elf](const char *name, std::uint64_t &into) -> Result<> {
    const auto symbol = elf.object(name);
    if (!symbol)
      return Error{std::string("find ") + name + ": no such symbol", 0, {}};
    into = symbol->address;
    return Ok{};
  };
  if (auto ok = exported("UsedShmemSegAddr", found.shared_memory); !ok)
    return ok.error();
  if (auto ok = exported("CurTransactionContext", found.transaction_context); !ok)
    return ok.error();
  if (auto ok = exported("CurrentSession", found.session); !ok)
    return ok.error();
  return found;
}

} // namespace pgmemtrace
