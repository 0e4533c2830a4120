"""The schema, natural key and partition columns of every table."""

from __future__ import annotations

from pyspark.sql import types as t

from recsys_spark.core import columns as c

TEXT, INT, LONG = t.StringType(), t.IntegerType(), t.LongType()
DOUBLE, FLOAT, TIME = t.DoubleType(), t.FloatType(), t.TimestampType()
TEXTS, LONGS = t.MapType(TEXT, TEXT), t.MapType(TEXT, LONG)

KEYS: dict[str, tuple[str, ...]] = {
    c.INTERACTIONS: (c.USER_ID, c.ITEM_ID, c.TS, c.STEP),
    c.IMPRESSIONS: (c.QUERY_KIND, c.QUERY_ID, c.IMPRESSION_ID, c.ITEM_ID),
    c.USERS: (c.USER_ID,),
    c.ITEMS: (c.ITEM_ID,),
    c.QUARANTINE: ("table", c.SOURCE_FILE, c.LINE, c.RAW, c.REASON),
    c.USER_INDEX: (c.USER_ID,),
    c.ITEM_INDEX: (c.ITEM_ID,),
    c.QUERY_INDEX: (c.QUERY_KIND, c.QUERY_ID),
    c.SPLITS: (c.SPLIT, c.QUERY_ID, c.ITEM_ID, c.TS),
    c.CANDIDATES: (c.RUN_ID, c.PART, c.QUERY_ID, c.ITEM_ID),
    c.RECOMMENDATIONS: (c.RUN_ID, c.QUERY_KIND, c.QUERY_ID, c.RANK),
    c.CURRENT: (c.NAME, c.QUERY_KIND, c.QUERY_ID, c.RANK),
    c.SIMILAR_ITEMS: (c.RUN_ID, c.ITEM_ID, c.RANK),
    c.ITEM_VECTORS: (c.RUN_ID, c.ITEM_ID),
    c.PREDICTIONS: (c.RUN_ID, c.TASK, c.ROW_KEY),
    c.METRICS: (c.RUN_ID, "of_run_id", c.TASK, c.METRIC, c.K, c.SLICE),
    c.RUNS: (c.RUN_ID,),
}

# What `replace` names is a partition: replacing it removes whole files and rewrites none.
_BY_RUN = (c.RUN_ID,)
PARTITIONS: dict[str, tuple[str, ...]] = {
    # By part too, so that `link_shards` finds the rows of one in files of their own
    c.SPLITS: (
        c.SPLIT,
        c.PART,
    ),
    c.CANDIDATES: _BY_RUN,
    c.RECOMMENDATIONS: _BY_RUN,
    c.CURRENT: (c.NAME,),
    c.SIMILAR_ITEMS: _BY_RUN,
    c.ITEM_VECTORS: _BY_RUN,
    c.PREDICTIONS: _BY_RUN,
    c.METRICS: _BY_RUN,
    c.RUNS: _BY_RUN,
}


def _schema(name: str, /, **columns: t.DataType) -> t.StructType:
    assert set(KEYS[name]) | set(PARTITIONS.get(name, ())) <= set(columns), (
        f"a key or partition of {name} is no column of it"
    )
    return t.StructType([t.StructField(column, kind) for column, kind in columns.items()])


SCHEMAS: dict[str, t.StructType] = {
    # `ts` seconds since 1970 (or the line number of an ordered file without times), `value` a
    # rating or weight.
    c.INTERACTIONS: _schema(
        c.INTERACTIONS,
        user_id=TEXT,
        item_id=TEXT,
        ts=LONG,
        value=DOUBLE,
        session_id=TEXT,
        action=TEXT,
        position=INT,
        step=INT,
        impression_id=TEXT,
        context=TEXTS,
    ),
    # An item of a list that was shown at `ts`; `value`: what came of it, such as 1 for a click,
    # where that is known
    c.IMPRESSIONS: _schema(
        c.IMPRESSIONS,
        query_kind=TEXT,
        query_id=TEXT,
        impression_id=TEXT,
        item_id=TEXT,
        position=INT,
        ts=LONG,
        value=DOUBLE,
        context=TEXTS,
    ),
    c.USERS: _schema(c.USERS, user_id=TEXT, fields=TEXTS),
    # Several values of one field are joined by "|"
    c.ITEMS: _schema(c.ITEMS, item_id=TEXT, title=TEXT, fields=TEXTS),
    c.QUARANTINE: _schema(
        c.QUARANTINE,
        run_id=TEXT,
        table=TEXT,
        source_file=TEXT,
        line=LONG,
        raw=TEXT,
        reason=TEXT,
        quarantined_at=TIME,
    ),
    c.USER_INDEX: _schema(c.USER_INDEX, user_id=TEXT, user_idx=INT),
    c.ITEM_INDEX: _schema(c.ITEM_INDEX, item_id=TEXT, item_idx=INT),
    # Of queries that are no users: sessions, playlists
    c.QUERY_INDEX: _schema(c.QUERY_INDEX, query_kind=TEXT, query_id=TEXT, query_idx=INT),
    c.SPLITS: _schema(
        c.SPLITS,
        split=TEXT,
        run_id=TEXT,
        query_idx=INT,
        item_idx=INT,
        query_kind=TEXT,
        query_id=TEXT,
        user_id=TEXT,
        item_id=TEXT,
        ts=LONG,
        value=DOUBLE,
        session_id=TEXT,
        action=TEXT,
        position=INT,
        step=INT,
        part=TEXT,
    ),
    # A set for each query: `source` target, sampled, published, new_items or shown; `position`
    # among the query's negatives from 1, of a target 0. Of a list that was shown all have its own
    # position, its time and what else is known of them.
    c.CANDIDATES: _schema(
        c.CANDIDATES,
        split=TEXT,
        run_id=TEXT,
        part=TEXT,
        query_kind=TEXT,
        query_id=TEXT,
        item_id=TEXT,
        source=TEXT,
        position=INT,
        ts=LONG,
        context=TEXTS,
    ),
    c.RECOMMENDATIONS: _schema(
        c.RECOMMENDATIONS,
        query_id=TEXT,
        query_kind=TEXT,
        item_id=TEXT,
        score=FLOAT,
        rank=INT,
        run_id=TEXT,
        model=TEXT,
        scored_at=TIME,
    ),
    # What consumers read: of each name one whole generation, replaced in one commit. `run_id` is
    # that of the score step that made the lists.
    c.CURRENT: _schema(
        c.CURRENT,
        name=TEXT,
        query_id=TEXT,
        query_kind=TEXT,
        item_id=TEXT,
        score=FLOAT,
        rank=INT,
        model=TEXT,
        run_id=TEXT,
        generation=LONG,
        published_at=TIME,
    ),
    # The items nearest to an item, by one model
    c.SIMILAR_ITEMS: _schema(
        c.SIMILAR_ITEMS,
        item_id=TEXT,
        similar_id=TEXT,
        score=FLOAT,
        rank=INT,
        run_id=TEXT,
        model=TEXT,
    ),
    c.ITEM_VECTORS: _schema(
        c.ITEM_VECTORS,
        item_id=TEXT,
        vector=t.ArrayType(FLOAT),
        run_id=TEXT,
        model=TEXT,
    ),
    c.PREDICTIONS: _schema(
        c.PREDICTIONS,
        run_id=TEXT,
        model=TEXT,
        split=TEXT,
        task=TEXT,
        row_key=TEXT,
        query_id=TEXT,
        item_id=TEXT,
        label=DOUBLE,
        value=DOUBLE,
    ),
    c.METRICS: _schema(
        c.METRICS,
        run_id=TEXT,
        of_run_id=TEXT,
        model=TEXT,
        split=TEXT,
        query_kind=TEXT,
        seed=LONG,
        task=TEXT,
        metric=TEXT,
        k=INT,
        slice=TEXT,
        value=DOUBLE,
        low=DOUBLE,
        high=DOUBLE,
        n=LONG,
    ),
    # Config and summary are JSON
    c.RUNS: _schema(
        c.RUNS,
        run_id=TEXT,
        pipeline=TEXT,
        step=TEXT,
        stage=TEXT,
        key=TEXT,
        config=TEXT,
        upstream=TEXTS,
        input_versions=LONGS,
        output_versions=LONGS,
        shard_fingerprint=TEXT,
        run_dir=TEXT,
        code_version=TEXT,
        seed=LONG,
        started_at=DOUBLE,
        ended_at=DOUBLE,
        state=TEXT,
        problem=TEXT,
        summary=TEXT,
    ),
}
