// SPDX-License-Identifier: BSD-2-Clause
// redact_fuzzer.cpp - SQL whose literals are known, cut anywhere: none of them may be seen.
//
// The text is put together of tokens, as PostgreSQL's scanner (scan.l) reads them.  Literals and
// comments hold H and 7; what may be shown never does.
#include <iostream>

#include <fuzzer/FuzzedDataProvider.h>

#include "fuzz.h"
#include "util/redact.h"
#include "util/text.h"

namespace pgmemtrace::test {
namespace {

class Sql {
public:
  explicit Sql(FuzzedDataProvider &in) : in_(in) {}

  std::string text()
  {
    std::string sql;
    while (in_.remaining_bytes() > 0 && sql.size() < 4096) {
      sql += in_.ConsumeBool() ? shown() : hidden();
      sql += pick({" ", "\n", ",", "(", " = "}); // or the next token might belong to this one
    }
    return sql;
  }

private:
  std::string pick(std::initializer_list<const char *> choices)
  {
    return choices.begin()[in_.ConsumeIntegralInRange<std::size_t>(0, choices.size() - 1)];
  }
  std::string any() { return in_.ConsumeRandomLengthString(12); }
  std::string secret() { return any() + "H" + any(); }

  // `text` with `escape` before each of `characters`.
  static std::string escaped(const std::string &text, std::string_view characters, char escape)
  {
    std::string out;
    for (const char c : text) {
      if (characters.find(c) != std::string_view::npos)
        out += escape != '\0' ? escape : c; // '\0': doubled
      out += c;
    }
    return out;
  }
  static std::string without(std::string text, std::string_view characters)
  {
    std::erase_if(text, [&](char c) { return characters.find(c) != std::string_view::npos; });
    return text;
  }

  std::string shown()
  {
    if (in_.ConsumeBool())
      return '"' + escaped(without(any(), "H7"), "\"", '\0') + '"';
    return pick(
        {"select", "e", "U", "x_$tag$", "\xc3\xa9", "$1", "..", ".", "?", "::", "[", "a.b"});
  }

  std::string quoted() { return "'" + escaped(secret(), "'", '\0') + "'"; }
  std::string with_escapes() { return "'" + escaped(secret(), "'\\", '\\') + "'"; }

  std::string hidden()
  {
    switch (in_.ConsumeIntegralInRange(0, 7)) {
    case 0: return quoted();
    case 1: {
      // A string goes on in the next line, and what began with E goes on that way.
      std::string text = pick({"E", "e"}) + with_escapes();
      while (in_.ConsumeBool())
        text += pick({"\n", " \r\t", "-- H\n", "\n  --H\n"}) + with_escapes();
      return text + " x"; // or the next string would be a part of this one
    }
    case 2: return pick({"b", "X", "n", "U&", "u&"}) + quoted();
    case 3: {
      const auto tag = pick({"$$", "$tag$", "$\xc3\xa9$"});
      return tag + without(secret(), "$") + pick({"", "$1", "$x$"}) + tag;
    }
    case 4: return "--" + without(secret(), "\r\n") + "\n";
    case 5: return "/*" + without(secret(), "*/") + pick({"", "/*H*/", "/**/"}) + "*/";
    case 6: return quoted() + "\n" + quoted();
    default: return pick({"7", "17", "1.7e+7", ".7", "7.", "0x7f", "1_7", "7e-1"});
    }
  }

  FuzzedDataProvider &in_;
};

void check(std::string_view sql)
{
  const std::string redacted = redact(sql);
  if (redacted.find_first_of("H7") != std::string::npos)
    std::cerr << "---- of:\n" << sql << "\n---- stays:\n" << redacted << "\n----\n";
  must(redacted.find_first_of("H7") == std::string::npos, "nothing of a literal is shown");
  must(redacted.size() <= sql.size(), "redacted text is no longer than it was");
}

} // namespace
} // namespace pgmemtrace::test

int LLVMFuzzerTestOneInput(const std::uint8_t *bytes, std::size_t size)
{
  using namespace pgmemtrace;
  FuzzedDataProvider in(bytes, size);
  const auto cut = in.ConsumeIntegral<std::uint16_t>();
  const std::string sql = test::Sql(in).text();
  test::check(sql);
  test::check(std::string_view(sql).substr(0, cut));

  // Any bytes: no crash, and text that was UTF-8 is so still.
  const std::string valid = valid_utf8({reinterpret_cast<const char *>(bytes), size});
  test::must(valid_utf8(redact(valid)) == redact(valid), "redacting leaves UTF-8 whole");
  test::must(fingerprint(valid) == fingerprint(redact(valid) + " "),
             "a fingerprint is that of the redacted text");
  return 0;
}
