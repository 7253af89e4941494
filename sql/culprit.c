/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * culprit.c - which function wrote over a guard: asked after each call that goes through fmgr,
 * while a scenario wants to know.
 *
 * A function that is called by another one returns before it, so the first that returns with a
 * guard changed is the one that did it, or a hook that ran meanwhile.  Core's own functions are
 * not asked: fmgr.c calls them without a look at its hook.
 */
#include "guards.h"

#include "access/htup_details.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "compat.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

PgmtCulprit *pgmt_culprit = NULL;

static needs_fmgr_hook_type prev_needs_hook;
static fmgr_hook_type prev_hook;

static bool needs_hook(Oid function) { return true; }

/* "pgmemtrace_buggy.so" of "$libdir/pgmemtrace_buggy". */
static void name_module(HeapTuple procedure, char *out, Size size)
{
  bool is_null;
  Datum value = SysCacheGetAttr(PROCOID, procedure, Anum_pg_proc_probin, &is_null);
  const char *path = is_null ? "" : TextDatumGetCString(value);
  const char *slash = strrchr(path, '/');
  const char *name = slash == NULL ? path : slash + 1;

  snprintf(out, size, "%s%s", name, strstr(name, DLSUFFIX) == NULL ? DLSUFFIX : "");
}

static void name_culprit(PgmtCulprit *culprit, Oid function)
{
  HeapTuple procedure = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
  Form_pg_proc form;

  MemSet(culprit, 0, sizeof(*culprit));
  if (!HeapTupleIsValid(procedure))
    return; /* dropped by itself */
  form = (Form_pg_proc)GETSTRUCT(procedure);
  strlcpy(culprit->function, NameStr(form->proname), sizeof(culprit->function));
  if (form->prolang == ClanguageId) {
    bool is_null;
    Datum symbol = SysCacheGetAttr(PROCOID, procedure, Anum_pg_proc_prosrc, &is_null);

    if (!is_null)
      strlcpy(culprit->function, TextDatumGetCString(symbol), sizeof(culprit->function));
    name_module(procedure, culprit->module, sizeof(culprit->module));
  }
  ReleaseSysCache(procedure);
}

static void after_call(FmgrHookEventType event, FmgrInfo *function, Datum *argument)
{
  /* A call that failed has left no state in which catalogs could be read. */
  if (event == FHET_END && pgmt_guards_changed()) {
    PgmtCulprit culprit;

    name_culprit(&culprit, function->fn_oid);
    pgmt_culprit = &culprit;
    pgmt_check_sentinels();
    pgmt_culprit = NULL;
  }
  if (prev_hook != NULL && prev_needs_hook != NULL && prev_needs_hook(function->fn_oid))
    prev_hook(event, function, argument);
}

void pgmt_watch_calls(void)
{
  prev_needs_hook = needs_fmgr_hook;
  needs_fmgr_hook = needs_hook;
  prev_hook = fmgr_hook;
  fmgr_hook = after_call;
}
