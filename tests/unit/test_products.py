"""Similarities, weights, blocked products and sparse files, without Spark: by hand, and against
dense numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys_spark.baselines import ease
from recsys_spark.baselines.fitting.artifact import Csr
from recsys_spark.baselines.neighbours import matrix, nearest, products, similarity, weighting
from recsys_spark.baselines.neighbours.similarity import Similarity


def files(folder: Path, name: str, dense: np.ndarray) -> Csr:
    made = Csr(*(folder / f"{name}.{part}.npy" for part in Csr._fields))
    rows, columns = dense.nonzero()
    np.save(made.indptr, np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(dense)))]))
    np.save(made.indices, columns.astype(np.int32))
    np.save(made.data, dense[rows, columns].astype(np.float32))
    return made


def dense_of(made: matrix.Mapped, columns: int) -> np.ndarray:
    found = np.zeros((len(made.indptr) - 1, columns))
    found[np.repeat(np.arange(len(found)), made.lengths), made.indices] = made.data
    return found


def drawn(rows: int, columns: int, seed: int = 0, values: bool = True) -> np.ndarray:
    draw = np.random.default_rng(seed)
    made = draw.integers(1, 6, (rows, columns)) * (draw.random((rows, columns)) < 0.3)
    made[0] = made[:, 0] = 0
    return (made if values else made > 0).astype(np.float64)


def weighted_by_hand(dense: np.ndarray, config: Similarity) -> np.ndarray:
    """One entry at a time, as the formulas are written."""
    rows = (dense > 0).any(axis=1).sum()
    mean = dense.sum() / rows
    made = np.zeros_like(dense)
    for r, c in zip(*dense.nonzero(), strict=True):
        value, idf = dense[r, c], np.log((rows + 1) / ((dense[:, c] > 0).sum() + 1))
        if config.weighting == "tf_idf":
            made[r, c] = np.sqrt(value) * idf
        elif config.weighting == "bm25":
            made[r, c] = (
                value
                * (config.k1 + 1)
                / (value + config.k1 * (1 - config.b + config.b * dense[r].sum() / mean))
                * idf
            )
        else:
            made[r, c] = value
    return made


def similarities_by_hand(dense: np.ndarray, config: Similarity) -> np.ndarray:
    product = dense @ dense.T
    own, other = np.diag(product)[:, None], np.diag(product)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        if config.similarity == "cosine":
            made = product / (
                np.sqrt(own) ** (2 * config.alpha) * np.sqrt(other) ** (2 - 2 * config.alpha)
                + config.shrink
            )
        elif config.similarity == "jaccard":
            made = product / (own + other - product + config.shrink)
        else:
            made = product
    made = np.nan_to_num(made) ** config.exponent
    np.fill_diagonal(made, 0)
    return made


def nearest_by_hand(dense: np.ndarray, config: Similarity) -> dict[int, dict[int, float]]:
    lists = {}
    for row, values in enumerate(similarities_by_hand(weighted_by_hand(dense, config), config)):
        best = sorted(
            (-round(value, 9), column, value) for column, value in enumerate(values) if value > 0
        )[: config.neighbours]
        if best:
            lists[row] = {
                column: value for _, column, value in sorted(best, key=lambda one: one[1])
            }
    return lists


SETTINGS = [
    Similarity(neighbours=4),
    Similarity(neighbours=3, shrink=2.5, alpha=0.3, values=True),
    Similarity(similarity="jaccard", neighbours=5),
    Similarity(weighting="bm25", similarity="dot", neighbours=4, values=True, k1=0.9, b=0.4),
    Similarity(weighting="tf_idf", exponent=2.0, neighbours=99, values=True),
    Similarity(weighting="bm25", similarity="jaccard", shrink=1.0),
]


@pytest.mark.parametrize(
    "config", SETTINGS, ids=lambda config: f"{config.weighting}-{config.similarity}"
)
def test_the_nearest_rows_are_those_of_the_dense_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Similarity
) -> None:
    """Also when rows come in several blocks, and when the right side is too large for one piece."""
    dense = drawn(23, 31, values=config.values)
    made = weighting.weighted(
        files(tmp_path, "rows", dense), files(tmp_path, "columns", dense.T), config
    )
    assert np.load(made.norms) == pytest.approx((weighted_by_hand(dense, config) ** 2).sum(axis=1))
    expected = nearest_by_hand(dense, config)
    found = [listed(nearest._lists(made, config, 0, 23))]
    monkeypatch.setattr(products, "CELLS", 50)
    monkeypatch.setattr(products, "CHUNK", 40)
    monkeypatch.setattr(products, "INDEX_LIMIT", 30)
    found.append(
        listed(
            batch
            for first, last in ((0, 7), (7, 8), (8, 23))
            for batch in nearest._lists(made, config, first, last)
        )
    )
    for lists in found:
        assert lists.keys() == expected.keys()
        assert all(lists[row].keys() == expected[row].keys() for row in expected)
        assert all(lists[row] == pytest.approx(expected[row], rel=1e-6) for row in expected)


def listed(batches: object) -> dict[int, dict[int, float]]:
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert len({row["row"] for row in rows}) == len(rows)
    return {row["row"]: dict(zip(row["rows"], row["weights"], strict=True)) for row in rows}


def test_similarities_by_hand() -> None:
    """Two rows of 4 and 9 entries share 3."""

    def one(**settings: object) -> float:
        return float(
            similarity.of_products(
                Similarity(**settings), np.array([3.0]), np.array([4.0]), np.array([9.0])
            )[0]
        )

    assert (
        one() == pytest.approx(3 / 6)
        and one(shrink=2) == pytest.approx(3 / 8)
        and one(exponent=2) == pytest.approx(1 / 4)
    )
    assert one(alpha=1.0) == pytest.approx(3 / 4) and one(alpha=0.0) == pytest.approx(3 / 9)
    assert one(similarity="jaccard") == pytest.approx(3 / 10) and one(similarity="dot") == 3.0


def test_of_equally_near_rows_the_lower_stays() -> None:
    values, columns = (
        np.array([1.0, 2.0, 1.0, 1.0, -1.0, 3.0]),
        np.array([9, 4, 2, 5, 1, 7], dtype=np.int32),
    )
    (row,) = nearest._best(7, np.array([0, 6]), columns, values, 3).to_pylist()
    # 7 is the row itself, 1 is not alike, 9 is one too many
    assert row == {
        "row": 7,
        "rows": [2, 4, 5],
        "weights": [1.0, 2.0, 1.0],
    }
    assert nearest._best(7, np.array([0, 1, 1]), columns[5:], values[5:], 3).num_rows == 0


def test_work_and_blocks_of_a_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = drawn(9, 14, seed=1), drawn(14, 20, seed=2)
    product = products.Product(files(tmp_path, "left", left), files(tmp_path, "right", right), 20)
    assert product.work().tolist() == ((left > 0) @ (right > 0).sum(axis=1)).tolist()
    for cells in (1, 30, 1000):
        monkeypatch.setattr(products, "CELLS", cells)
        blocks = list(product.blocks(2, 9))
        assert [first for first, _ in blocks] == sorted({first for first, _ in blocks}) and blocks[
            0
        ][0] == 2
        assert (
            np.concatenate([block.toarray() for _, block in blocks]).tolist()
            == (left @ right)[2:].tolist()
        )
        assert all(block.nnz <= cells or block.shape[0] == 1 for _, block in blocks)


@pytest.mark.parametrize("cut", [1, 2, 7, 100])
@pytest.mark.parametrize("binary", [False, True])
def test_pieces_are_strung_together(tmp_path: Path, cut: int, binary: bool) -> None:
    """Two matrices in ranges of 3 and 2 rows; entries of one place are added up, also over the end
    of a batch.
    """
    rows, columns = np.array([1, 1, 1, 2, 5, 5, 8, 8, 8]), np.array([2, 2, 4, 1, 3, 3, 1, 1, 1])
    values = np.arange(1, 10, dtype=np.float32)
    turned = np.lexsort((rows, columns))
    table = pa.Table.from_batches(
        [
            batch(rows // 3, rows, columns, values),
            batch(10 + columns[turned] // 2, columns[turned], rows[turned], values[turned]),
        ]
    )
    batches = table.combine_chunks().to_batches(max_chunksize=cut)
    found = pa.Table.from_batches(
        matrix._write_pieces(batches, folder=tmp_path, ranges=10, widths=[3, 2], binary=binary)
    )
    names = {piece["piece"]: piece["name"] for piece in found.to_pylist()}
    expected = np.zeros((9, 5))
    np.add.at(expected, (rows, columns), values)
    expected = np.sign(expected) if binary else expected
    first = matrix.mapped(
        matrix._joined(tmp_path, "first", [names.get(i) for i in range(10)], 3, 9)
    )
    second = matrix.mapped(
        matrix._joined(tmp_path, "second", [names.get(10 + i) for i in range(10)], 2, 5)
    )
    assert (
        dense_of(first, 5).tolist() == expected.tolist()
        and dense_of(second, 9).tolist() == expected.T.tolist()
    )
    assert (first.indptr.dtype, first.indices.dtype, first.data.dtype) == (
        np.int64,
        np.int32,
        np.float32,
    )
    assert (
        sorted(file.name.split(".")[0] for file in tmp_path.iterdir())
        == ["first"] * 3 + ["second"] * 3
    )


def batch(
    pieces: np.ndarray, rows: np.ndarray, columns: np.ndarray, values: np.ndarray
) -> pa.RecordBatch:
    numbers = [pa.array(array.astype(np.int32)) for array in (pieces, rows, columns)]
    return pa.RecordBatch.from_arrays(
        [*numbers, pa.array(values)], names=["_piece", "row", "column", "entry"]
    )


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_ease_is_the_closed_form(monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    monkeypatch.setattr(products, "CELLS", 60)  # several blocks
    dense = drawn(40, 18)[1:, 1:]
    gram = dense.T @ dense
    inverse = np.linalg.inv(gram + np.diag(3.0 + dropout / (1 - dropout) * np.diag(gram)))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    ease.solve(gram, ease.Config(l2=3.0, dropout=dropout))
    assert gram == pytest.approx(expected, rel=1e-9, abs=1e-12)
