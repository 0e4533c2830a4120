"""Our texts speak of users; where the queries are sessions or playlists, of those."""

from __future__ import annotations

import re

from recsys_spark.core import columns as c

_USER = re.compile(r"\b([Uu])ser(?=s?\b)")


def worded(text: str, query_kind: str) -> str:
    """Our own text (never ids or titles), of queries of this kind.

    >>> worded("1,204 users: Users with a hit, each user's list", "session")
    "1,204 sessions: Sessions with a hit, each session's list"
    """
    if query_kind == c.USER:
        return text
    return _USER.sub(lambda match: query_kind.capitalize() if match[1] == "U" else query_kind, text)
