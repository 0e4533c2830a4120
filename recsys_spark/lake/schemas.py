"""The schema, natural key and partition columns of every table."""

from __future__ import annotations

from pyspark.sql import types as t

from recsys_spark.core import columns as c

TEXT, INT, LONG = t.StringType(), t.IntegerType(), t.LongType()
DOUBLE, FLOAT, TIME = t.DoubleType(), t.FloatType(), t.TimestampType()
TEXTS, LONGS = t.MapType(TEXT, TEXT), t.MapType(TEXT, LONG)

KEYS: dict[str, tuple[str, ...]] = {
    c.INTERACTIONS: (c.USER_ID, c.ITEM_ID, c.TS),
    c.USERS: (c.USER_ID,),
    c.ITEMS: (c.ITEM_ID,),
    c.QUARANTINE: ("table", c.SOURCE_FILE, c.LINE, c.RAW, c.REASON),
    c.USER_INDEX: (c.USER_ID,),
    c.ITEM_INDEX: (c.ITEM_ID,),
    c.SPLITS: (c.SPLIT, c.USER_ID, c.ITEM_ID, c.TS),
    c.CANDIDATES: (c.RUN_ID, c.PART, c.QUERY_ID, c.ITEM_ID),
    c.RECOMMENDATIONS: (c.RUN_ID, c.QUERY_KIND, c.QUERY_ID, c.RANK),
    c.PREDICTIONS: (c.RUN_ID, c.TASK, c.ROW_KEY),
    c.METRICS: (c.RUN_ID, "of_run_id", c.TASK, c.METRIC, c.K, c.SLICE),
    c.RUNS: (c.RUN_ID,),
}

# What `replace` names is a partition: replacing it removes whole files and rewrites none.
_BY_RUN = (c.RUN_ID,)
PARTITIONS: dict[str, tuple[str, ...]] = {
    c.SPLITS: (c.SPLIT, c.PART),  # by part too, so that `link_shards` finds the rows of one in files of their own
    c.CANDIDATES: _BY_RUN, c.RECOMMENDATIONS: _BY_RUN, c.PREDICTIONS: _BY_RUN, c.METRICS: _BY_RUN, c.RUNS: _BY_RUN,
}


def _schema(name: str, /, **columns: t.DataType) -> t.StructType:
    assert set(KEYS[name]) | set(PARTITIONS.get(name, ())) <= set(columns), f"a key or partition of {name} is no column of it"
    return t.StructType([t.StructField(column, kind) for column, kind in columns.items()])


SCHEMAS: dict[str, t.StructType] = {
    # `ts` seconds since 1970 (or the line number of an ordered file without times), `value` a rating or weight.
    c.INTERACTIONS: _schema(c.INTERACTIONS, user_id=TEXT, item_id=TEXT, ts=LONG, value=DOUBLE, session_id=TEXT, action=TEXT,
                            position=INT, impression_id=TEXT, context=TEXTS),
    c.USERS: _schema(c.USERS, user_id=TEXT, fields=TEXTS),
    c.ITEMS: _schema(c.ITEMS, item_id=TEXT, title=TEXT, fields=TEXTS),  # several values of one field are joined by "|"
    c.QUARANTINE: _schema(c.QUARANTINE, run_id=TEXT, table=TEXT, source_file=TEXT, line=LONG, raw=TEXT, reason=TEXT, quarantined_at=TIME),
    c.USER_INDEX: _schema(c.USER_INDEX, user_id=TEXT, user_idx=INT),
    c.ITEM_INDEX: _schema(c.ITEM_INDEX, item_id=TEXT, item_idx=INT),
    c.SPLITS: _schema(c.SPLITS, split=TEXT, run_id=TEXT, user_idx=INT, item_idx=INT, user_id=TEXT, item_id=TEXT, ts=LONG, value=DOUBLE,
                      part=TEXT),
    # A set for each query: `source` target, sampled or published; `position` among the query's negatives from 1, of a target 0.
    c.CANDIDATES: _schema(c.CANDIDATES, split=TEXT, run_id=TEXT, part=TEXT, query_id=TEXT, item_id=TEXT, source=TEXT, position=INT),
    c.RECOMMENDATIONS: _schema(c.RECOMMENDATIONS, query_id=TEXT, query_kind=TEXT, item_id=TEXT, score=FLOAT, rank=INT, run_id=TEXT,
                               model=TEXT, scored_at=TIME),
    c.PREDICTIONS: _schema(c.PREDICTIONS, run_id=TEXT, model=TEXT, split=TEXT, task=TEXT, row_key=TEXT, user_id=TEXT, item_id=TEXT,
                           label=DOUBLE, value=DOUBLE),
    c.METRICS: _schema(c.METRICS, run_id=TEXT, of_run_id=TEXT, model=TEXT, split=TEXT, seed=LONG, task=TEXT, metric=TEXT, k=INT, slice=TEXT,
                       value=DOUBLE, low=DOUBLE, high=DOUBLE, n=LONG),
    c.RUNS: _schema(c.RUNS, run_id=TEXT, pipeline=TEXT, step=TEXT, stage=TEXT, key=TEXT, config=TEXT, upstream=TEXTS, input_versions=LONGS,
                    output_versions=LONGS, shard_fingerprint=TEXT, run_dir=TEXT, code_version=TEXT, seed=LONG, started_at=DOUBLE,
                    ended_at=DOUBLE, summary=TEXT),  # config and summary are JSON
}
