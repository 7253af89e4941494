// SPDX-License-Identifier: BSD-2-Clause
// governor.h - keeps the cost of our probes within what the user allows.
//
// A uprobe cannot be sampled away: the trap is paid before any program runs.  So the only
// way to cost less is to probe less: statement -> request -> sweep.  The governor is a pure
// state machine, one per binary; the pipeline measures and acts.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

class Governor {
public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  struct Options {
    Level wanted = Level::statement;
    double budget = 0.05; // of the server's CPU time; 0: off, never falls
    // A server that works less than this share of one core is judged as if it had worked that
    // much: a share of next to nothing hurts nobody.  So our part may always be a hundredth of a
    // core, for the walks of large trees on an idle server say.
    double least_cpu_share = 0.2;
    Duration first_hold = std::chrono::seconds(10); // at a lower level before climbing back
    Duration longest_hold = std::chrono::minutes(10);
    // A level above statement is asked for on purpose: it is kept that long, whatever it costs, and
    // then given up for good.
    Duration exempt_for = std::chrono::minutes(10);
  };

  Governor(Options options) : options_(options), level_(options.wanted), hold_(options.first_hold)
  {
  }

  struct Period {
    double probe_seconds = 0; // hits x cost per hit + run time of the programs
    double cpu_seconds = 0;   // CPU time of the server's processes
    double seconds = 1;       // its length; long when the daemon was stopped meanwhile
  };
  // One period was measured.  Returns the level to switch to, if another one.
  // A period above the budget falls one level; a level is held at least `first_hold`, and
  // twice as long after each climb that had to be taken back.
  std::optional<Level> judge(const Period &period, Time now);

  Level level() const { return level_; }
  Level wanted() const { return options_.wanted; } // lower once a time box is over
  double ratio() const { return ratio_; }          // of the last period
  double ratio_of(const Period &period) const;

private:
  Options options_;
  Level level_;
  double ratio_ = 0;
  Duration hold_;
  Time changed_{};
  Time climbed_{};
  std::optional<Time> exempt_since_;
};

} // namespace pgmemtrace
