/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * allocations.c - malloc and its kin, which fail when they are told to.
 *
 * In a session, and only while it works on one message of its client:
 *
 *   SET pgmemtrace_faults.fail_at = K   arms; 0 only counts, -1 (the default) does nothing
 *   (recv: the next message is there)   from here on allocations are counted, and the K-th fails,
 *                                       and those after it: pgmemtrace_faults.fail_for of them
 *                                       (1 by default; 0: all)
 *   (recv: the server wants the next)   over, until it is armed again
 *   SHOW pgmemtrace_faults.allocations  how many there were; .failed: how many of them failed
 *
 * Found by the server and all its libraries because it is in LD_PRELOAD.  glibc alone: its own
 * functions have second names.  free() stays what it is.
 */
#include "faults.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>

#include "tcop/tcopprot.h"

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *pointer, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

PGMT_EXPORT void *malloc(size_t size);
PGMT_EXPORT void *calloc(size_t count, size_t size);
PGMT_EXPORT void *realloc(void *pointer, size_t size);
PGMT_EXPORT void *aligned_alloc(size_t alignment, size_t size);
PGMT_EXPORT int posix_memalign(void **pointer, size_t alignment, size_t size);
PGMT_EXPORT ssize_t recv(int socket, void *buffer, size_t length, int flags);

static int fail_at = -1;
static int fail_for = 1;

static enum { OFF, ARMED, COUNTING } state = OFF;
static bool working; /* on the message, not still receiving the rest of it */
static int last_socket = -1, client = -1;
static int allocations, failed;

static bool fails(void)
{
  if (likely(state != COUNTING))
    return false;
  if (debug_query_string != NULL)
    working = true;
  if (allocations == INT_MAX)
    return false;
  allocations++;
  if (fail_at == 0 || allocations < fail_at || (fail_for != 0 && failed >= fail_for))
    return false;
  failed++;
  errno = ENOMEM;
  return true;
}

void *malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }

void *calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }

void *realloc(void *pointer, size_t size) { return fails() ? NULL : __libc_realloc(pointer, size); }

void *aligned_alloc(size_t alignment, size_t size)
{
  return fails() ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size)
{
  if (fails())
    return ENOMEM;
  *pointer = __libc_memalign(alignment, size);
  return *pointer == NULL ? ENOMEM : 0;
}

/* How secure_raw_read() gets what the client sends (libpq/be-secure.c), if that is not encrypted.
 */
ssize_t recv(int socket, void *buffer, size_t length, int flags)
{
  ssize_t got;

  if (state == COUNTING && socket == client && working)
    state = OFF;
  got = recvfrom(socket, buffer, length, flags, NULL, NULL);
  if (state == ARMED && socket == client && got > 0)
    state = COUNTING;
  last_socket = socket;
  return got;
}

static void arm(int value, void *extra)
{
  state = value < 0 ? OFF : ARMED;
  working = false;
  client = last_socket; /* which brought the SET that leads here */
  if (state == ARMED)
    allocations = failed = 0;
}

void pgmt_stop_failing(void) { state = OFF; }

static const char *show(int number)
{
  static char text[16];

  snprintf(text, sizeof(text), "%d", number);
  return text;
}

static const char *show_allocations(void) { return show(allocations); }
static const char *show_failed(void) { return show(failed); }

void pgmt_define_allocation_settings(void)
{
  static int unused;

  DefineCustomIntVariable("pgmemtrace_faults.fail_at",
                          "Which allocation of the next message fails; 0 only counts them.", NULL,
                          &fail_at, -1, -1, INT_MAX, PGC_USERSET, 0, NULL, arm, NULL);
  DefineCustomIntVariable("pgmemtrace_faults.fail_for", "How many fail from there on; 0: all.",
                          NULL, &fail_for, 1, 0, INT_MAX, PGC_USERSET, 0, NULL, NULL, NULL);
  DefineCustomIntVariable("pgmemtrace_faults.allocations", "How many there were.", NULL, &unused, 0,
                          0, INT_MAX, PGC_INTERNAL, 0, NULL, NULL, show_allocations);
  DefineCustomIntVariable("pgmemtrace_faults.failed", "How many of them failed.", NULL, &unused, 0,
                          0, INT_MAX, PGC_INTERNAL, 0, NULL, NULL, show_failed);
}
