// SPDX-License-Identifier: BSD-2-Clause
#include "util/redact.h"

#include <algorithm>

namespace pgmemtrace {
namespace {

constexpr auto npos = std::string_view::npos;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_space(char c)
{
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

// scan.l: ident_start and ident_cont; every byte above 127 belongs to a name.
bool starts_name(char c)
{
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

bool continues_name(char c) { return starts_name(c) || is_digit(c) || c == '$'; }

// Each of these takes text that starts with the token and returns the token's length.

std::size_t name_length(std::string_view text)
{
  return static_cast<std::size_t>(std::ranges::find_if_not(text, continues_name) - text.begin());
}

std::size_t quoted_length(std::string_view text, char quote, bool backslash_escapes)
{
  for (std::size_t i = 1; i < text.size(); ++i) {
    const bool doubled = text[i] == quote && i + 1 < text.size() && text[i + 1] == quote;
    if (doubled || (backslash_escapes && text[i] == '\\'))
      ++i;
    else if (text[i] == quote)
      return i + 1;
  }
  return text.size();
}

std::size_t line_comment_length(std::string_view text)
{
  return std::min(text.find_first_of("\r\n"), text.size());
}

// White space with a line's end in it, and a quote behind: there a string goes on (scan.l:
// quotecontinue).  0 if it does not.
std::size_t continuation_length(std::string_view text)
{
  bool next_line = false;
  std::size_t i = 0;
  while (i < text.size()) {
    if (text.substr(i).starts_with("--")) {
      i += line_comment_length(text.substr(i));
    } else if (is_space(text[i])) {
      next_line = next_line || text[i] == '\n' || text[i] == '\r';
      ++i;
    } else {
      break;
    }
  }
  return next_line && text.substr(i).starts_with('\'') ? i : 0;
}

// What follows E.  Of other strings each part is a literal of its own: there it makes no
// difference.
std::size_t escape_string_length(std::string_view text)
{
  std::size_t length = quoted_length(text, '\'', true);
  while (const std::size_t gap = continuation_length(text.substr(length))) {
    length += gap;
    length += quoted_length(text.substr(length), '\'', true);
  }
  return length;
}

// Unlike C's, SQL's block comments nest.
std::size_t block_comment_length(std::string_view text)
{
  int depth = 0;
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    if (text[i] == '/' && text[i + 1] == '*') {
      ++depth;
      ++i;
    } else if (text[i] == '*' && text[i + 1] == '/') {
      ++i;
      if (--depth == 0)
        return i + 1;
    }
  }
  return text.size();
}

// $$..$$ or $tag$..$tag$; 0 if it is no dollar quote ($1, or a lone $).
std::size_t dollar_quote_length(std::string_view text)
{
  const std::string_view after = text.substr(1);
  std::size_t tag = 0;
  if (!after.empty() && starts_name(after[0]))
    while (tag < after.size() && after[tag] != '$' && continues_name(after[tag]))
      ++tag;
  if (tag >= after.size())
    return tag > 0 ? text.size() : 0; // cut inside the tag
  if (after[tag] != '$')
    return 0;
  const std::string_view delimiter = text.substr(0, tag + 2);
  const std::size_t end = text.find(delimiter, delimiter.size());
  return end == npos ? text.size() : end + delimiter.size();
}

// 1, 1.5, .5, 1e-3, 0x1f, 1_000; of plpgsql's 1..10 only the 1.
std::size_t number_length(std::string_view text)
{
  std::size_t i = 0;
  bool dot = false;
  for (; i < text.size(); ++i) {
    const char c = text[i];
    const bool exponent_sign = (c == '+' || c == '-') && i > 0 &&
                               (text[i - 1] == 'e' || text[i - 1] == 'E') &&
                               !text.starts_with("0x") && !text.starts_with("0X");
    if (c == '.') {
      if (dot || text.substr(i).starts_with(".."))
        break;
      dot = true;
    } else if (!is_digit(c) && !starts_name(c) && !exponent_sign) {
      break;
    }
  }
  return i;
}

bool is_string_prefix(std::string_view name, std::string_view rest)
{
  if (!rest.starts_with('\''))
    return false;
  static constexpr std::string_view kPrefixes = "eEbBxXnN";
  return name.size() == 1 && kPrefixes.find(name[0]) != npos;
}

struct Token {
  std::size_t length = 1;
  enum class Kind : std::uint8_t { keep, literal, blank } kind = Kind::keep;
};

Token name_or_prefixed_string(std::string_view text)
{
  const std::size_t name = name_length(text);
  const std::string_view rest = text.substr(name);
  if (is_string_prefix(text.substr(0, name), rest)) {
    const bool escapes = text[0] == 'e' || text[0] == 'E';
    return {name + (escapes ? escape_string_length(rest) : quoted_length(rest, '\'', false)),
            Token::Kind::literal};
  }
  if (name == 1 && (text[0] == 'u' || text[0] == 'U') && rest.starts_with("&'"))
    return {2 + quoted_length(rest.substr(1), '\'', false), Token::Kind::literal};
  return {name, Token::Kind::keep};
}

Token next_token(std::string_view text)
{
  const char c = text[0];
  if (starts_name(c))
    return name_or_prefixed_string(text);
  if (is_space(c))
    return {1, Token::Kind::blank};
  if (text.starts_with("--"))
    return {line_comment_length(text), Token::Kind::blank};
  if (text.starts_with("/*"))
    return {block_comment_length(text), Token::Kind::blank};
  if (c == '\'')
    return {quoted_length(text, '\'', false), Token::Kind::literal};
  if (c == '"')
    return {quoted_length(text, '"', false), Token::Kind::keep};
  if (is_digit(c) || (c == '.' && text.size() > 1 && is_digit(text[1])))
    return {number_length(text), Token::Kind::literal};
  if (text.starts_with("..")) // or the 10 of 1..10 would be read as .10
    return {2, Token::Kind::keep};
  if (c == '$') {
    if (const std::size_t length = dollar_quote_length(text); length > 0)
      return {length, Token::Kind::literal};
    return {1 + name_length(text.substr(1)), Token::Kind::keep}; // $1
  }
  return {1, Token::Kind::keep};
}

} // namespace

std::string redact(std::string_view sql)
{
  std::string out;
  out.reserve(sql.size());
  while (!sql.empty()) {
    const Token token = next_token(sql);
    const std::string_view text = sql.substr(0, token.length);
    if (token.kind == Token::Kind::literal)
      out += '?';
    else if (token.kind == Token::Kind::blank && text.size() > 1)
      out += ' ';
    else
      out += text;
    sql.remove_prefix(text.size());
  }
  return out;
}

std::uint64_t fingerprint(std::string_view sql)
{
  // FNV-1a, 64 bits: no security is asked of it, only the same value everywhere.
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  const auto mix = [&](char c) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ULL;
  };
  bool blank = false;
  bool begun = false;
  for (const char c : redact(sql)) {
    if (is_space(c)) {
      blank = begun;
      continue;
    }
    if (blank)
      mix(' ');
    blank = false;
    begun = true;
    mix(c);
  }
  return hash;
}

} // namespace pgmemtrace
