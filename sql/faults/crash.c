/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crash.c - a process that dies of a signal leaves a note of where it was.
 *
 * In a folder like one of /proc, so that whoever reads it needs no other reader: CRASHES/PID/ with
 * copies of `maps` and `stat`, and `crash`:
 *
 *   signal 11
 *   address 0x10        what could not be reached, where the processor says so
 *   stack 0x... 0x...   the instruction, and the return addresses above it, innermost first
 *
 * The environment says where: PGMEMTRACE_FAULTS_CRASHES, a folder; PGMEMTRACE_FAULTS_PROC, the
 * number of an open descriptor of /proc, since a server in a chroot may have none.
 */
#include "faults.h"

#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include "utils/memutils.h"

#define MAX_FRAMES 128
#define ALTERNATE_STACK (256 * 1024)
#define SECONDS_AT_MOST 10

static char crashes[MAXPGPATH];
static int proc = -1;

/* ---- in the handler: system calls, and what touches no memory of the server ---- */

typedef struct {
  int fd;
  size_t length;
  char text[512];
} Note;

static void flush(Note *note)
{
  ssize_t ignored = write(note->fd, note->text, note->length);

  (void)ignored;
  note->length = 0;
}

static void put(Note *note, const char *text)
{
  for (; *text != '\0'; text++) {
    if (note->length == sizeof(note->text))
      flush(note);
    note->text[note->length++] = *text;
  }
}

static void put_number(Note *note, uint64 number, unsigned base)
{
  char digits[24];
  int at = sizeof(digits);

  digits[--at] = '\0';
  do {
    digits[--at] = "0123456789abcdef"[number % base];
    number /= base;
  } while (number != 0);
  put(note, base == 16 ? "0x" : "");
  put(note, digits + at);
}

static void copy_file(int directory, const char *name)
{
  char path[32], buffer[4096];
  int from, to;
  ssize_t got;

  strcpy(stpcpy(path, "self/"), name);
  from = openat(proc, path, O_RDONLY | O_CLOEXEC);
  to = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  while (from >= 0 && to >= 0 && (got = read(from, buffer, sizeof(buffer))) > 0)
    if (write(to, buffer, got) != got)
      break;
  close(from);
  close(to);
}

typedef struct {
  uintptr_t ip, sp, bp;
} Registers;

static Registers registers_of(const ucontext_t *context)
{
#if defined(__x86_64__)
  return (Registers){context->uc_mcontext.gregs[REG_RIP], context->uc_mcontext.gregs[REG_RSP],
                     context->uc_mcontext.gregs[REG_RBP]};
#elif defined(__aarch64__)
  return (Registers){context->uc_mcontext.pc, context->uc_mcontext.sp,
                     context->uc_mcontext.regs[29]};
#else
  return (Registers){0, 0, 0};
#endif
}

/* Our own memory, of which some may not be there. */
static bool read_words(uintptr_t address, uintptr_t *words, int count)
{
  struct iovec to = {words, count * sizeof(*words)}, from = {(void *)address, to.iov_len};

  return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)to.iov_len;
}

/* For where unwind rules end: after a jump to nowhere, whose return address is on top. */
static int frames_by_pointers(Registers from, void **frames, int count)
{
  uintptr_t words[2];

#if defined(__x86_64__)
  if (count < MAX_FRAMES && read_words(from.sp, words, 1))
    frames[count++] = (void *)words[0];
#endif
  for (uintptr_t bp = from.bp; count < MAX_FRAMES && bp > from.sp && read_words(bp, words, 2);
       bp = words[0]) {
    frames[count++] = (void *)words[1];
    if (words[0] <= bp)
      break;
  }
  return count;
}

static void put_stack(Note *note, Registers from)
{
  void *frames[MAX_FRAMES], *all[MAX_FRAMES];
  int count = 1, total = backtrace(all, MAX_FRAMES), at = 0;

  frames[0] = (void *)from.ip;
  while (at < total && all[at] != frames[0]) /* this handler, and the kernel's call of it */
    at++;
  while (++at < total)
    frames[count++] = all[at];
  if (count == 1)
    count = frames_by_pointers(from, frames, count);
  put(note, "stack");
  for (int i = 0; i < count; i++) {
    put(note, " ");
    put_number(note, (uintptr_t)frames[i], 16);
  }
  put(note, "\n");
}

static void leave_note(int number, siginfo_t *info, void *context)
{
  Note path = {-1, 0, ""}, note = {-1, 0, ""};
  int directory;

  pgmt_stop_failing();
  signal(number, SIG_DFL);
  /* Unwinding takes locks, and somebody may have had them: it must end all the same. */
  signal(SIGALRM, SIG_DFL);
  alarm(SECONDS_AT_MOST);

  put(&path, crashes);
  put(&path, "/");
  put_number(&path, getpid(), 10);
  path.text[Min(path.length, sizeof(path.text) - 1)] = '\0';
  mkdir(path.text, 0700);
  directory = open(path.text, O_PATH | O_DIRECTORY | O_CLOEXEC);
  copy_file(directory, "stat");
  copy_file(directory, "maps");

  note.fd = openat(directory, "crash", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  put(&note, "signal ");
  put_number(&note, number, 10);
  put(&note, "\n");
  if ((number == SIGSEGV || number == SIGBUS) && info->si_code > 0 && info->si_code != SI_KERNEL) {
    put(&note, "address ");
    put_number(&note, (uintptr_t)info->si_addr, 16);
    put(&note, "\n");
  }
  flush(&note); /* what is certain, before what may go wrong */
  put_stack(&note, registers_of(context));
  flush(&note);
  raise(number); /* again, when this handler returns */
}

/* ---- before ---- */

/* First of all: what the server starts that is no server must not get this library. */
__attribute__((constructor)) static void take_environment(void)
{
  const char *folder = getenv("PGMEMTRACE_FAULTS_CRASHES");
  const char *descriptor = getenv("PGMEMTRACE_FAULTS_PROC");

  if (folder != NULL && strlen(folder) < sizeof(((Note *)NULL)->text) - 32)
    strcpy(crashes, folder);
  if (descriptor != NULL)
    proc = atoi(descriptor);
  unsetenv("LD_PRELOAD");
}

void pgmt_install_crash_handler(void)
{
  static const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
  void *frame;
  /* Not from malloc(): a stack that overflows shall not overflow into it. */
  stack_t stack = {.ss_sp = MemoryContextAlloc(TopMemoryContext, ALTERNATE_STACK),
                   .ss_size = ALTERNATE_STACK};
  struct sigaction action = {.sa_sigaction = leave_note,
                             .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND};

  if (crashes[0] == '\0')
    return;
  (void)backtrace(&frame, 1); /* loads the unwinder, which a handler may not */
  sigemptyset(&action.sa_mask);
  if (sigaltstack(&stack, NULL) != 0)
    ereport(FATAL, (errmsg("pgmemtrace_faults has no stack for crashes: %m")));
  for (int i = 0; i < (int)lengthof(fatal); i++)
    sigaction(fatal[i], &action, NULL); /* children inherit it */
}
