// SPDX-License-Identifier: BSD-2-Clause
// demangle.cpp - the C++ library's demangler, kept from names made to exhaust memory.
#include "symbols/demangle.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include <cxxabi.h>

#include "util/text.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kMaxMangled = 1024;
constexpr std::size_t kMaxShown = 1024;
// A name can refer to its own earlier parts (S_, S0_, T_).  A part that is referred to twice
// doubles the result, one that is referred to three times by each of k/3 others makes it
// 3^(k/3) times as long: with 24 at most 6,561 times, a few MB for the worst of names.
constexpr std::ptrdiff_t kMaxReferences = 24;

bool is_bounded(std::string_view mangled)
{
  return mangled.size() <= kMaxMangled && std::ranges::count_if(mangled, [](char letter) {
                                            return letter == 'S' || letter == 'T';
                                          }) <= kMaxReferences;
}

} // namespace

std::string demangled(std::string_view name)
{
  if (name.starts_with("_Z") && is_bounded(name)) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> plain(
        abi::__cxa_demangle(std::string(name).c_str(), nullptr, nullptr, &status), std::free);
    if (plain && status == 0)
      return one_line(plain.get(), kMaxShown);
  }
  return one_line(name, kMaxShown);
}

} // namespace pgmemtrace
