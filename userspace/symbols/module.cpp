// SPDX-License-Identifier: BSD-2-Clause
// module.cpp - one module's sources of names, in the order of their worth.
#include "symbols/module.h"

#include <cstdlib>
#include <utility>

#include "symbols/demangle.h"
#include "symbols/frame_pointers.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kMaxRemembered = 8192; // addresses

// What DWARF adds to the function that the compiler made.  Its name only where there is no symbol:
// symbols tell clones and cold parts of a function from one another.
void complete(Frame &compiled, SourceLines::Place place, std::uint64_t address)
{
  compiled.file = std::move(place.file);
  compiled.line = place.line;
  if (compiled.function.empty() && place.start != 0 && address >= place.start) {
    compiled.function = std::move(place.function);
    if (!compiled.function.empty()) {
      compiled.start = place.start;
      compiled.offset = address - place.start;
    }
  }
}

} // namespace

Module::Module(ElfFile binary, std::string path, DebugFilePlaces places)
    : binary_(std::move(binary)), path_(std::move(path)), places_(std::move(places))
{
}

std::optional<std::uint64_t> Module::link_address(std::uint64_t offset) const
{
  return binary_.link_address(offset);
}

Module::Tables &Module::tables()
{
  if (!tables_) {
    tables_.emplace();
    tables_->lines = SourceLines::open(binary_.handle());
    if (!tables_->lines)
      tables_->debug_file = find_debug_file(binary_, path_, places_);
    const ElfFile *debug = tables_->debug_file ? &*tables_->debug_file : nullptr;
    if (debug != nullptr)
      tables_->lines = SourceLines::open(debug->handle());
    tables_->functions.emplace(binary_, debug);
  }
  return *tables_;
}

// The function that the compiler made, by its symbol, else by what .eh_frame says of its bounds.
Frame Module::compiled_frame(const CodeAddress &code, std::uint64_t address, unsigned back)
{
  Frame frame{.code = code};
  if (const auto function = tables().functions->find(address - back)) {
    frame.function = demangled(function->name).append(function->suffix);
    frame.start = function->start;
    frame.offset = address - function->start;
    return frame;
  }
  const auto bounds = binary_.bounds(address - back);
  frame.start = bounds ? bounds->address : 0;
  frame.offset = address;
  return frame;
}

std::vector<Frame> Module::find_frames(const CodeAddress &code, unsigned back)
{
  std::vector<Frame> frames;
  const auto address = link_address(code.offset - back);
  if (!address)
    return {{.code = code, .offset = code.offset}};
  Frame compiled = compiled_frame(code, *address + back, back);
  if (tables().lines)
    for (auto &place : tables().lines->at(*address)) {
      if (!place.inlined) {
        complete(compiled, std::move(place), *address + back);
        break;
      }
      frames.push_back({.code = code,
                        .function = std::move(place.function),
                        .file = std::move(place.file),
                        .line = place.line,
                        .inlined = true});
    }
  frames.push_back(std::move(compiled));
  return frames;
}

std::vector<Frame> Module::frames(const CodeAddress &code, unsigned back)
{
  const std::pair key{code.offset, back};
  auto known = found_.find(key);
  if (known == found_.end()) {
    if (found_.size() >= kMaxRemembered)
      found_.clear();
    known = found_.emplace(key, find_frames(code, back)).first;
  }
  auto frames = known->second;
  // One file may have several paths.
  for (auto &frame : frames)
    frame.code = code;
  return frames;
}

Module::Link Module::find_frame_pointer(std::uint64_t address)
{
  if (const auto main = binary_.function("main");
      main && address >= main->address && address - main->address < main->size)
    return Link::bottom;
  Dwarf_Frame *rules = nullptr;
  if (unwind_rules() == nullptr || dwarf_cfi_addrframe(unwind_rules(), address, &rules) != 0)
    return Link::unknown;
  const std::unique_ptr<Dwarf_Frame, decltype(&std::free)> owned(rules, std::free);
  return leads_to_caller(rules) ? Link::caller : Link::unknown;
}

Module::Link Module::frame_pointer(std::uint64_t address)
{
  if (frame_pointers_.size() >= kMaxRemembered)
    frame_pointers_.clear();
  const auto [known, is_new] = frame_pointers_.try_emplace(address, Link::unknown);
  if (is_new)
    known->second = find_frame_pointer(address);
  return known->second;
}

std::size_t Module::memory_bytes() const
{
  constexpr std::size_t kAlways = 256 << 10; // .eh_frame and headers, read or not
  std::size_t bytes = kAlways + found_.size() * (sizeof(Frame) + 64) + frame_pointers_.size() * 32;
  if (tables_ && tables_->functions)
    bytes += 2 * tables_->functions->memory_bytes(); // libelf holds the symbols and names
  if (tables_ && tables_->lines)
    bytes += tables_->lines->memory_bytes();
  return bytes;
}

} // namespace pgmemtrace
