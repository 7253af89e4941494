/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pgmemtrace_repaired.c - the buggy extension's twin: the same source without its faults, for the
 * tests that must find nothing.
 */
#define PGMT_REPAIRED
#include "pgmemtrace_buggy.c"
