"""Cache of facts computed from the bytes of files, valid while a file is unchanged: a raw folder of
any size is read once, not at each start.

A file counts as unchanged while its path, size, modification time (ns) and inode are unchanged:
other content of the same length with a reset time is not detected. Delete the cache file to have
everything read again.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Sequence

from recsys_spark.core import artifacts, log

logger = log.get(__name__)
FILE = "raw-files.json"  # in the folder of the runs
# A file modified less than this before it was read may change again with the same modification time
SETTLED_NS = 2_000_000_000


def facts(
    paths: Sequence[Path], name: str, compute: Callable[[Path], str], runs: Path | None
) -> list[str]:
    """`compute(path)` of each file, or its value under `name` in the cache in the folder `runs`
    (None: no cache). Files are read in parallel.
    """
    cached = _load(runs)
    keys = [f"{name} {os.path.abspath(path)}" for path in paths]
    states = [_state(path) for path in paths]
    missing = [
        place
        for place, (key, state) in enumerate(zip(keys, states, strict=True))
        if cached.get(key, {}).get("state") != state
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        computed = dict(
            zip(missing, pool.map(compute, [paths[place] for place in missing]), strict=True)
        )
    now = time.time_ns()
    settled = {
        keys[place]: {"state": states[place], "value": value}
        for place, value in computed.items()
        if now - states[place][1] > SETTLED_NS and _state(paths[place]) == states[place]
    }
    if runs is not None and settled:
        runs.mkdir(parents=True, exist_ok=True)
        artifacts.write_text(runs / FILE, json.dumps(_load(runs) | settled, indent=1) + "\n")
    return [
        computed[place] if place in computed else str(cached[key]["value"])
        for place, key in enumerate(keys)
    ]


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _load(runs: Path | None) -> dict[str, dict]:
    if runs is None or not (runs / FILE).exists():
        return {}
    try:
        return dict(json.loads((runs / FILE).read_text(encoding="utf-8")))
    except ValueError as problem:
        logger.warning(log.fields(event="cache_unreadable", file=runs / FILE, problem=problem))
        return {}
