// SPDX-License-Identifier: BSD-2-Clause
#include "attach/instance_labels.h"

#include <algorithm>

namespace pgmemtrace {

namespace {

// Servers that ended and may come back; the oldest are forgotten.
constexpr std::size_t kMaxEntries = 1000;

bool same_directory(const ServerName &a, const ServerName &b)
{
  return a.device == b.device && a.inode == b.inode;
}

// What a server is called after: if that changes, so does its label.
bool same_name(const ServerName &a, const ServerName &b)
{
  return a.cluster_name == b.cluster_name &&
         (!a.cluster_name.empty() || (a.port == b.port && a.data_directory == b.data_directory));
}

// Made anew in the place of the other: a directory that was removed and created again.
bool takes_the_place(const ServerName &a, const ServerName &b)
{
  return a.data_directory == b.data_directory && a.container == b.container;
}

// From the shortest that will do to one that is nobody else's.
std::vector<std::string> candidates(const ServerName &server)
{
  const std::string place = server.container.empty() ? "" : "@" + server.container;
  std::vector<std::string> labels;
  if (server.cluster_name.empty())
    labels = {std::to_string(server.port) + ":" + server.data_directory + place};
  else
    labels = {server.cluster_name, server.cluster_name + place,
              server.cluster_name + ":" + server.data_directory + place};
  labels.push_back(labels.back() + ":" + std::to_string(server.postmaster));
  return labels;
}

} // namespace

bool InstanceLabels::free_for(const ServerName &server, const std::string &label) const
{
  return std::none_of(entries_.begin(), entries_.end(), [&](const Entry &entry) {
    return entry.label == label && (entry.runs || !takes_the_place(server, entry.server));
  });
}

std::string InstanceLabels::assign(const ServerName &server)
{
  Entry entry{.server = server, .label = {}};
  const auto known = std::find_if(entries_.begin(), entries_.end(), [&](const Entry &other) {
    return !other.runs && same_directory(other.server, server);
  });
  if (known != entries_.end()) {
    if (same_name(known->server, server))
      entry.label = known->label;
    entries_.erase(known);
  }
  if (entry.label.empty()) {
    const auto labels = candidates(server);
    const auto free = std::find_if(labels.begin(), labels.end(), [&](const std::string &label) {
      return free_for(server, label);
    });
    entry.label = free == labels.end() ? labels.back() : *free;
  }
  if (entries_.size() >= kMaxEntries)
    if (const auto oldest = std::find_if(entries_.begin(), entries_.end(),
                                         [](const Entry &other) { return !other.runs; });
        oldest != entries_.end())
      entries_.erase(oldest);
  entries_.push_back(entry);
  return entry.label;
}

void InstanceLabels::release(pid_t postmaster)
{
  for (Entry &entry : entries_)
    if (entry.server.postmaster == postmaster)
      entry.runs = false;
}

} // namespace pgmemtrace
