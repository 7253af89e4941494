// SPDX-License-Identifier: BSD-2-Clause
// copy.h - a disposable copy of a server: only it may crash.
//
//   source --pg_basebackup--> folder/data --postgres + pgmemtrace_faults--> folder/socket
//
// Nobody but the server's user reaches it, it reaches nobody by itself, and it is gone when this
// object is.  The source sees a login and a base backup.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "copy/crash_note.h"
#include "copy/folder.h"
#include "copy/source.h"
#include "copy/workload.h"
#include "util/child.h"

namespace pgmemtrace {

// Of a session that was lost.
struct Aftermath {
  std::vector<Crash> crashes;
  bool ended = false; // the server did
  std::string panic;  // what it said of that in its log, if it did
};

class Copy {
public:
  struct Options {
    std::string directory; // where its folder is made, as the server sees it
    UniqueFd library;      // pgmemtrace_faults.so, to be copied; none: the server's own is used
    WorkloadSession::Limits limits;
  };

  // `source` must outlive it.
  static Result<std::unique_ptr<Copy>> make(const Source &source, Options options);
  ~Copy();
  Copy(const Copy &) = delete;
  Copy &operator=(const Copy &) = delete;

  // As this user to this database; `settings` as in PGOPTIONS.
  Result<std::unique_ptr<WorkloadSession>>
  connect(const std::string &database, const std::string &user, const std::string &settings = {});

  // After a session was lost: what died of a signal.  When this returns the server lets us in: it
  // was started again if it ended.
  Result<Aftermath> recover();

private:
  Copy(const Source &source, Options options, CopyFolder folder);
  Result<> take_backup();
  Result<> place_library();
  Result<> write_files();
  Result<> start(); // waits until it lets us in
  Result<Aftermath> look_after();
  Result<> run(const Program &program, const std::string &doing, const std::string &hint);
  std::vector<std::string> arguments() const;
  std::map<std::string, std::string> login() const;
  std::string log() const;
  void stop();

  const Source &source_;
  Options options_;
  CopyFolder folder_;
  UniqueFd proc_; // the server may have none
  std::string library_;
  std::optional<Child> server_;
  std::size_t log_start_ = 0; // of this run of it
};

} // namespace pgmemtrace
