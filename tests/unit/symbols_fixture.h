// SPDX-License-Identifier: BSD-2-Clause
// symbols_fixture.h - this very process as the one whose addresses are asked for.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>

#include <dlfcn.h>
#include <unistd.h>

#include "fixtures/symbols/example.h"
#include "symbols/symbolizer.h"

namespace pgmemtrace::test {

namespace fs = std::filesystem;

inline std::uint64_t address_of(const void *pointer)
{
  return reinterpret_cast<std::uint64_t>(pointer);
}

inline ProcessId id_of(pid_t pid)
{
  const auto stat = Proc().stat(pid);
  return {pid, stat ? stat->start : 0};
}

inline Symbolizer::Target self() { return {id_of(getpid()), {}}; }

class TemporaryFolder {
public:
  TemporaryFolder()
  {
    std::string name = (fs::temp_directory_path() / "pgmt_symbols_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr)
      throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder &) = delete;
  TemporaryFolder &operator=(const TemporaryFolder &) = delete;
  ~TemporaryFolder() { fs::remove_all(path_); }

  const fs::path &path() const { return path_; }
  // A copy of `file` at `name` in the folder.
  std::string copy(const std::string &file, const std::string &name) const
  {
    fs::create_directories((path_ / name).parent_path());
    fs::copy_file(file, path_ / name, fs::copy_options::overwrite_existing);
    return (path_ / name).string();
  }
  std::string write(const std::string &name, const std::string &text) const
  {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
    return (path_ / name).string();
  }

private:
  fs::path path_;
};

// A library of example.cpp in this process.
class LoadedExample {
public:
  explicit LoadedExample(const std::string &path)
      : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL), dlclose)
  {
    if (!handle_)
      throw std::runtime_error(dlerror());
    reinterpret_cast<decltype(&pgmt_example_places)>(dlsym(handle_.get(), "pgmt_example_places"))(
        &places_);
  }
  const ExamplePlaces &places() const { return places_; }

private:
  std::unique_ptr<void, int (*)(void *)> handle_;
  ExamplePlaces places_{};
};

// What packages the host has does not matter.
inline Symbolizer::Options without_debug_files()
{
  return {.debug_files = {.roots = {}, .folder = "/nonexistent"}};
}

} // namespace pgmemtrace::test
