// SPDX-License-Identifier: BSD-2-Clause
#include "extension/outbox.h"

#include <utility>

namespace pgmemtrace {

void Outbox::put(Answer answer)
{
  bytes_ += answer.json.size();
  answers_.push_back(std::move(answer));
  while (answers_.size() > 1 && (answers_.size() > limits_.answers || bytes_ > limits_.bytes)) {
    ++dropped_.answers;
    (void)take_answer();
  }
}

void Outbox::put_violation(std::string json)
{
  if (violations_.size() >= limits_.violations)
    ++dropped_.violations;
  else
    violations_.push_back(std::move(json));
}

bool Outbox::take_ask() { return std::exchange(ask_, false); }

std::optional<Answer> Outbox::take_answer()
{
  if (answers_.empty())
    return std::nullopt;
  auto answer = std::move(answers_.front());
  bytes_ -= answer.json.size();
  answers_.pop_front();
  return answer;
}

std::optional<std::string> Outbox::take_violation()
{
  if (violations_.empty())
    return std::nullopt;
  auto violation = std::move(violations_.front());
  violations_.pop_front();
  return violation;
}

} // namespace pgmemtrace
