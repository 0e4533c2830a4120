"""Every event gets its part, by one named rule and by the events' own values alone: never by
partition or order of rows, never by a model.

| protocol | rule | what is held out | file |
|---|---|---|---|
| K-FULL, K-99 | `leave_last_out` | each user's last events, `hold` a part | by_user.py |
| K-FULL | `last_share` | the last shares of each user's events | by_user.py |
| | `stratified` | shares of each user's (or item's) events at random | by_user.py |
| R-RND | `random` | shares of all events at random | all_events.py |
| R-TIME | `global_time` | all events from one instant on | all_events.py |
| CTR-TIME | `click_time` | the same; label: does the value reach a threshold | all_events.py |
| S-TIME | `session_time` | whole sessions, by their ends | all_events.py |
| S-TIME | `next_in_session` | the last event of whole sessions, the queries | all_events.py |
| | `everything` | nothing: for production | all_events.py |
| | `rolling` | one of a list of windows over time; what is later takes no part | all_events.py |
| K-STRONG | `strong` | users; a share of their events stays known | held_out.py |
| C-USER | `cold_users` | users; their first `known` events are known | held_out.py |
| K-STRONG | `playlist_continuation` | playlists; their first events stay known | held_out.py |
| | `challenge_scenarios` | playlists, as in the RecSys Challenge 2018 | scenarios.py |
| C-ITEM | `cold_items` | items, with all their events | held_out.py |
| | `published` | what the publisher held out | published.py |

Parts are disjoint, and every event of an item has one; only `rolling` and `next_in_session` with an
`action` leave events out. The order of events,
ties in time included, is that of `queries.oldest_first`.
"""

from __future__ import annotations

from typing import Any

from recsys_spark.etl.split.all_events import (
    ClickTime,
    Everything,
    GlobalTime,
    NextInSession,
    Random,
    Rolling,
    SessionTime,
)
from recsys_spark.etl.split.by_user import LastShare, LeaveLastOut, Stratified
from recsys_spark.etl.split.held_out import ColdItems, ColdUsers, PlaylistContinuation, Strong
from recsys_spark.etl.split.published import Published
from recsys_spark.etl.split.rule import Rule
from recsys_spark.etl.split.scenarios import ChallengeScenarios

RULES: dict[str, type[Rule]] = {
    "leave_last_out": LeaveLastOut,
    "last_share": LastShare,
    "stratified": Stratified,
    "random": Random,
    "global_time": GlobalTime,
    "click_time": ClickTime,
    "session_time": SessionTime,
    "next_in_session": NextInSession,
    "rolling": Rolling,
    "strong": Strong,
    "cold_users": ColdUsers,
    "playlist_continuation": PlaylistContinuation,
    "challenge_scenarios": ChallengeScenarios,
    "cold_items": ColdItems,
    "published": Published,
    "everything": Everything,
}


def rule_of(prepared: dict[str, Any]) -> Rule:
    """The rule of a split. prepared: the summary of the run of the prepare step."""
    return RULES[prepared["rule"]].model_validate(prepared["arguments"])


__all__ = ["RULES", "Rule", "rule_of"]
