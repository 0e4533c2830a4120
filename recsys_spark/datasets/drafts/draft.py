"""The text of a pipeline for a source that was looked at: it runs as it stands, and each guess is a
comment beside its line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from recsys_spark.core import columns as c
from recsys_spark.core.errors import DataError
from recsys_spark.datasets.drafts.columns import UNITS, Column
from recsys_spark.datasets.drafts.roles import REQUIRED, Role

EASE_ITEMS = 10_000  # its matrix of items is dense: seconds of inversion, and 0.4 GB in float32
HELD = 3  # events of a user of whom one can be held out for test and one for validation
INSTANTS = 10  # different times, at least, by which the events of all users are divided
FRACTIONS = "fractions: [0.8, 0.1, 0.1]"
RANDOM = f"random, {FRACTIONS}"
RATINGS = 12  # different values, at most, of which a rating is made


@dataclass(frozen=True)
class Looked:
    """What the sample says beyond its columns. users, items: in it; events_a_user: the median."""

    rows: int
    users: int
    items: int
    events_a_user: float
    repeated: int
    instants: int  # different times
    whole: bool  # the sample is all there is


def require_possible(looked: Looked, where: str) -> None:
    """Raises DataError for rows from which nothing can be recommended."""
    for number, what, expected in (
        (looked.rows, "no event with a user and an item", "events"),
        (looked.users if looked.users > 1 else 0, "events of one user", "several users"),
        (looked.items if looked.items > 1 else 0, "events of one item", "several items"),
        (looked.rows - looked.users, "one event of each user", "users who come again"),
        (looked.rows - looked.items, "one event of each item", "items that several users met"),
    ):
        if number <= 0:
            raise DataError(
                where,
                found=what,
                expected=expected,
                remedy="name the right columns with --user and --item, or look at other data",
            )


def pipeline(
    name: str, place: Mapping[str, object], roles: Mapping[str, Role], looked: Looked
) -> str:
    """place: where the events lie, as `source.interactions` says it (files or table ...)."""
    return "\n".join(
        [
            "# A first pipeline for data that nobody described: correct what a comment guesses.",
            f"# Then: recsys-spark run {name}.yaml",
            f"name: {name}",
            "seed: 1",
            "env:",
            f"  lake: ${{oc.env:RECSYS_OUT,out}}/{name}/lake",
            f"  runs: ${{oc.env:RECSYS_OUT,out}}/{name}/runs",
            "  spark: {master: 'local[*]', driver_memory: 2g}",
            "",
            "steps:",
            "  ingest:",
            "    stage: ingest",
            f"    dataset: {name}",
            *_repeats(roles, looked),
            "    source:",
            "      interactions:",
            *(f"        {line}" for line in _place(place, roles, looked)),
            *(f"        {line}" for line in _mapping(roles, ordered=_ordered(place))),
            "      # Titles for the report, fields for models that read them; `users` likewise:",
            "      # items: {files: PATH, columns: {item_id: ID, title: NAME}, keep: [FIELD]}",
            "",
            *_steps(looked, c.TS in roles),
            "",
        ]
    )


def _repeats(roles: Mapping[str, Role], looked: Looked) -> list[str]:
    share = 100 * looked.repeated / looked.rows
    rated = c.VALUE in roles and _kind(roles[c.VALUE].column)[0] == "rating"
    return [
        f"    # {share:.1f} % of the sample are further events of a user with an item."
        if looked.repeated
        else "    # In the sample no user has an item twice.",
        "    # events: each counts; latest, first, sum: one event with that value",
        "    repeats: latest  # a guess: who rates again thinks so now"
        if rated and looked.repeated
        else "    repeats: events",
    ]


def _ordered(place: Mapping[str, object]) -> bool:
    """Whether rows without a time have at least an order: lines of files have."""
    return "files" in place


def _place(place: Mapping[str, object], roles: Mapping[str, Role], looked: Looked) -> list[str]:
    """Of a table without times, whose rows are known by user and item alone, a sum of those that
    have the same.
    """
    if _ordered(place) or c.TS in roles or c.VALUE not in roles or not looked.repeated:
        return [f"{key}: {json.dumps(value)}" for key, value in place.items()]
    user, item, value = (_quoted(roles[role].column.name) for role in (*REQUIRED, c.VALUE))
    table = str(place.get("table", ""))
    rows = f"delta.`{table}`" if "/" in table else table or f"({place['query']})"
    query = f"SELECT {user}, {item}, SUM({value}) AS {value} FROM {rows} GROUP BY ALL"
    return [
        "# Rows of one user and item have no time that tells them apart: their values are added",
        f"query: {json.dumps(query)}",
    ]


def _mapping(roles: Mapping[str, Role], *, ordered: bool) -> list[str]:
    """ordered: rows without a time have an order all the same."""
    lines = ["columns:"]
    for role, guess in roles.items():
        column = guess.column
        # A line break in a comment would end it
        examples = " ".join(", ".join(column.examples[:2]).split())
        sql = (
            column.name
            if column.written is None or role != c.TS
            else column.written.sql(column.name)
        )
        lines.append(f"  {role}: {json.dumps(sql)}  # {guess.why}; such as {examples}")
    if c.TS in roles:
        lines += _of_times(roles[c.TS].column)
    elif not ordered:
        lines += [
            '  ts: "0"  # no column looks like a time, and rows of a table have no order',
            "unit: s",
        ]
    if c.VALUE not in roles:
        return [
            *lines,
            "values: none  # no column looks like a rating or a count: every event weighs 1",
        ]
    value = roles[c.VALUE].column
    kind, why = _kind(value)
    lines.append(f"values: {kind}  # a guess: {why}")
    if value.low is not None and value.low < 0:
        lines.append(f"value_min: {value.low:g}  # negative values are taken as they are")
    return lines


def _of_times(time: Column) -> list[str]:
    if time.time in UNITS:
        return [f"unit: {time.time}  # the only one in which all lie between 1990 and 2100"]
    return [] if time.zoned else ["zone: UTC  # a guess: the times name none"]


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _kind(value: Column) -> tuple[str, str]:
    low, high = value.low or 0.0, value.high or 0.0
    span = f"{low:g} to {high:g}"
    if value.distinct <= RATINGS and high <= 100:
        return "rating", f"{value.distinct} different values, {span}"
    if value.whole and low >= 0:
        return "count", f"whole numbers, {span}"
    return "weight", f"numbers from {span}"


def _split(looked: Looked, timed: bool) -> tuple[str, str]:
    """(rule and its arguments, why): one in which time decides, where there are times."""
    median = f"{looked.events_a_user:g} (median of the sample)"
    if not timed or looked.instants < INSTANTS:
        return RANDOM, "no times order the events: rows at random"
    if looked.events_a_user >= HELD:
        why = f"events a user: {median}. The last is the test, the one before it the validation"
        return "leave_last_out", why
    why = f"events a user: {median}, too few to hold out two. The latest of all are the test"
    return f"global_time, {FRACTIONS}", why


def _steps(looked: Looked, timed: bool) -> list[str]:
    rule, why = _split(looked, timed)
    ease = looked.whole and looked.items <= EASE_ITEMS
    further = [*(["markov"] if rule != RANDOM else []), *(["ease"] if ease else [])]
    models = ["popularity", "item_knn", "als", *further, "multi_vae"]
    scored = ", ".join(f"score_{model}" for model in models)
    lines = [
        f"  # {why}",
        f"  split: {{stage: prepare, source: ingest, rule: {rule}}}",
        "",
        "  # Baselines, which beat many a network",
        "  popularity: {stage: train_baseline, source: split, model: popularity}",
        "  item_knn: {stage: train_baseline, source: split, model: item_knn}",
        "  als: {stage: train_als, source: split, config: {rank: 32}}",
    ]
    lines += [
        f"  {name}: {{stage: train_baseline, source: split, model: {name}}}" for name in further
    ]
    lines += [
        "",
        "  # One deep model: of users' profiles, so that a new user needs no new training",
        "  profiles: {stage: export_shards, source: split, layout: profile, label: one}",
        "  multi_vae:",
        "    stage: train_deep",
        "    model: multi_vae",
        "    shards: profiles",
        "    config: {hidden_dim: 200, latent_dim: 64}",
        "    train: {batch_size: 256, epochs: 20, patience: 4, optim: {name: adam, lr: 0.003}}",
        "",
        *(f"  score_{model}: {{stage: score, model: {model}, source: split}}" for model in models),
        "",
        f"  ranking: {{stage: evaluate, source: split, of: [{scored}]}}",
        "  report: {stage: report, evaluation: [ranking], trained: [multi_vae]}",
        "",
        "# The model that you choose, fitted on all events: recsys-spark run FILE --production",
        "# production: {score: score_als, k: 20}",
    ]
    return lines
