// SPDX-License-Identifier: BSD-2-Clause
#include "extension/marker.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <bpf/libbpf.h>

#include "extension.skel.h"

namespace pgmemtrace {

namespace {

constexpr pid_t kEveryProcess = -1;

} // namespace

void Marker::DestroyLink::operator()(bpf_link *link) const { bpf_link__destroy(link); }
void Marker::DestroyObject::operator()(bpf_object *object) const { bpf_object__close(object); }
void Marker::DestroyObject::operator()(ring_buffer *ring) const { ring_buffer__free(ring); }

Marker::~Marker() = default;

Result<std::unique_ptr<Marker>> Marker::load(bool uprobe_multi)
{
  std::unique_ptr<Marker> marker(new Marker);
  marker->uprobe_multi_ = uprobe_multi;
  std::size_t size = 0;
  const void *bytes = extension_bpf::elf_bytes(&size);
  marker->object_.reset(bpf_object__open_mem(bytes, size, nullptr));
  if (!marker->object_)
    return Error{"open the BPF object of the extension's marker", errno, {}};
  auto *object = marker->object_.get();
  marker->program_ = bpf_object__find_program_by_name(object, "extension_ask");
  if (!uprobe_multi)
    bpf_program__set_expected_attach_type(marker->program_, bpf_attach_type{});
  if (int err = bpf_object__load(object))
    return Error{"load the BPF program of the extension's marker", -err,
                 "`pgmemtrace doctor` says what this kernel lacks"};
  marker->ring_.reset(ring_buffer__new(bpf_object__find_map_fd_by_name(object, "requests"),
                                       on_event, marker.get(), nullptr));
  if (!marker->ring_)
    return Error{"read the extension's ring buffer", errno, {}};
  return marker;
}

Result<Marker::Link> Marker::attach(const ExtensionLibrary &library)
{
  const auto path = library.file.path();
  Link link;
  if (uprobe_multi_) {
    const unsigned long offset = library.request;
    const unsigned long counter = library.watchers;
    bpf_uprobe_multi_opts options{};
    options.sz = sizeof(options);
    options.offsets = &offset;
    options.ref_ctr_offsets = &counter;
    options.cnt = 1;
    link.reset(
        bpf_program__attach_uprobe_multi(program_, kEveryProcess, path.c_str(), nullptr, &options));
  } else {
    bpf_uprobe_opts options{};
    options.sz = sizeof(options);
    options.ref_ctr_offset = library.watchers;
    link.reset(bpf_program__attach_uprobe_opts(program_, kEveryProcess, path.c_str(),
                                               library.request, &options));
  }
  if (!link)
    return Error{"attach the probe on the extension's marker", errno, {}};
  return link;
}

int Marker::poll_fd() const { return ring_buffer__epoll_fd(ring_.get()); }

int Marker::on_event(void *self, void *event, std::size_t size)
{
  if (size >= sizeof(pgmt_request_event)) {
    pgmt_request_event taken;
    std::memcpy(&taken, event, sizeof(taken));
    static_cast<Marker *>(self)->taken_.push_back(taken);
  }
  return 0;
}

std::vector<pgmt_request_event> Marker::take()
{
  ring_buffer__consume(ring_.get());
  return std::exchange(taken_, {});
}

std::uint64_t Marker::lost() const
{
  constexpr __u32 kOnly = 0;
  __u64 count = 0;
  const auto *map = bpf_object__find_map_by_name(object_.get(), "lost");
  if (bpf_map__lookup_elem(map, &kOnly, sizeof(kOnly), &count, sizeof(count), 0) != 0)
    return 0;
  return count;
}

} // namespace pgmemtrace
