"""Engagements with tweets, as in the RecSys Challenge 2020: 24 columns (20 where what came of a
tweet is to be predicted) with \\x01 between, lists inside a column with tabs, no header.

Each line is an event: who saw the tweet (`enaging_user_id`, as the files spell it), the tweet, its
time, and in `context` the times of like, reply, retweet and retweet with comment, where they
happened. What is said of a tweet, its tokens first of all, is stored once, in `items`; what is said
of who saw it in `users`. Lines of test and validation have `unlabelled` in their context.

Deleted tweets: `deleted*.txt`, an id a line; no line of theirs is read, not even into quarantine.
Tweets that were deleted later go with `stored: follow` of the ingest step.

L. Belli et al. Privacy-Preserving Recommender Systems Challenge on Twitter's Home Timeline.
arXiv:2004.13715.
"""

from __future__ import annotations

from recsys_spark.datasets.files.spec import Dataset, File, seconds

SEPARATOR, LIST_SEPARATOR = "\x01", "\t"
TWEET = (
    *("text_tokens", "hashtags", "tweet_id", "present_media", "present_links", "present_domains"),
    *("tweet_type", "language", "tweet_timestamp"),
)
AUTHOR = tuple(
    f"engaged_with_user_{name}"
    for name in ("id", "follower_count", "following_count", "is_verified", "account_creation")
)
READER = tuple(name.replace("engaged_with", "enaging") for name in AUTHOR)
UNLABELLED = (*TWEET, *AUTHOR, *READER, "engagee_follows_engager")
# {target: its column}
TARGETS = {
    "reply": "reply_timestamp",
    "retweet": "retweet_timestamp",
    "comment": "retweet_with_comment_timestamp",
    "like": "like_timestamp",
}
COLUMNS = (*UNLABELLED, *TARGETS.values())
FIRST, LAST = seconds("2020-02-06"), seconds("2020-02-20")

_SAID_OF = {"user_id": "enaging_user_id", "item_id": "tweet_id", "ts": "tweet_timestamp"}
_TAGS = {name: f"translate({name}, '\\t', '|')" for name in ("hashtags", "present_media")}
_TWEET_FIELDS = {
    "tokens": "translate(text_tokens, '\\t', ' ')",
    "hashtags": _TAGS["hashtags"],
    "media": _TAGS["present_media"],
    "links": "translate(present_links, '\\t', '|')",
    "domains": "translate(present_domains, '\\t', '|')",
    "type": "tweet_type",
    "language": "language",
    "author": AUTHOR[0],
    "author_followers": AUTHOR[1],
    "author_following": AUTHOR[2],
    "author_verified": AUTHOR[3],
    "author_since": AUTHOR[4],
}
_READER_FIELDS = dict(zip(("followers", "following", "verified", "since"), READER[1:], strict=True))
_WRONG = {
    "label_not_a_time": " OR ".join(
        f"(coalesce({name}, '') != '' AND NOT {name} RLIKE '^[0-9]+$')" for name in TARGETS.values()
    ),
    "label_before_tweet": " OR ".join(
        f"try_cast({name} AS BIGINT) < try_cast(tweet_timestamp AS BIGINT)"
        for name in TARGETS.values()
    ),
}


def _files(pattern: str, *, labelled: bool, required: bool = False) -> tuple[File, ...]:
    columns = COLUMNS if labelled else UNLABELLED
    known = {"follows": "engagee_follows_engager"}
    known |= TARGETS if labelled else {"unlabelled": "'true'"}
    return (
        File(
            pattern,
            "interactions",
            columns,
            SEPARATOR,
            mapped=_SAID_OF,
            fields=known,
            wrong=_WRONG if labelled else {},
            required=required,
        ),
        File(
            pattern,
            "users",
            columns,
            SEPARATOR,
            mapped={"user_id": READER[0], "item_id": "tweet_id"},
            fields=_READER_FIELDS,
            repeats=True,
            required=required,
        ),
        File(
            pattern,
            "items",
            columns,
            SEPARATOR,
            mapped={"item_id": "tweet_id"},
            fields=_TWEET_FIELDS,
            repeats=True,
            required=required,
        ),
    )


DATASETS = {
    "twitter": Dataset(
        "twitter",
        (
            *_files("train*.tsv", labelled=True, required=True),
            *_files("val*.tsv", labelled=False),
            *_files("test*.tsv", labelled=False),
            File("deleted*.txt", "left_out", ("item_id",), SEPARATOR, required=False),
        ),
        integer_ids=False,
        ts_min=FIRST,
        ts_max=LAST,
        unknown_ids="keep",  # both tables are made of the same lines
        follows=True,  # which differ in what they say of a user
        generator="twitter",
        register="https://recsys-twitter.com",
    )
}
