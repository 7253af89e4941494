// result.h - how a function says that it may fail.
//
// C++20 has no std::expected.  Callers read this one the same way; on the day of
// C++23 the class goes and `return Error{}` becomes
// `return std::unexpected(Error{})`.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace pgmemtrace {

// Three lines for a user: what failed, why, and what to do about it.
struct Error {
  std::string what; // what was being done: "attach to standard_ExecutorStart"
  int err = 0;      // positive errno, or 0 if the kernel gave no reason
  std::string hint; // "run as root, or grant CAP_BPF"; empty if there is none
};

// "attach to standard_ExecutorStart: Operation not permitted", without the hint.
std::string to_string(const Error &error);

struct Ok {};

template <typename T = Ok> class [[nodiscard]] Result {
public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  explicit operator bool() const { return state_.index() == 0; }

  T &operator*() & { return std::get<0>(state_); }
  const T &operator*() const & { return std::get<0>(state_); }
  T &&operator*() && { return std::get<0>(std::move(state_)); }
  T *operator->() { return &std::get<0>(state_); }
  const T *operator->() const { return &std::get<0>(state_); }
  const Error &error() const { return std::get<1>(state_); }

private:
  std::variant<T, Error> state_;
};

} // namespace pgmemtrace
