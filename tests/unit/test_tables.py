"""Embedding tables: row 0 is nobody."""

from __future__ import annotations

import pytest
import torch

from recsys_spark.nn.tables import distinct, few_products, table


def test_row_0_is_zero_and_stays_zero():
    torch.manual_seed(1)
    made = table(400, 50, 0.1)
    assert made.weight.shape == (401, 50)
    assert not made.weight[0].any() and made.weight[1:].all()
    assert abs(made.weight[1:].std().item() - 0.1) < 0.003
    made(torch.tensor([0, 3])).sum().backward()
    assert not made.weight.grad[0].any() and made.weight.grad[3].all()


@pytest.mark.parametrize("shape", [(50,), (50, 1), (20, 3), (0,), (0, 2)])
def test_rows_squares_and_gradients_are_those_of_torch(shape):
    """Against torch's own embedding, for the rows alone, their squares alone and both; indices
    repeat, 0 among them.
    """
    torch.manual_seed(2)
    made = table(9, 4, 1.0).double()
    index, factor = torch.randint(0, 10, shape), torch.randn(*shape, 4, dtype=torch.float64)
    for of_rows, of_square in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.3)):
        made.weight.grad = None
        rows, squares = made.with_squares(index)
        square = squares.sum()
        assert torch.equal(rows, made.weight[index]) and torch.equal(made(index.int()), rows)
        loss = sum(
            weight * part
            for weight, part in ((of_rows, (rows * factor).sum()), (of_square, square))
            if weight
        )
        loss.backward()
        weight = made.weight.detach().clone().requires_grad_()
        rows = torch.nn.functional.embedding(index, weight, 0)
        (of_rows * (rows * factor).sum() + of_square * rows.square().sum()).backward()
        torch.testing.assert_close(made.weight.grad, weight.grad, rtol=1e-12, atol=1e-12)
        assert square.item() == pytest.approx(rows.square().sum().item(), rel=1e-12)


def test_sums_are_the_same_whatever_the_number_of_threads():
    threads, gradients = torch.get_num_threads(), []
    torch.manual_seed(3)
    made, index = table(50, 16, 1.0), torch.randint(1, 51, (20_000,))
    # Another order of adding would show
    factor = torch.randn(20_000, 16) * torch.logspace(-4, 4, 20_000)[:, None]
    try:
        for number in (1, 2, 3, 1):
            torch.set_num_threads(number)
            made.weight.grad = None
            (made(index) * factor).sum().backward()
            gradients.append(made.weight.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize("high", [1, 10, 10_000])  # few different ones are marked, many are sorted
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_each_index_once_and_where_it_was(high: int, dtype: torch.dtype, rows: int):
    torch.manual_seed(3)
    index = torch.randint(0, high, (rows,), dtype=dtype)
    found = distinct(index)
    assert found.each.dtype == dtype and found.each.tolist() == sorted(set(index.tolist()))
    assert torch.equal(found.spread(found.each), index)


@pytest.mark.parametrize(("rows", "items", "dim"), [(5, 1, 3), (5, 2, 64), (5, 9, 64), (0, 2, 3)])
def test_few_products_are_those_of_torch(rows: int, items: int, dim: int) -> None:
    """Their gradient goes one way for a few numbers and another for more."""
    torch.manual_seed(3)
    ours, theirs = (
        [
            torch.randn(
                *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
            ).requires_grad_()
            for shape in ((rows, dim), (rows, items, dim))
        ]
        for _ in range(2)
    )
    found, expected = few_products(*ours), torch.einsum("bd,bcd->bc", *theirs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    factor = torch.randn(rows, items, dtype=torch.float64)
    (found * factor).sum().backward()
    (expected * factor).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("items", [2, 9])
def test_few_products_stay_float32_in_half_precision(items: int) -> None:
    torch.manual_seed(4)
    users, rows = (
        torch.randn(5, 64, requires_grad=True),
        torch.randn(5, items, 64, requires_grad=True),
    )
    made = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found = few_products(users, rows)
        made.append([found, *torch.autograd.grad(found.sum(), (users, rows))])
    assert all(torch.equal(full, half) for full, half in zip(*made, strict=True))
