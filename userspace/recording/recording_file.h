// SPDX-License-Identifier: BSD-2-Clause
// recording_file.h - a recording as a file: docs/recording.md.
//
// A file that is read may come from anybody: its size is bounded before and after it is unpacked,
// every index is checked, and whatever is wrong with it is an error in one line.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "recording/recording.h"
#include "util/file.h"
#include "util/result.h"

namespace pgmemtrace {

constexpr std::size_t kLargestRecording = 64 << 20; // bytes, unpacked

std::string pack(const Recording &recording);
Result<Recording> unpack(std::string_view file);

Result<Recording> read_recording(const std::string &path);

// A file that is there whole or not at all: it is written beside its place, and moved there at the
// end.  What is not committed is removed.
class NewFile {
public:
  // Errors: nobody may write there, or what is there is no regular file.
  static Result<NewFile> create(const std::string &path);
  NewFile(NewFile &&other) noexcept;
  NewFile &operator=(NewFile &&) = delete;
  ~NewFile();

  Result<> commit(std::string_view contents); // once

private:
  NewFile(std::string path, std::string temporary, UniqueFd fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd))
  {
  }

  std::string path_;
  std::string temporary_; // empty: nothing to remove
  UniqueFd fd_;
};

} // namespace pgmemtrace
