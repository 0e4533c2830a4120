"""The commands about raw data: looked at, fetched, generated."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from recsys_spark.cli import running
from recsys_spark.cli.options import Overrides
from recsys_spark.cli.screen import screen
from recsys_spark.core.errors import ConfigError


def init(
    where: Annotated[
        str, typer.Argument(metavar="PATH|TABLE", help="Files, a folder, a URL, or a table.")
    ],
    out: Annotated[str, typer.Option("-o", help="The pipeline file. Default: NAME.yaml.")] = "",
    user: Annotated[str, typer.Option(help="The column of users.")] = "",
    item: Annotated[str, typer.Option(help="The column of items.")] = "",
    ts: Annotated[str, typer.Option(help="The column of times.")] = "",
    value: Annotated[str, typer.Option(help="The column of ratings, counts or weights.")] = "",
) -> None:
    """Look at data of your own, and write a first pipeline that runs on it."""
    from recsys_spark.commands import init as inits

    given = {"user_id": user, "item_id": item, "ts": ts, "value": value}
    file = Path(out or f"{inits.name_of(where)}.yaml")
    spark = running.session_of("recsys_spark init")
    seen = inits.look(spark, where, {role: n for role, n in given.items() if n}, time.time())
    inits.show(screen(), seen)
    inits.write(seen, file)
    screen().print(f"wrote {file}; next: recsys-spark run {file}", highlight=False)


def look(
    config: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG|LAKE]", help="A pipeline file, or the root of a lake."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """A picture of the ingested events: long tails, time, values, repeats."""
    from recsys_spark.commands import look as looks
    from recsys_spark.report import profile

    lake = running.named_lake(config, overrides)
    profile.show(screen(), looks.look(lake), title=lake.root)


def download(
    dataset: str,
    to: Annotated[
        str, typer.Option(help="Folder that receives the data set's own folder.")
    ] = "data",
) -> None:
    """Fetch a data set from its publisher: resumed, checked, unpacked."""
    from recsys_spark.datasets.files import download as downloads

    folder = downloads.download(dataset, Path(to))
    screen().print(f"{dataset} is in {folder}")


def generate(
    to: Annotated[str, typer.Argument(help="New folder for the files.")],
    users: int = 6040,
    items: int = 3883,
    ratings: int = 1_000_209,
    seed: int = 1,
    like: Annotated[
        str,
        typer.Option(
            help="The format: ml-1m, spotify-mpd (its playlists), trivago (its sessions), "
            "twitter (its tweets)."
        ),
    ] = "ml-1m",
    playlists: Annotated[int, typer.Option(help="Of spotify-mpd; some 66 tracks each.")] = 10_000,
    tracks: Annotated[int, typer.Option(help="Of spotify-mpd.")] = 20_000,
    challenge: Annotated[int, typer.Option(help="Playlists of spotify-mpd's challenge set.")] = 0,
    sessions: Annotated[int, typer.Option(help="Of trivago; some 5 rows each.")] = 1000,
    tweets: Annotated[int, typer.Option(help="Of twitter; some 3 rows each.")] = 1000,
) -> None:
    """Write a set with planted tastes or causes in a known format, of any size, the same for a
    seed.
    """
    from recsys_spark.datasets.generators import playlists as mpd
    from recsys_spark.datasets.generators import trivago, twitter

    if like == "spotify-mpd":
        mpd.generate(Path(to), playlists=playlists, tracks=tracks, challenge=challenge, seed=seed)
    elif like == "trivago":
        trivago.generate(Path(to), sessions=sessions, items=items, seed=seed)
    elif like == "twitter":
        twitter.generate(Path(to), tweets=tweets, users=users, seed=seed)
    elif like == "ml-1m":
        _movielens(to, users, items, ratings, seed)
    else:
        raise ConfigError(
            "--like",
            found=repr(like),
            expected="one of ml-1m, spotify-mpd, trivago, twitter",
            remedy="name one",
        )
    screen().print(f"wrote {to}")


def _movielens(to: str, users: int, items: int, ratings: int, seed: int) -> None:
    from recsys_spark.datasets.generators import synthetic
    from recsys_spark.lake import session
    from recsys_spark.pipeline.context import SparkSettings

    spark = session.session(SparkSettings(), "recsys_spark generate")
    synthetic.generate(spark, Path(to), users=users, items=items, ratings=ratings, seed=seed)
