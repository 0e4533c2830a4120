"""The scorer: record batches in and out, cold queries, artefacts that are broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys_spark.batches import registry as batches
from recsys_spark.batches.base import Ragged
from recsys_spark.batches.query import Query
from recsys_spark.core import artifacts
from recsys_spark.core.contracts import Feature, Index
from recsys_spark.core.errors import CheckpointError, RecsysError
from recsys_spark.models import registry, store
from recsys_spark.models.base import Sizes
from recsys_spark.scoring import queries, worker
from recsys_spark.scoring.scorer import load
from recsys_spark.scoring.worker import Settings, predict_batches, rank_batches
from tests.models import worlds

FACTORS = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [-1, 0]], dtype=np.float32)  # items 1..4
POPULARITY = np.array([0, 3, 9, 1, 5], dtype=np.float32)


def dot_folder(folder: Path, **facts: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "items.npy", FACTORS)
    np.save(folder / "bias.npy", np.array([0, 0, 0, -5, 0], dtype=np.float32))
    np.save(folder / "fallback.npy", POPULARITY)
    index = Index(
        **{
            "kind": "dot",
            "model": "als",
            "num_items": 4,
            "dim": 2,
            "items": "items.npy",
            "queries": "queries",
            "fallback_scores": "fallback.npy",
        }
        | facts
    )
    artifacts.write_model(folder / "index.json", index)
    return folder


def batch_of(
    users: list[int],
    history: list[list[int] | None],
    vectors: list[list[float] | None] | None = None,
    **more: Any,
) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        "query_idx": pa.array(users, pa.int32()),
        "history": pa.array(history, pa.list_(pa.int32())),
    }
    if vectors is not None:
        columns["vector"] = pa.array(vectors, pa.list_(pa.float32()))
    return pa.RecordBatch.from_pydict(columns | more)


def test_vectors_rank_and_cold_queries_get_the_most_popular(tmp_path: Path) -> None:
    made = load(dot_folder(tmp_path), k=2, seed=1)
    found = made.rank(batch_of([7, 8, 9, 5], [[3], None, [2], []], [[2, 1], None, [-1, 0], [0, 1]]))
    assert found.column("query_idx").to_pylist() == [7, 8, 9, 5]
    assert found.column("item_idx").to_pylist()[:3] == [
        [1, 2],
        [2, 4],
        [4, found.column("item_idx")[2].as_py()[1]],
    ]
    assert (
        found.column("score").to_pylist()[:2] == [[2.0, 1.0], [9.0, 5.0]]
        and found.column("score")[2].as_py()[0] == 1.0
    )
    assert set(found.column("item_idx")[3].as_py()) == {2, 3}
    assert found.column("cold").to_pylist() == [False, True, False, False]
    assert found.schema.field("item_idx").type == pa.list_(pa.int32()) and found.schema.field(
        "score"
    ).type == pa.list_(pa.float32())


def test_a_list_may_have_what_was_met_where_seen_says_so(tmp_path: Path) -> None:
    """Warm and cold: the history is still read, `seen` alone is left out."""
    made = load(dot_folder(tmp_path), k=2, seed=1)
    met, vectors = [[2], [2]], [[0.5, 1], None]
    rows = made.rank(batch_of([1, 2], met, vectors))
    assert rows.column("item_idx").to_pylist() == [[3, 1], [4, 1]]
    seen = pa.array([[], [4]], pa.list_(pa.int32()))
    rows = made.rank(batch_of([1, 2], met, vectors, seen=seen))
    assert rows.column("item_idx").to_pylist() == [[3, 2], [2, 1]]


def test_a_batch_of_cold_queries_alone(tmp_path: Path) -> None:
    found = load(dot_folder(tmp_path), k=2, seed=1).rank(batch_of([1, 2], [[2], []], [None, None]))
    assert found.column("item_idx").to_pylist() == [[4, 1], [2, 4]] and found.column(
        "cold"
    ).to_pylist() == [True, True]


def test_a_list_ends_with_the_catalogue(tmp_path: Path) -> None:
    found = load(dot_folder(tmp_path), k=10, seed=1).rank(
        batch_of([1, 2], [[1, 2, 3, 4], [1, 2]], [[1, 1], [1, 2]])
    )
    assert found.column("item_idx").to_pylist() == [[], [3, 4]] and found.column(
        "score"
    ).to_pylist() == [[], [3.0, -1.0]]


def test_one_constant_vector_serves_every_query(tmp_path: Path) -> None:
    folder = dot_folder(
        tmp_path, queries="", constant=(1.0, 2.0), bias="bias.npy", model="popularity"
    )
    found = load(folder, k=2, seed=1).rank(batch_of([1, 2], [[], [2]]))
    # Item 3: 3 - 5
    assert found.column("item_idx").to_pylist() == [[2, 1], [1, 4]] and not any(
        found.column("cold").to_pylist()
    )


@pytest.mark.parametrize("constant", [(), (1.0, 2.0)])
def test_items_younger_than_the_catalogue_are_as_if_they_were_not_there(
    tmp_path: Path, constant: tuple[float, ...]
) -> None:
    """In a history, in what is left out, and among candidates; warm, cold and folded in alike."""
    facts = {"constant": constant, "queries": ""} if constant else {}
    index = load(dot_folder(tmp_path, **facts), k=2, seed=1)
    vectors = None if constant else [[2, 1], None]
    plain = index.rank(batch_of([7, 8], [[3], [2]], vectors))
    seen = pa.array([[3, 9], [5, 2]], pa.list_(pa.int32()))
    assert index.rank(batch_of([7, 8], [[9, 3], [2, 5]], vectors)) == plain
    assert index.rank(batch_of([7, 8], [[9, 3], [2, 5]], vectors, seen=seen)) == plain
    offered = pa.array([[4, 9, 1], [5]], pa.list_(pa.int32()))
    ranked = index.rank(batch_of([7, 8], [[3], [2]], vectors, candidates=offered))
    assert ranked.column("item_idx").to_pylist() == [[1, 4], []]


def test_predictions_of_an_index(tmp_path: Path) -> None:
    """vector . item + bias, clamped; without a vector what the fallback says of the item; unknown
    items are item 0.
    """
    made = load(dot_folder(tmp_path, bias="bias.npy", low=-1.0, high=4.0), k=1, seed=0)
    rows = {
        "query_idx": pa.array([1, 1, 2, 1, 1], pa.int32()),
        "item_idx": pa.array([1, 3, 4, 4, 99], pa.int32()),
        "vector": pa.array([[2, 1], [2, 1.5], None, [1, 0], [2, 1]], pa.list_(pa.float32())),
    }
    found = made.predict(pa.RecordBatch.from_pydict(rows)).to_pylist()
    assert found == [2.0, -1.0, 4.0, -1.0, 0.0]  # 2; 3.5 - 5 = -1.5; popularity 5; -1; zero vector


def test_candidates_of_an_index_are_all_ranked_seen_or_not(tmp_path: Path) -> None:
    batch = batch_of(
        [7, 8, 9, 5],
        [[3, 1], None, [2], []],
        [[2, 1], None, [-1, 0], [1, 1]],
        candidates=pa.array([[1, 3, 4], [4, 2], [], [2, 4, 1]], pa.list_(pa.int32())),
    )
    found = load(dot_folder(tmp_path), k=1, seed=1).rank(batch)
    assert (
        found.column("item_idx").to_pylist()[:3] == [[3, 1, 4], [2, 4], []]
        and found.column("item_idx")[3].as_py()[2] == 4
    )
    # 8 is cold: the fallback
    assert found.column("score").to_pylist() == [
        [3.0, 2.0, -2.0],
        [9.0, 5.0],
        [],
        [1.0, 1.0, -1.0],
    ]
    assert found.column("cold").to_pylist() == [False, True, False, False]
    biased = load(dot_folder(tmp_path, bias="bias.npy"), k=1, seed=1).rank(batch)
    assert biased.column("score")[0].as_py() == [2.0, -2.0, -2.0] and set(
        biased.column("item_idx")[0].as_py()[1:]
    ) == {3, 4}


def test_equal_candidates_tie_by_hash_wherever_they_stand(tmp_path: Path) -> None:
    """300 items with one and the same vector: equal scores to the last bit, so that a tie is seen
    as one; each query in its own order.
    """
    folder = dot_folder(tmp_path, num_items=300, dim=37, fallback_scores="")
    row = np.random.default_rng(2).normal(size=37).astype(np.float32)
    np.save(folder / "items.npy", np.vstack([np.zeros_like(row)] + 300 * [row]))
    offered = [list(range(1, 301)), list(range(300, 0, -1)), list(range(1, 300))]
    vectors = np.random.default_rng(3).normal(size=(2, 37)).astype(np.float32).tolist()
    found = load(folder, k=1, seed=4).rank(
        batch_of(
            [1, 1, 2],
            [[], [], []],
            [vectors[0], vectors[0], vectors[1]],
            candidates=pa.array(offered, pa.list_(pa.int32())),
        )
    )
    items, scores = found.column("item_idx").to_pylist(), found.column("score").to_pylist()
    assert all(len(set(one)) == 1 for one in scores)
    assert items[0] == items[1] != items[2] and [sorted(one) for one in items] == [
        sorted(one) for one in offered
    ]


@pytest.mark.parametrize(
    "name", [name for name in registry.names() if registry.find(name).by_of({}) == "user"]
)
def test_a_checkpoint_ranks_as_its_model_scores(tmp_path: Path, name: str) -> None:
    model = registry.build(
        name, {}, Sizes(6, 30, worlds.SIZES.statistics, worlds.FIELDS[-1:]), seed=3
    ).eval()
    store.save(tmp_path / "checkpoint", model, name)
    np.save(tmp_path / "popularity.npy", np.arange(31, dtype=np.float32))
    made = load(tmp_path / "checkpoint", k=3, seed=1, fallback=tmp_path / "popularity.npy")
    history = [[1, 2, 3], [30], [], [4]]
    with torch.inference_mode():
        found = made.rank(batch_of([1, 6, 2, 9], history))  # 9: numbered after the training
        lists = Ragged(torch.tensor([0, 3, 4]), torch.tensor([1, 2, 3, 30], dtype=torch.int32))
        scores = model.score(Query(torch.tensor([1, 6], dtype=torch.int32), lists))
    scores = scores.clone()
    # A profile is all that a model of profiles needs, also of a user who came after its training.
    reads_history = batches.find(model.layout).by_history
    assert found.column("cold").to_pylist() == [False, False, True, not reads_history]
    cold = found.column("item_idx").to_pylist()[2 : 3 if reads_history else 4]
    assert all(items == [30, 29, 28] for items in cold)
    offered = pa.array([[3, 30, 7], [30, 1, 2, 29], [1, 30], [2]], pa.list_(pa.int32()))
    with torch.inference_mode():
        ranked = made.rank(batch_of([1, 6, 2, 9], history, candidates=offered))
    assert ranked.column("item_idx").to_pylist()[2:] == [[30, 1], [2]]
    if reads_history:
        unknown = Query(torch.tensor([0], dtype=torch.int32), worlds.ragged([[4]]))
        with torch.inference_mode():
            best = model.score(unknown)[0].clone()
        best = best.clone()
        best[[0, 4]] = -torch.inf
        assert found.column("score")[3].as_py() == pytest.approx(best.topk(3).values.tolist())
    for row in (0, 1):
        items, given = ranked.column("item_idx")[row].as_py(), ranked.column("score")[row].as_py()
        assert sorted(items) == sorted(offered[row].as_py()) and given == sorted(
            given, reverse=True
        )
        assert given == pytest.approx(scores[row, items].tolist(), abs=1e-5)
    for row in (0, 1):
        scores[row, [0, *history[row]]] = -torch.inf
        assert found.column("score")[row].as_py() == pytest.approx(
            scores[row].topk(3).values.tolist()
        )
        assert [
            scores[row, i].item() for i in found.column("item_idx")[row].as_py()
        ] == pytest.approx(found.column("score")[row].as_py())


def test_candidates_are_scored_as_the_events_that_they_would_be(tmp_path: Path) -> None:
    """By a model that reads the place in the list: an item of a shown list is worth its place, also
    to a query that the model does not know. Without fields the places play no part.
    """
    shown = Feature(name="shown", side="event", kind="number", mean=2.0, std=0.5)
    sizes = Sizes(6, 30, worlds.SIZES.statistics, (shown,))
    model = registry.build("logistic", {}, sizes, seed=3).eval()
    with torch.no_grad():
        model.table.table.weight.zero_()
        model.table.table.weight[model.fields.start["shown"] + 1] = -1.0
        model.w0.zero_()
    store.save(tmp_path / "checkpoint", model, "logistic")
    made = load(tmp_path / "checkpoint", k=2, seed=1)
    offered = pa.array([[9, 30, 7], [5, 3]], pa.list_(pa.int32()))
    places = pa.array([[1.0, 2.0, 3.0], [4.0, None]], pa.list_(pa.float64()))
    fields = {"candidates": offered, "candidates_event_shown": places}
    with torch.inference_mode():
        found = made.rank(batch_of([1, 9], [[4], []], **fields))
        plain = made.rank(batch_of([1, 9], [[4], []], candidates=offered))
    assert found.column("item_idx").to_pylist() == [[9, 30, 7], [3, 5]]
    # Of places 1, 2, 3 and 4 (standardised -2, 0, 2 and 4); one that is unknown adds nothing
    expected = [[1 / (1 + np.exp(z)) for z in row] for row in ([-2, 0, 2], [0, 4])]
    for row, scores in enumerate(expected):
        assert found.column("score")[row].as_py() == pytest.approx(scores)
    assert found.column("cold").to_pylist() == [False, False]
    assert plain.column("score")[0].as_py() == [0.0] * 3
    assert plain.column("cold").to_pylist() == [False, True]


def test_rows_of_the_answer_do_not_depend_on_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = registry.build("multi_vae", {}, Sizes(40, 60), seed=3).eval()
    store.save(tmp_path, model, "multi_vae")
    draw = np.random.default_rng(0)
    batch = batch_of(
        list(range(1, 41)),
        [
            (draw.choice(60, int(draw.integers(0, 9)), replace=False) + 1).tolist()
            for _ in range(40)
        ],
    )
    made = load(tmp_path, k=5, seed=1)
    with torch.inference_mode():
        whole = made.rank(batch)
        monkeypatch.setattr(queries, "CELLS", 200)
        assert made.rank(batch).column("item_idx").equals(whole.column("item_idx"))


def test_a_worker_hands_columns_through_and_keeps_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_loaded", {})
    threads = torch.get_num_threads()
    folder = dot_folder(tmp_path)
    batch = batch_of(
        [7, 8],
        [[3], None],
        [[2, 1], None],
        user_id=pa.array(["a", "b"]),
        item_idx=pa.array([2, 2], pa.int32()),
    )
    try:
        found = list(
            rank_batches(Settings(str(folder), 1, 1, passed=("user_id",)), iter([batch, batch]))
        )
        assert [one.schema.names for one in found] == [
            ["user_id", "item_idx", "score", "cold", "folded"]
        ] * 2
        (folder / "items.npy").unlink()  # the model is read once in a process
        again = list(rank_batches(Settings(str(folder), 1, 1, passed=("user_id",)), iter([batch])))
        assert again[0].equals(found[0]) and found[0].column("item_idx").to_pylist() == [[1], [2]]
        with pytest.raises(CheckpointError):
            list(rank_batches(Settings(str(folder), 2, 1), iter([batch])))
        dot_folder(tmp_path)
        (predicted,) = predict_batches(
            Settings(str(folder), 1, 1, passed=("user_id",)), iter([batch])
        )
        assert predicted.to_pydict() == {"user_id": ["a", "b"], "prediction": [1.0, 9.0]}
    finally:
        torch.set_num_threads(threads)


def cut(folder: Path) -> None:
    path = folder / "items.npy"
    path.write_bytes(path.read_bytes()[:100])


def other_shape(folder: Path) -> None:
    np.save(folder / "items.npy", FACTORS[:3])


def missing(folder: Path) -> None:
    (folder / "fallback.npy").unlink()


def unknown_key(folder: Path) -> None:
    facts = json.loads((folder / "index.json").read_text()) | {"kernel": "rbf"}
    (folder / "index.json").write_text(json.dumps(facts))


def nothing(folder: Path) -> None:
    (folder / "index.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, r"items\.npy: found .*; expected float32 of shape \(5, 2\)\. To mend: run the step"),
        (
            other_shape,
            r"items\.npy: found float32 of shape \(3, 2\); expected float32 of shape \(5, 2\)\. "
            r"To mend: run the step",
        ),
        (
            missing,
            r"fallback\.npy: found .*No such file.*; expected float32 of shape \(5,\)\. To mend: "
            r"run the step",
        ),
        (unknown_key, r"index\.json, kernel: found 'rbf'; expected .*\. To mend: run the step"),
        (
            nothing,
            r"found neither index\.json nor model\.json; expected an index or a checkpoint\. To "
            r"mend: run the training step",
        ),
    ],
)
def test_a_spoilt_index_is_named(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = dot_folder(tmp_path)
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load(folder, k=3, seed=0)


def test_vectors_of_another_width_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        RecsysError,
        match=r"vectors of als: found 3 numbers for 1 queries; expected 2 each\. To mend: ",
    ):
        load(dot_folder(tmp_path), k=1, seed=0).rank(batch_of([1], [[]], [[1, 2, 3]]))


def test_a_catalogue_scored_by_a_network_leaves_no_gaps_behind() -> None:
    """Blocks of 8 MB whose results are kept between them once left gaps that fitted no other block:
    400 MB here, 9 GB in a training.
    """
    code = """if True:
        import resource, torch
        from recsys_spark.nn.tower import HalvingTower, over_pairs
        torch.set_num_threads(1)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        before = peak()
        with torch.no_grad():
            for _ in range(2):
                tower, users = HalvingTower(64, 3), torch.ones(512, 256)
                over_pairs(tower, users, torch.ones(2000, 256), torch.ones(64))
        print(peak() - before)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200, "megabytes"
