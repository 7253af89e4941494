// SPDX-License-Identifier: BSD-2-Clause
// recording_fixture.h - a small recording whose numbers can be added up by hand.
#pragma once

#include "recording/recording.h"

namespace pgmemtrace::test {

// Two processes.  "Leaky" keeps 1000 of 1000 bytes, from leak() called by run(); "Busy" has given
// back all but 400 of 6000, of which sort() raised its peak by 3000 and hash() by 1000; 50 bytes of
// Leaky have no stack.
inline Recording small_recording()
{
  const auto frame = [](const char *function, std::uint64_t address) {
    return Frame{.code = {.module = "/usr/lib/postgres", .build_id = "ab12", .offset = address},
                 .function = function,
                 .offset = 4,
                 .start = address};
  };
  Recording recording;
  recording.program = "1";
  recording.host = "host";
  recording.started_ms = 1'700'000'000'000;
  recording.duration_ms = 2000;
  recording.level = "block";
  recording.losses = {{"stack_cut", 3}};
  recording.servers = {{.instance = "main", .version = "15.20"}};
  recording.frames = {frame("leak", 0x10), frame("sort", 0x20), frame("hash", 0x30),
                      frame("run", 0x40), frame("", 0x50)};
  recording.frames[4].code.module = "/usr/lib/library.so";
  recording.stacks = {{0, 3}, {1, 3}, {2, 4, 3}};
  recording.processes = {
      {.pid = 7,
       .instance = "main",
       .backend_type = "client backend",
       .database = "shop",
       .user = "eve",
       .exited = true,
       .contexts = {{.name = "Leaky",
                     .made = 2,
                     .grown = 1000,
                     .peak = 1000,
                     .allocations = {{.stack = 0, .bytes = 950, .blocks = 3, .raised = 950}}},
                    {.name = "Busy",
                     .grown = 2000,
                     .returned = 2000,
                     .peak = 2000,
                     .allocations = {{.stack = 1, .bytes = 2000, .blocks = 2, .raised = 2000}}}}},
      {.pid = 8,
       .instance = "main",
       .backend_type = {},
       .database = {},
       .user = {},
       .contexts = {{.name = "Busy",
                     .grown = 4000,
                     .returned = 3600,
                     .peak = 2000,
                     .allocations = {{.stack = 1, .bytes = 3000, .blocks = 3, .raised = 1000},
                                     {.stack = 2, .bytes = 1000, .blocks = 1, .raised = 1000}}}}}};
  recording.names = {"Leaky", "Busy"};
  recording.samples = {{.ms = 0, .contexts = {}},
                       {.ms = 1000, .contexts = {{0, 500, 2}, {1, 4000, 4}}},
                       {.ms = 2000, .contexts = {{0, 1000, 3}, {1, 400, 1}}}};
  return recording;
}

// One process at level malloc: library.so took 3000 bytes from hash() and gave back 1000, postgres
// took 500 for its contexts.  The first statement, which has an id, asked for 2000 of them, the
// second one for 1000, too many others for 500.
inline Recording heap_recording()
{
  auto recording = small_recording();
  recording.level = kLevelMalloc;
  recording.by_query = true;
  recording.queries = {{.id = -42, .fingerprint = 1, .text = "SELECT ?"},
                       {.fingerprint = 0xabc, .text = "INSERT INTO t VALUES (?)"},
                       {.text = {}}};
  recording.processes = {
      {.pid = 7,
       .instance = "main",
       .backend_type = "client backend",
       .database = "shop",
       .user = "eve",
       .contexts = {
           {.name = kContextBlocks,
            .grown = 500,
            .peak = 500,
            .allocations = {{.stack = 1,
                             .query = 2,
                             .bytes = 500,
                             .blocks = 1,
                             .raised = 500,
                             .returned = 0}}},
           {.name = "library.so",
            .grown = 3000,
            .returned = 1000,
            .peak = 2500,
            .allocations = {
                {.stack = 2, .query = 0, .bytes = 2000, .blocks = 2, .raised = 1500, .returned = 0},
                {.stack = 2,
                 .query = 1,
                 .bytes = 1000,
                 .blocks = 1,
                 .raised = 1000,
                 .returned = 1000}}}}}};
  recording.names = {kContextBlocks, "library.so"};
  return recording;
}

// The same at level alloc: of "Leaky", leak() asked for 800 bytes, of which 768 in chunks are left,
// and sort() for 400, of which nothing is.
inline Recording requests_recording()
{
  auto recording = small_recording();
  recording.level = "alloc";
  auto &leaky = recording.processes[0].contexts[0];
  leaky.grown = leaky.peak = 1024;
  leaky.allocations = {
      {.stack = 0,
       .bytes = 1024,
       .blocks = 4,
       .raised = 600,
       .requests = Recording::Requests{.allocs = 4, .frees = 1, .asked = 800, .live = 768}},
      {.stack = 1,
       .bytes = 512,
       .blocks = 2,
       .raised = 424,
       .requests = Recording::Requests{.allocs = 2, .frees = 2, .asked = 400, .live = 0}}};
  leaky.grown = 1536;
  leaky.returned = 768;
  return recording;
}

} // namespace pgmemtrace::test
