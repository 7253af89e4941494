// SPDX-License-Identifier: BSD-2-Clause
// debuginfod.cpp - elfutils' client library, loaded when it is wanted.
//
// Not linked: it brings an HTTP stack that a host without debug servers has no use for.
#include "symbols/debuginfod.h"

#include <cstdlib>
#include <memory>

#include <dlfcn.h>

#include "util/file.h"

namespace pgmemtrace {

namespace {

// From elfutils/debuginfod.h; the library's ABI since elfutils 0.178.
struct Client {
  using Find = int(void *client, const unsigned char *build_id, int length, char **path);
  void *(*begin)();
  Find *find_debuginfo, *find_executable;
  void (*end)(void *client);
};

// Loaded for good: its HTTP library keeps threads' state of its own.
const Client *client_library()
{
  static const Client library = [] {
    Client client{};
    void *handle = dlopen("libdebuginfod.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr)
      return client;
    const auto load = [handle](auto &function, const char *name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    };
    load(client.begin, "debuginfod_begin");
    load(client.find_debuginfo, "debuginfod_find_debuginfo");
    load(client.find_executable, "debuginfod_find_executable");
    load(client.end, "debuginfod_end");
    return client;
  }();
  const bool whole = library.begin != nullptr && library.find_debuginfo != nullptr &&
                     library.find_executable != nullptr && library.end != nullptr;
  return whole ? &library : nullptr;
}

} // namespace

std::optional<std::string> debuginfod_file(const std::string &build_id, DebuginfodKind kind)
{
  const char *urls = std::getenv("DEBUGINFOD_URLS");
  if (urls == nullptr || *urls == '\0')
    return std::nullopt;
  const Client *library = client_library();
  if (library == nullptr)
    return std::nullopt;
  const std::unique_ptr<void, void (*)(void *)> session(library->begin(), library->end);
  if (!session)
    return std::nullopt;
  const auto find =
      kind == DebuginfodKind::executable ? library->find_executable : library->find_debuginfo;
  char *path = nullptr;
  // Length 0: the build-id is a string of hexadecimal digits.
  const UniqueFd file(
      find(session.get(), reinterpret_cast<const unsigned char *>(build_id.c_str()), 0, &path));
  const std::unique_ptr<char, decltype(&std::free)> owned(path, std::free);
  if (!file || path == nullptr)
    return std::nullopt;
  return std::string(path);
}

} // namespace pgmemtrace
