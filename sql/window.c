/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * window.c - test windows: what this session loses between begin() and end().
 *
 * The daemon judges.  Here the options are checked, so that a typing error does not read like a
 * clean result, and the sentinels' findings of the time between are added.
 */
#include "pgmemtrace.h"

#include "compat.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/json.h"

PG_FUNCTION_INFO_V1(pgmt_begin_window);
PG_FUNCTION_INFO_V1(pgmt_end_window);

/* Longest pattern, in bytes. */
#define MAX_PATTERN 63

static bool window_is_open = false;
static bool window_tracks_shmem = true;
static TimestampTz window_began;

static void reject_option(const char *name, const char *wanted)
{
  ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                  errmsg("option \"%s\" of a test window must be %s", name, wanted)));
}

static void check_strings(const char *name, JsonbValue *value)
{
  JsonbIterator *elements;
  JsonbIteratorToken token;
  JsonbValue element;

  if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
    reject_option(name, "an array of strings");
  elements = JsonbIteratorInit(value->val.binary.data);
  while ((token = JsonbIteratorNext(&elements, &element, true)) != WJB_DONE) {
    if (token == WJB_ELEM && element.type != jbvString)
      reject_option(name, "an array of strings");
  }
}

static void check_option(const char *name, JsonbValue *value)
{
  if (strcmp(name, "track_shmem") == 0 || strcmp(name, "track_dsm") == 0) {
    if (value->type != jbvBool)
      reject_option(name, "true or false");
    if (strcmp(name, "track_shmem") == 0)
      window_tracks_shmem = value->val.boolean;
  } else if (strcmp(name, "allowed_contexts") == 0) {
    check_strings(name, value);
  } else {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("unknown option \"%s\" of a test window", name),
                    errhint("Options are track_shmem, track_dsm and allowed_contexts.")));
  }
}

static void check_options(Jsonb *options)
{
  JsonbIterator *members;
  JsonbIteratorToken token;
  JsonbValue value;
  char *name = NULL;

  if (!JB_ROOT_IS_OBJECT(options))
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("the options of a test window must be a JSON object")));
  members = JsonbIteratorInit(&options->root);
  while ((token = JsonbIteratorNext(&members, &value, true)) != WJB_DONE) {
    if (token == WJB_KEY)
      name = pnstrdup(value.val.string.val, value.val.string.len);
    else if (token == WJB_VALUE)
      check_option(name, &value);
  }
}

void pgmt_open_window(const char *pattern, Jsonb *options, bool within_transaction)
{
  StringInfoData body;

  if (strlen(pattern) > MAX_PATTERN)
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("the pattern of a test window is too long"),
                    errdetail("It has %zu bytes, of at most %d.", strlen(pattern), MAX_PATTERN)));
  if (window_is_open)
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("this session has a test window already"),
                    errhint("pgmemtrace.end() closes it.")));

  window_tracks_shmem = true;
  initStringInfo(&body);
  appendStringInfoString(&body, "{\"pattern\":");
  escape_json(&body, pattern);
  appendStringInfo(&body, ",\"min_leak_bytes\":%d,\"bloat_min_bytes\":%d", pgmt_min_leak_bytes,
                   pgmt_bloat_min_bytes);
  if (within_transaction)
    appendStringInfoString(&body, ",\"within_transaction\":true");
  if (options != NULL) {
    check_options(options);
    appendStringInfo(&body, ",\"options\":%s", JsonbToCString(NULL, &options->root, 0));
  }
  appendStringInfoChar(&body, '}');

  if (window_tracks_shmem)
    pgmt_check_sentinels(); /* what was there before is not the window's */
  window_began = GetCurrentTimestamp();
  (void)pgmt_ask(PGMT_BEGIN_WINDOW, body.data);
  window_is_open = true;
}

/* The "violations" of the daemon's answer, an empty array if it has none. */
static Datum violations_of(Jsonb *answer)
{
  JsonbValue *violations = NULL;

  if (answer != NULL && JB_ROOT_IS_OBJECT(answer))
    violations =
        getKeyJsonValueFromContainer(&answer->root, "violations", (int)strlen("violations"), NULL);
  if (violations == NULL || violations->type != jbvBinary ||
      !JsonContainerIsArray(violations->val.binary.data))
    return DirectFunctionCall1(jsonb_in, CStringGetDatum("[]"));
  return JsonbPGetDatum(JsonbValueToJsonb(violations));
}

Datum pgmt_close_window(void)
{
  Datum found;
  char *sentinels;

  if (!window_is_open)
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("this session has no test window"), errhint("pgmemtrace.begin() opens one.")));
  window_is_open = false; /* whatever comes: the next begin() must not fail */
  found = violations_of(pgmt_ask(PGMT_END_WINDOW, "{}"));
  if (!window_tracks_shmem)
    return found;
  pgmt_check_sentinels();
  sentinels = pgmt_from_utf8(pgmt_sentinel_violations(window_began));
  return DirectFunctionCall2(jsonb_concat, found,
                             DirectFunctionCall1(jsonb_in, CStringGetDatum(sentinels)));
}

Datum pgmt_begin_window(PG_FUNCTION_ARGS)
{
  pgmt_open_window(PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0)),
                   PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1), false);
  PG_RETURN_VOID();
}

/* A JSON array of violations. */
Datum pgmt_end_window(PG_FUNCTION_ARGS) { PG_RETURN_DATUM(pgmt_close_window()); }
