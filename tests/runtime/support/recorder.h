// SPDX-License-Identifier: BSD-2-Clause
// recorder.h - what `record` does, but that it looks when a test tells it to.
#pragma once

#include <memory>
#include <utility>

#include "recording/recorder.h"
#include "runtime_test.h"

namespace pgmemtrace::test {

// Of the processes that `attachments` selects.
inline std::unique_ptr<Recorder> start_recorder(Attachments::Options attachments,
                                                KernelMaps::Options maps = {})
{
  auto servers =
      ServerList::find({.selection = attachments.selection, .postgres_btf = {}, .proc = Proc()});
  EXPECT_TRUE(servers) << to_string(servers.error());
  auto recorder = Recorder::start(
      std::move(*servers), {.attachments = std::move(attachments),
                            .maps = maps,
                            .warn = [](const Error &error) { ADD_FAILURE() << to_string(error); }});
  EXPECT_TRUE(recorder) << to_string(recorder.error());
  return std::move(*recorder);
}

} // namespace pgmemtrace::test
