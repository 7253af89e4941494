// SPDX-License-Identifier: BSD-2-Clause
#include "attach/same_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "attach/empty_probes.h"
#include "util/file.h"

namespace pgmemtrace {

namespace {

constexpr std::size_t kBreakpoint = 4; // the longest: aarch64's; x86-64's is one byte

// A page of a file, as a process that runs it has it.
class CodePage {
public:
  using Instruction = std::array<std::byte, kBreakpoint>;

  static Result<CodePage> map(const std::string &path, std::uint64_t offset)
  {
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file)
      return Error{"open " + path, errno, {}};
    CodePage page;
    page.size_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    page.at_ = offset % page.size_;
    // It need not be executable: that it may become so is enough for a breakpoint.
    page.start_ = mmap(nullptr, page.size_, PROT_READ, MAP_PRIVATE, file.get(),
                       static_cast<off_t>(offset - page.at_));
    if (page.start_ == MAP_FAILED)
      return Error{"map " + path, errno, {}};
    return page;
  }
  CodePage(CodePage &&other) noexcept
      : start_(std::exchange(other.start_, MAP_FAILED)), size_(other.size_), at_(other.at_)
  {
  }
  CodePage &operator=(CodePage &&) = delete;
  ~CodePage()
  {
    if (start_ != MAP_FAILED)
      munmap(start_, size_);
  }

  Instruction instruction() const
  {
    Instruction bytes{};
    const auto *page = static_cast<const std::byte *>(start_);
    std::copy_n(page + at_, std::min(bytes.size(), size_ - at_), bytes.begin());
    return bytes;
  }

private:
  CodePage() = default;

  void *start_ = MAP_FAILED;
  std::size_t size_ = 0;
  std::size_t at_ = 0;
};

} // namespace

Result<std::optional<std::size_t>> find_same_file(const std::string &file, std::uint64_t offset,
                                                  const std::vector<std::string> &others)
{
  std::vector<CodePage> pages;
  std::vector<CodePage::Instruction> before;
  for (const auto &other : others) {
    auto page = CodePage::map(other, offset);
    if (!page)
      return page.error();
    before.push_back(page->instruction());
    pages.push_back(std::move(*page));
  }
  const auto probes = EmptyProbes::attach(file, {offset});
  if (!probes)
    return probes.error();
  for (std::size_t i = 0; i < pages.size(); ++i)
    if (pages[i].instruction() != before[i])
      return std::optional(i);
  return std::optional<std::size_t>();
}

} // namespace pgmemtrace
