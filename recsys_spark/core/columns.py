"""Every column and table name of the project, once."""

# Ids: strings as they came (`*_id`), dense integers from 1 (`*_idx`, 0 is padding).
USER_ID, ITEM_ID = "user_id", "item_id"
USER_IDX, ITEM_IDX = "user_idx", "item_idx"

# Events.
TS, VALUE = "ts", "value"  # seconds since 1970 (long), rating or weight (double)
SPLIT, PART = "split", "part"
TRAIN, VALID, TEST = "train", "valid", "test"  # values of `part`
VALID_FOLD_IN, TEST_FOLD_IN = "valid_fold_in", "test_fold_in"  # and where users are held out whole: what is known of them
PARTS = (TRAIN, VALID, TEST, VALID_FOLD_IN, TEST_FOLD_IN)
BEFORE = {VALID: (TRAIN, VALID_FOLD_IN), TEST: (TRAIN, VALID, TEST_FOLD_IN)}  # a query's history when that part is scored
FITTED_ON = {"train": (TRAIN,), "train+valid": (TRAIN, VALID, VALID_FOLD_IN)}  # the events of a `fit`

# Shard columns.
LABEL, WEIGHT = "label", "weight"
HELD_IDX, HELD_VALUE = "held_idx", "held_value"  # of a profile
EVENT = "event_"  # before the name of a field of the event

# Quarantine.
SOURCE_FILE, LINE, RAW, REASON, QUARANTINED_AT = "source_file", "line", "raw", "reason", "quarantined_at"

# Results.
QUERY_ID, QUERY_KIND, SCORE, RANK = "query_id", "query_kind", "score", "rank"
RUN_ID, MODEL, SCORED_AT = "run_id", "model", "scored_at"
TASK, ROW_KEY = "task", "row_key"
SOURCE, POSITION = "source", "position"  # of a candidate
TARGET, SAMPLED, PUBLISHED, NEW_ITEMS = "target", "sampled", "published", "new_items"  # values of `source`
METRIC, K, SLICE, SEED, LOW, HIGH, N = "metric", "k", "slice", "seed", "low", "high", "n"

# Tables under the lake root.
INTERACTIONS, USERS, ITEMS = "interactions", "users", "items"
QUARANTINE, SPLITS = "quarantine", "splits"
USER_INDEX, ITEM_INDEX = "user_index", "item_index"
CANDIDATES = "candidates"
RECOMMENDATIONS, PREDICTIONS = "recommendations", "predictions"
METRICS, RUNS = "metrics", "runs"
