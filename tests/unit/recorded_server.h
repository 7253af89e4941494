// SPDX-License-Identifier: BSD-2-Clause
// recorded_server.h - the allocators of recorded servers.
//
// A recording (fixtures/allocators/) has one fact per line, addresses in hex:
//   function NAME ADDRESS    one that the executable exports
//   exported ADDRESS         another one, called or jumped to
//   import ADDRESS NAME      what the dynamic linker puts into this pointer
//   pointer ADDRESS VALUE    a pointer to code
//   code ADDRESS BYTES       a function, or a part of one
//   stub ADDRESS BYTES       the beginning of code whose extent does not matter
//   site KIND TYPE ADDRESS DISPLACEMENT HOLDER   what is to be found
//   method FUNCTION ADDRESS CONTEXT CHUNK SIZE [framed]  the same of level alloc: where its
//                            arguments are, and whether rbp is its own
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "attach/allocators.h"

namespace pgmemtrace::test {

inline std::uint64_t number(const std::string &hex) { return std::stoull(hex, nullptr, 16); }

inline std::vector<std::byte> bytes(const std::string &hex)
{
  std::vector<std::byte> out;
  std::string digits;
  for (char c : hex)
    if (c != ' ')
      digits += c;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    out.push_back(static_cast<std::byte>(number(digits.substr(i, 2))));
  return out;
}

// An executable of which only this is known.
struct Recorded {
  struct Piece {
    std::vector<std::byte> bytes;
    bool function = true;
  };
  std::map<std::uint64_t, Piece> pieces;
  std::map<std::string, std::uint64_t> functions;
  std::map<std::uint64_t, std::string> imports;
  std::map<std::uint64_t, std::uint64_t> pointers;
  std::set<std::uint64_t> exported;
  std::vector<std::string> sites;   // "KIND TYPE ADDRESS DISPLACEMENT HOLDER"
  std::vector<std::string> methods; // "FUNCTION ADDRESS CONTEXT CHUNK SIZE"

  const std::pair<const std::uint64_t, Piece> *piece_at(std::uint64_t address) const
  {
    auto after = pieces.upper_bound(address);
    if (after == pieces.begin())
      return nullptr;
    --after;
    return address - after->first < after->second.bytes.size() ? &*after : nullptr;
  }

  Code code() const
  {
    return {.machine = ElfFile::Machine::x86_64,
            .bytes = [this](std::uint64_t address) -> std::span<const std::byte> {
              const auto *piece = piece_at(address);
              if (piece == nullptr)
                return {};
              return std::span(piece->second.bytes).subspan(address - piece->first);
            },
            .imported =
                [this](std::uint64_t pointer) {
                  const auto found = imports.find(pointer);
                  return found == imports.end() ? std::string() : found->second;
                },
            .bounds = [this](std::uint64_t address) -> std::optional<ElfFile::Symbol> {
              const auto *piece = piece_at(address);
              if (piece == nullptr && piece_at(address - 1) != nullptr)
                return ElfFile::Symbol{address, 1}; // what follows was not asked for
              if (piece == nullptr || !piece->second.function)
                return std::nullopt;
              return ElfFile::Symbol{piece->first, piece->second.bytes.size()};
            },
            .exported =
                [this](std::uint64_t address) {
                  for (const auto &[name, known] : functions)
                    if (known == address)
                      return true;
                  return exported.contains(address);
                }};
  }

  Allocators allocators() const
  {
    return {.function = [this](const std::string &name) -> std::optional<std::uint64_t> {
              const auto found = functions.find(name);
              return found == functions.end() ? std::nullopt : std::optional{found->second};
            },
            .pointer = [this](std::uint64_t address) -> std::optional<std::uint64_t> {
              const auto found = pointers.find(address);
              return found == pointers.end() ? std::nullopt : std::optional{found->second};
            }};
  }
};

inline Recorded load(const std::string &name)
{
  Recorded recorded;
  std::ifstream file(std::string(PGMT_FIXTURES "/allocators/") + name);
  EXPECT_TRUE(file) << name;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string kind, first, second;
    words >> kind >> first >> second;
    if (kind == "function")
      recorded.functions[first] = number(second);
    else if (kind == "exported")
      recorded.exported.insert(number(first));
    else if (kind == "import")
      recorded.imports[number(first)] = second;
    else if (kind == "pointer")
      recorded.pointers[number(first)] = number(second);
    else if (kind == "code" || kind == "stub")
      recorded.pieces[number(first)] = {bytes(second), kind == "code"};
    else if (kind == "site")
      recorded.sites.push_back(line.substr(5));
    else if (kind == "method")
      recorded.methods.push_back(line.substr(7));
  }
  return recorded;
}

} // namespace pgmemtrace::test
