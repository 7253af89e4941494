// SPDX-License-Identifier: BSD-2-Clause
#include "case_file.h"

#include <algorithm>
#include <fstream>

#include <nlohmann/json.hpp>

namespace pgmemtrace::test {

Result<Case> read_case(const std::filesystem::path &file)
{
  std::ifstream in(file);
  const auto json = nlohmann::json::parse(in, nullptr, false);
  if (!json.is_object())
    return Error{"read " + file.string(), 0, "it is no JSON object"};
  try {
    Case read;
    read.name = json.at("name");
    read.kind = json.at("kind");
    read.rules = json.at("rule").get<std::vector<std::string>>();
    if (!json.at("context").is_null())
      read.context = json.at("context");
    read.majors = json.at("majors").get<std::vector<int>>();
    read.needs = json.value("needs", "");
    if (const auto errors = json.find("expect_errors"); errors != json.end())
      read.expect_errors = !errors->is_boolean() || errors->get<bool>();
    read.iterations = json.at("iterations");
    read.setup = json.at("setup").get<std::vector<std::string>>();
    read.step = json.at("step").get<std::vector<std::string>>();
    read.teardown = json.at("teardown").get<std::vector<std::string>>();
    return read;
  } catch (const nlohmann::json::exception &e) {
    return Error{"read " + file.string(), 0, e.what()};
  }
}

Result<std::vector<Case>> read_cases(const std::filesystem::path &folder)
{
  std::vector<Case> cases;
  std::error_code err;
  for (const auto &entry : std::filesystem::directory_iterator(folder, err))
    if (entry.path().extension() == ".json") {
      auto read = read_case(entry.path());
      if (!read)
        return read.error();
      cases.push_back(std::move(*read));
    }
  if (err)
    return Error{"list " + folder.string(), err.value(), ""};
  std::ranges::sort(cases, {}, &Case::name);
  return cases;
}

std::string with_iteration(std::string sql, int i)
{
  const std::string number = std::to_string(i);
  for (std::size_t at = sql.find("{i}"); at != std::string::npos; at = sql.find("{i}", at))
    sql.replace(at, 3, number);
  return sql;
}

} // namespace pgmemtrace::test
