// SPDX-License-Identifier: BSD-2-Clause
// seed_library.c - the smallest ELF file with all that is looked for in a server's: where the
// fuzzer of the ELF reader begins.
const char version[] = "PostgreSQL 15.99 on nothing";
void *TopMemoryContext;
int work_mem;

void standard_ExecutorStart(void *query, int flags);
void standard_ExecutorEnd(void *query);
void standard_ProcessUtility(void *statement, const char *text);
void ReadyForQuery(int where);
void AtEOXact_Snapshot(int committed, int reset);
void proc_exit(int code);
void PostmasterMain(void);

// Something that has to be kept across calls, so that functions begin with a push.
void standard_ExecutorStart(void *query, int flags)
{
  ReadyForQuery(flags);
  standard_ExecutorEnd(query);
}
void standard_ExecutorEnd(void *query) { TopMemoryContext = query; }
void standard_ProcessUtility(void *statement, const char *text)
{
  standard_ExecutorEnd(statement);
  work_mem += text[0];
}
void ReadyForQuery(int where) { work_mem = where; }
void AtEOXact_Snapshot(int committed, int reset)
{
  if (committed)
    ReadyForQuery(reset);
  else
    proc_exit(reset);
}
void proc_exit(int code) { work_mem += code; }
void PostmasterMain(void)
{
  standard_ExecutorStart(TopMemoryContext, 1);
  standard_ProcessUtility(TopMemoryContext, version);
  AtEOXact_Snapshot(1, 2);
}
