"""All column and table names of the project."""

# Ids: original strings (`*_id`), dense integers from 1 (`*_idx`, 0 is padding).
USER_ID, ITEM_ID = "user_id", "item_id"
NO_ITEM = ""  # item_id of an event that is of no item, such as a search or a filter
USER_IDX, ITEM_IDX = "user_idx", "item_idx"
# Whose list is made, and its number: of a user its user_idx, of a session or playlist its place in
# `query_index`. The row side of every model, which models call its users.
QUERY_KIND, QUERY_ID, QUERY_IDX = "query_kind", "query_id", "query_idx"
USER, SESSION, PLAYLIST = "user", "session", "playlist"  # values of `query_kind`
SESSION_MARK = "#"  # between user and session in a session's query_id, such as u3#7

# Events.
TS, VALUE = "ts", "value"  # seconds since 1970 (long), rating or weight (double)
# Where a data set has them: the session (or playlist), the action, the position of the item in a
# list or playlist, the event's place in its session (both counted as in the source), the list that
# was shown
SESSION_ID, ACTION, POSITION, STEP = "session_id", "action", "position", "step"
IMPRESSION_ID = "impression_id"
PLACE = "place"  # of an event among those of its query, oldest first
CONTEXT = "context"  # {name: text}: what else is known of an event or impression
SPLIT, PART = "split", "part"
TRAIN, VALID, TEST = "train", "valid", "test"  # values of `part`
# where whole users are held out: their known events
VALID_FOLD_IN = "valid_fold_in"
TEST_FOLD_IN = "test_fold_in"
PARTS = (TRAIN, VALID, TEST, VALID_FOLD_IN, TEST_FOLD_IN)
# parts whose events are a query's history when the part is scored
BEFORE = {
    VALID: (TRAIN, VALID_FOLD_IN),
    TEST: (TRAIN, VALID, TEST_FOLD_IN),
}
# A list for now is scored from all events
NOW = "now"
KNOWN = BEFORE | {NOW: PARTS}
# parts whose events each kind of `fit` uses
FITTED_ON = {
    "train": (TRAIN,),
    "train+valid": (TRAIN, VALID, VALID_FOLD_IN),
}

# Shard columns.
LABEL, WEIGHT = "label", "weight"
HELD_IDX, HELD_VALUE = "held_idx", "held_value"  # of a profile
FIRST, LAST = "first", "last"  # of layout sequence: places of a row's targets, the last one past
ROW_TARGETS = "row_targets"  # statistic of that layout: how many they are at most
HISTORY = "history"  # side file: the events of each query, oldest first
AGES = "ages"  # side file: the same, with their age
EVENT = "event_"  # prefix of the name of an event's field

# Quarantine.
SOURCE_FILE = "source_file"
LINE = "line"
RAW = "raw"
REASON = "reason"
QUARANTINED_AT = "quarantined_at"

# Results.
SCORE, RANK = "score", "rank"
RUN_ID, MODEL, SCORED_AT = "run_id", "model", "scored_at"
SIMILAR_ID, VECTOR = "similar_id", "vector"
NAME, GENERATION, PUBLISHED_AT = "name", "generation", "published_at"  # of published lists
TASK, ROW_KEY = "task", "row_key"
SOURCE = "source"  # of a candidate, which also has a position
# Values of `source`
TARGET = "target"
SAMPLED = "sampled"
PUBLISHED = "published"
NEW_ITEMS = "new_items"
SHOWN = "shown"  # on a list that was shown: table `impressions`
UNION = "union"  # on one of several models' lists
ORDERED = (SHOWN, UNION)  # candidates that are lists: their positions are an order
# Of an item of such a list; etl/shown_features.py says what each of them is
SHOWN_FEATURES = (
    *("shown_place", "shown_price", "shown_met", "shown_last"),
    *("shown_cheaper", "shown_length", "shown_kinds", "shown_since", "shown_ago", "shown_again"),
    *("shown_from_last", "shown_to_met"),
    *("shown_events", "shown_items", "shown_began", "shown_paused"),
    *("shown_times", "shown_chosen", "shown_rate"),
)
METRIC, K, SLICE, SEED = "metric", "k", "slice", "seed"
LOW, HIGH, N = "low", "high", "n"

# Tables under the lake root.
INTERACTIONS, USERS, ITEMS = "interactions", "users", "items"
QUARANTINE, SPLITS = "quarantine", "splits"
USER_INDEX, ITEM_INDEX, QUERY_INDEX = "user_index", "item_index", "query_index"
CANDIDATES, IMPRESSIONS = "candidates", "impressions"
RECOMMENDATIONS, PREDICTIONS = "recommendations", "predictions"
METRICS, RUNS = "metrics", "runs"
CURRENT = "current_recommendations"
SIMILAR_ITEMS, ITEM_VECTORS = "similar_items", "item_vectors"
