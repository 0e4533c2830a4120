"""Training speed of neumf, bpr_mf and multi_vae on MovieLens-1M, beside RecBole's: examples per
second through the whole path.

    python -m tests.benchmarks.bench_train [--recbole PYTHON] [--json FILE]

Ours reads Parquet through Petastorm, draws negatives and trains, in one process and in two;
checkpoints and validation are not counted, as they are not for RecBole. Batches, widths, negatives
and threads are equal; each is the median of the epochs after the first. An example:

    neumf      a positive with its negative, two rows of a batch (64 factors; tower 256, 128, 64)
    bpr_mf     a positive with its negative (64 factors)
    multi_vae  a user's whole profile (600 hidden, 64 latent)

Ours is measured twice: in float32, as RecBole's is, and with `precision: medium`.

RecBole runs in the interpreter that --recbole names, one that has it installed; without it, ours
alone. Data: $RECSYS_DATA/ml-1m (every user's last two events left out), or users and items of that
number at random.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_spark.core.contracts import ShardSet
from recsys_spark.train.launcher import launch
from tests import shardsets, training
from tests.shardsets import Events

SIDE = Path(__file__).parent / "peers" / "recbole_train.py"
OURS: dict[str, dict[str, Any]] = {
    "neumf": {"dim": 64, "num_layers": 2, "num_negatives": 1},
    "bpr_mf": {"dim": 64, "num_negatives": 1, "l2": 0.0},
    "multi_vae": {"hidden_dim": 600, "latent_dim": 64},
}
LAYOUTS = {"neumf": "pointwise", "bpr_mf": "pairs", "multi_vae": "profile"}
# Multi_vae: RecBole counts mean and variance as one dimension
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "neumf": (
        "NeuMF",
        {
            "mf_embedding_size": 64,
            "mlp_embedding_size": 128,
            "mlp_hidden_size": [128, 64],
            "dropout_prob": 0.0,
        },
    ),
    "bpr_mf": ("BPR", {"embedding_size": 64}),
    "multi_vae": (
        "MultiVAE",
        {"mlp_hidden_size": [600], "latent_dimension": 128, "train_neg_sample_args": None},
    ),
}
# Rows: of neumf half are positives
BATCHES = {
    "neumf": (2048, 4096),
    "bpr_mf": (2048, 4096),
    "multi_vae": (256, 2048),
}


def interactions() -> tuple[Events, Events]:
    """(training events, the last but one of each user)."""
    raw = Path(os.environ.get("RECSYS_DATA", "data")) / "ml-1m" / "ratings.dat"
    if raw.exists():
        table = np.loadtxt(raw, delimiter=":", usecols=(0, 2, 6), dtype=np.int64)
        user, item, ts = table.T
        order = np.lexsort((item, ts, user))
        user, item = user[order], np.unique(item[order], return_inverse=True)[1] + 1
    else:
        rng = np.random.default_rng(1)
        user = np.repeat(np.arange(1, 6041), 165)
        item = rng.integers(1, 3707, len(user))
    events = Events(user.astype(np.int32), item.astype(np.int32), np.ones(len(user), np.float32))
    known, _ = shardsets.leave_last_out(events)
    return shardsets.leave_last_out(known)


def export(folder: Path, layout: str, train: Events, held: Events) -> ShardSet:
    """As export_shards would: rows dealt by chance over 64 virtual shards."""
    sizes = {
        "num_users": int(train.user.max()),
        "num_items": int(max(train.item.max(), held.item.max())),
        "row_group": 16384,
    }
    side = {"seen": train, "targets": held}
    if layout == "profile":
        starts = np.flatnonzero(np.append(True, train.user[1:] != train.user[:-1]))
        ends = np.append(starts, len(train.user)).astype(np.int32)
        sorted_items = train.item[np.lexsort((train.item, train.user))]
        items, ones = (
            pa.ListArray.from_arrays(ends, pa.array(each)) for each in (sorted_items, train.value)
        )
        rows, columns = (
            pa.table({"query_idx": train.user[starts], "item_idx": items, "value": ones}),
            shardsets.PROFILE,
        )
    else:
        rows = pa.table(
            {
                "query_idx": train.user,
                "item_idx": train.item,
                **({"label": train.value} if layout == "pointwise" else {}),
            }
        )
        columns = shardsets.POINTWISE if layout == "pointwise" else shardsets.PAIRS
    return shardsets.write(
        folder,
        layout,
        columns,
        {"train": shardsets.deal(rows, 64, 1)},
        side=side,
        labels=train.value if layout == "pointwise" else None,
        **sizes,
    )


def ours(
    scratch: Path,
    shards: Path,
    made: ShardSet,
    model: str,
    batch: int,
    workers: int,
    threads: int,
    epochs: int,
    precision: str = "float32",
) -> dict[str, Any]:
    rows = batch // 2 if model == "neumf" else batch
    job = training.job(
        scratch / f"{model}-{batch}-{workers}-{precision}",
        shards,
        made,
        model,
        num_workers=workers,
        dtype="float32",
        epochs=epochs,
        batch_size=rows,
        patience=epochs,
        precision=precision,
        reader={"engine": "petastorm"},
    )
    job = job.model_copy(
        update={
            "config": OURS[model],
            "workers": job.workers.model_copy(update={"threads": threads}),
        }
    )
    launch.launch(job)
    lines = [
        json.loads(line) for line in (Path(job.run_dir) / "metrics.jsonl").read_text().splitlines()
    ]
    scale = 0.5 if model == "neumf" else 1.0  # the loop counts a positive and its negative as two
    return {"rates": [scale * line["examples_per_s"] for line in lines[1:]]}


def theirs(
    python: str,
    scratch: Path,
    train: Events,
    held: Events,
    model: str,
    batch: int,
    threads: int,
    epochs: int,
) -> dict[str, Any]:
    pairs = scratch / "pairs.npz"
    # Two more events that it leaves out
    order = np.argsort(np.concatenate([train.user, held.user, held.user]), kind="stable")
    users, items = (np.concatenate([train[side], held[side], held[side]])[order] for side in (0, 1))
    np.savez(pairs, user=users, item=items)
    name, settings = THEIRS[model]
    job = {
        "pairs": str(pairs),
        "folder": str(scratch / "recbole"),
        "model": name,
        "threads": threads,
        "epochs": epochs - 1,
        "seconds": 20.0,
        "rows_per_example": 2 if model == "neumf" else 1,
        "settings": {"train_batch_size": batch, **settings},
    }
    (scratch / "recbole.json").write_text(json.dumps(job))
    done = subprocess.run(
        [python, str(SIDE), str(scratch / "recbole.json")],
        capture_output=True,
        text=True,
        cwd=scratch,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    if done.returncode:
        raise SystemExit(f"{python} {SIDE}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=list(OURS), choices=list(OURS))
    parser.add_argument("--recbole", help="an interpreter that has RecBole")
    parser.add_argument(
        "--threads", type=int, nargs="*", default=[1, 2], help="of one process; two have one each"
    )
    parser.add_argument("--epochs", type=int, default=4, help="the first is not counted")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    train, held = interactions()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for model in given.models:
            shards = scratch / LAYOUTS[model]
            made = export(shards, LAYOUTS[model], train, held)
            for batch in BATCHES[model]:
                for threads in given.threads:
                    told = {"model": model, "batch": batch, "threads": threads}
                    mine = ours(
                        scratch / str(threads), shards, made, model, batch, 1, threads, given.epochs
                    )
                    _tell(results, {**told, "what": "ours, one process"}, mine)
                    medium = ours(
                        scratch / str(threads),
                        shards,
                        made,
                        model,
                        batch,
                        1,
                        threads,
                        given.epochs,
                        "medium",
                    )
                    _tell(results, {**told, "what": "ours, one process, medium"}, medium)
                    if given.recbole:
                        its = theirs(
                            given.recbole, scratch, train, held, model, batch, threads, given.epochs
                        )
                        ratios = [
                            round(
                                statistics.median(each["rates"]) / statistics.median(its["rates"]),
                                2,
                            )
                            for each in (mine, medium)
                        ]
                        _tell(
                            results,
                            {
                                **told,
                                "what": "RecBole",
                                "ours_over_it": ratios[0],
                                "medium_over_it": ratios[1],
                            },
                            its,
                        )
                two = ours(scratch / "two", shards, made, model, batch, 2, 1, given.epochs)
                _tell(
                    results,
                    {"model": model, "batch": batch, "threads": 1, "what": "ours, two processes"},
                    two,
                )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


def _tell(results: list[dict[str, Any]], told: dict[str, Any], found: dict[str, Any]) -> None:
    rates = found["rates"]
    results.append(
        {
            **told,
            "examples_per_s": round(statistics.median(rates)),
            "spread": [round(min(rates)), round(max(rates))],
        }
    )
    print(json.dumps(results[-1]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
