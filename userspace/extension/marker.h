// SPDX-License-Identifier: BSD-2-Clause
// marker.h - the probe on pgmemtrace_request(), and what it saw.
//
// While a Marker lives, the kernel counts us in the library's pgmemtrace_watchers, in every
// process that has it mapped: that is how the extension knows that a daemon is there.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <pgmemtrace/abi.h>

#include "extension/library.h"
#include "util/result.h"

struct bpf_link;
struct bpf_object;
struct bpf_program;
struct ring_buffer;

namespace pgmemtrace {

class Marker {
public:
  struct DestroyLink {
    void operator()(bpf_link *link) const;
  };
  using Link = std::unique_ptr<bpf_link, DestroyLink>;

  // Attaches nothing yet.  `uprobe_multi` false: by perf events (kernels before 6.6).
  static Result<std::unique_ptr<Marker>> load(bool uprobe_multi);
  ~Marker();

  // For all processes that map this file, now and later, until the link goes.
  Result<Link> attach(const ExtensionLibrary &library);

  int poll_fd() const; // readable when requests wait
  std::vector<pgmt_request_event> take();
  std::uint64_t lost() const;

private:
  struct DestroyObject {
    void operator()(bpf_object *object) const;
    void operator()(ring_buffer *ring) const;
  };
  Marker() = default;
  static int on_event(void *self, void *event, std::size_t size);

  std::unique_ptr<bpf_object, DestroyObject> object_;
  std::unique_ptr<ring_buffer, DestroyObject> ring_; // before the object in destruction
  bpf_program *program_ = nullptr;                   // the object's
  std::vector<pgmt_request_event> taken_;
  bool uprobe_multi_ = true;
};

} // namespace pgmemtrace
