/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * execute.c - executes SQL as a client's session does, in a worker that has no client.
 *
 * Follows tcop/postgres.c, exec_simple_query(), 13 to 18: so a workload may be anything that a
 * client can send, utility commands that want no transaction around them included.
 */
#include "workload.h"

#include "access/xact.h"
#include "compat.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "pgstat.h"
#include "tcop/dest.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"

/* ---- transactions, statement by statement ---- */

static bool started = false;

static void start_command(void)
{
  if (!started)
    StartTransactionCommand();
  started = true;
}

static void finish_command(void)
{
  if (started)
    CommitTransactionCommand();
  started = false;
}

void pgmt_begin_transaction(void)
{
  start_command();
  BeginTransactionBlock();
  finish_command();
}

void pgmt_end_transaction(bool commit)
{
  if (!IsTransactionBlock())
    return; /* the workload ended it itself */
  start_command();
  if (commit)
    (void)EndTransactionBlock(false);
  else
    UserAbortTransactionBlock(false);
  finish_command();
}

/* ---- rows: to text, as a client gets them, and no further ---- */

typedef struct Reader {
  DestReceiver receiver;
  MemoryContext row;
  FmgrInfo *outputs; /* one per column */
} Reader;

static void start_reading(DestReceiver *self, int operation, TupleDesc columns)
{
  Reader *reader = (Reader *)self;

  reader->row = AllocSetContextCreate(CurrentMemoryContext, "printtup", ALLOCSET_DEFAULT_SIZES);
  reader->outputs = palloc(sizeof(FmgrInfo) * Max(columns->natts, 1));
  for (int i = 0; i < columns->natts; i++) {
    Oid output;
    bool is_varlena;

    getTypeOutputInfo(TupleDescAttr(columns, i)->atttypid, &output, &is_varlena);
    fmgr_info(output, &reader->outputs[i]);
  }
}

static bool read_row(TupleTableSlot *slot, DestReceiver *self)
{
  Reader *reader = (Reader *)self;
  MemoryContext previous;

  slot_getallattrs(slot);
  previous = MemoryContextSwitchTo(reader->row);
  for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++) {
    if (!slot->tts_isnull[i])
      (void)OutputFunctionCall(&reader->outputs[i], slot->tts_values[i]);
  }
  MemoryContextSwitchTo(previous);
  MemoryContextReset(reader->row);
  return true;
}

static void stop_reading(DestReceiver *self)
{
  Reader *reader = (Reader *)self;

  MemoryContextDelete(reader->row);
  pfree(reader->outputs);
}

static void no_more(DestReceiver *self) {}

static void prepare_reader(Reader *reader)
{
  MemSet(reader, 0, sizeof(*reader));
  reader->receiver.receiveSlot = read_row;
  reader->receiver.rStartup = start_reading;
  reader->receiver.rShutdown = stop_reading;
  reader->receiver.rDestroy = no_more;
  reader->receiver.mydest = DestNone;
}

/* ---- statements ---- */

static int open_cursors = 0;

static List *plan(RawStmt *raw, const char *text)
{
  bool snapshot = analyze_requires_snapshot(raw);
  List *plans;

  if (snapshot)
    PushActiveSnapshot(GetTransactionSnapshot());
  plans = pg_plan_queries(PGMT_ANALYZE(raw, text), text, CURSOR_OPT_PARALLEL_OK, NULL);
  if (snapshot)
    PopActiveSnapshot();
  return plans;
}

static Portal define_portal(RawStmt *raw, const char *text, const char *name)
{
  List *plans = plan(raw, text);
  Portal portal = CreatePortal(name, true, true);
  MemoryContext previous = MemoryContextSwitchTo(portal->portalContext);

  /* A cursor outlives the message that it came with. */
  if (name[0] != '\0')
    plans = copyObject(plans);
  else
    portal->visible = false;
  PortalDefineQuery(portal, NULL, name[0] != '\0' ? pstrdup(text) : text,
                    CreateCommandTag(raw->stmt), plans, NULL);
  MemoryContextSwitchTo(previous);
  PortalStart(portal, NULL, 0, InvalidSnapshot);
  return portal;
}

static void run(Portal portal)
{
  Reader reader;
  QueryCompletion completion;

  prepare_reader(&reader);
  (void)PGMT_PORTAL_RUN(portal, &reader.receiver, &completion);
  PortalDrop(portal, false);
}

/* SELECT INTO makes a table. */
static bool is_query(RawStmt *raw)
{
  return IsA(raw->stmt, SelectStmt) && castNode(SelectStmt, raw->stmt)->intoClause == NULL;
}

static void open_cursor(RawStmt *raw, const char *text)
{
  Portal portal = define_portal(raw, text, psprintf("pgmemtrace %d", ++open_cursors));
  Reader reader;

  prepare_reader(&reader);
  (void)PortalRunFetch(portal, FETCH_FORWARD, 1, &reader.receiver);
}

static void execute_statement(RawStmt *raw, const char *text, bool alone, bool as_cursor)
{
  start_command();
  if (!alone)
    BeginImplicitTransactionBlock();
  CHECK_FOR_INTERRUPTS();
  if (as_cursor && is_query(raw))
    open_cursor(raw, text);
  else
    run(define_portal(raw, text, ""));
}

static void execute(const char *text, bool as_cursors)
{
  List *statements;
  ListCell *cell;

  debug_query_string = text;
  pgstat_report_activity(STATE_RUNNING, text);
  SetCurrentStatementStartTimestamp();
  start_command();
  MemoryContextSwitchTo(MessageContext);
  statements = pg_parse_query(text);
  foreach (cell, statements) {
    RawStmt *raw = lfirst_node(RawStmt, cell);
    bool last = lnext(statements, cell) == NULL;

    execute_statement(raw, text, list_length(statements) == 1, as_cursors);
    MemoryContextSwitchTo(MessageContext);
    if (last && list_length(statements) > 1)
      EndImplicitTransactionBlock();
    if (last || IsA(raw->stmt, TransactionStmt))
      finish_command();
    else
      CommandCounterIncrement();
    MemoryContextSwitchTo(MessageContext);
  }
  finish_command(); /* an empty text has no last statement */
  debug_query_string = NULL;
  pgstat_report_activity(STATE_IDLE, NULL);
}

void pgmt_execute(const char *text) { execute(text, false); }

int pgmt_execute_as_cursors(const char *text)
{
  execute(text, true);
  return open_cursors;
}

void pgmt_close_cursors(void)
{
  start_command();
  for (; open_cursors > 0; open_cursors--) {
    Portal portal = GetPortalByName(psprintf("pgmemtrace %d", open_cursors));

    if (PortalIsValid(portal))
      PortalDrop(portal, false);
  }
  finish_command();
}

void pgmt_execute_failed(void)
{
  AbortOutOfAnyTransaction();
  PortalErrorCleanup();
  started = false;
  open_cursors = 0;
  debug_query_string = NULL;
  pgstat_report_activity(STATE_IDLE, NULL);
}
