// SPDX-License-Identifier: BSD-2-Clause
// report_page_test.cpp - the page that `report --format html` makes, as a browser shows it.
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "recording_fixture.h"
#include "report/formats.h"

namespace pgmemtrace::test {
namespace {

using testing::HasSubstr;
using testing::Not;

class Page : public testing::Test {
protected:
  void SetUp() override
  {
    if (std::string(PGMT_CHROMIUM).ends_with("-NOTFOUND"))
      GTEST_SKIP() << "NOT TESTED: no Chromium here";
    std::string folder = "/tmp/pgmt-page.XXXXXX";
    folder_ = mkdtemp(folder.data());
  }
  void TearDown() override
  {
    if (!folder_.empty())
      std::filesystem::remove_all(folder_);
  }

  // What the page is after a reader did something, as HTML; its errors are in its title.
  std::string after(const std::string &deed, const Recording &recording, bool by_query,
                    View view = View::grown) const
  {
    auto page =
        to_html(recording,
                make_profile(recording, {.view = view, .context = {}, .by_query = by_query}), view);
    page.insert(page.rfind("</script>"), deed);
    page.insert(page.find("<script>"),
                "<script>onerror = message => { document.title = message; };</script>");
    std::ofstream(folder_ / "page.html") << page;
    const auto command =
        std::string(PGMT_CHROMIUM) +
        " --headless --no-sandbox --disable-gpu --user-data-dir=" + (folder_ / "profile").string() +
        " --dump-dom file://" + (folder_ / "page.html").string() + " 2>/dev/null";
    const std::unique_ptr<FILE, int (*)(FILE *)> output(popen(command.c_str(), "r"), pclose);
    std::string dom;
    std::array<char, 4096> buffer{};
    while (const auto size = std::fread(buffer.data(), 1, buffer.size(), output.get()))
      dom.append(buffer.data(), size);
    EXPECT_THAT(dom, HasSubstr("<title>pgmemtrace report</title>"));
    dom.erase(0, dom.rfind("<h1>")); // what is shown, and not
    dom.erase(dom.find("<script"));  // ... what is told
    return dom;
  }

  static std::string search(const std::string &words)
  {
    return "byId('search').value = '" + words + "'; byId('search').oninput();";
  }

  std::filesystem::path folder_;
};

TEST_F(Page, finds_functions_at_every_level)
{
  EXPECT_THAT(after(search("leak"), small_recording(), false), HasSubstr("% of 6.84 KiB"));
  EXPECT_THAT(after(search("library"), heap_recording(), false), HasSubstr("class=\"found\""));
  EXPECT_THAT(after(search("library"), heap_recording(), true), HasSubstr("class=\"found\""));
}

TEST_F(Page, says_bytes_as_such_and_ids_as_they_are)
{
  const auto modules = after("", heap_recording(), false);
  EXPECT_THAT(modules, HasSubstr("<td>1000 B</td>")); // returned
  EXPECT_THAT(modules, Not(HasSubstr("NaN")));
  const auto queries = after("", heap_recording(), true);
  EXPECT_THAT(queries, HasSubstr("<td>-42</td>"));
  EXPECT_THAT(queries, HasSubstr("<td>text:0000000000000abc</td>"));
  EXPECT_THAT(queries, Not(HasSubstr("NaN")));
}

TEST_F(Page, every_view_and_every_order_is_shown)
{
  const std::string everything =
      "for (const one of document.querySelectorAll('#views input')) one.click();"
      "for (let i = 0; i < columns.length; i++)"
      "  document.querySelectorAll('#contexts thead button')[i].click();"
      "document.querySelectorAll('#icicle button')[1].click();";
  for (const bool by_query : {false, true}) {
    const auto dom = after(everything, requests_recording(), by_query);
    EXPECT_THAT(dom, Not(HasSubstr("NaN")));
    EXPECT_THAT(dom, HasSubstr("asked (what palloc was called for)"));
    EXPECT_THAT(dom, HasSubstr("class=\"outside\"")); // zoomed
  }
}

} // namespace
} // namespace pgmemtrace::test
