"""Losses of next-item models, against sums worked by hand or by torch's own functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from recsys_spark.nn.objectives import binary, softmax

NONE = torch.zeros(1, 1, dtype=torch.bool)


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    monkeypatch.setattr(softmax, "ROWS", 1)


@pytest.mark.parametrize("cells", [1, 30, 10_000])
def test_full_cross_entropy_is_torchs_in_blocks_of_any_size(cells: int) -> None:
    """Of one row, of three and of all; so are its gradients, times what comes from behind."""
    target = torch.tensor([0, 9, 4, 4, 0, 7, 2])
    values = []
    for loss in (
        lambda h, w: softmax.cross_entropy(h, w, target, cells),
        lambda h, w: F.cross_entropy(h @ w.T, target, reduction="sum"),
    ):
        torch.manual_seed(4)
        h, w = doubles(7, 3).requires_grad_(), doubles(10, 3).requires_grad_()
        total = loss(h, w)
        (0.7 * total).backward()
        values.append((total.detach(), h.grad, w.grad))
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_softmax_is_over_items() -> None:
    """Two targets, three items, by hand; over the other axis the shares would be 1/2 and 3/4."""
    h = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    w = torch.tensor([[0.0], [math.log(2)], [math.log(3)]], dtype=torch.float64)
    total = softmax.cross_entropy(h, w, torch.tensor([2, 1]))
    assert float(total) == pytest.approx(-math.log(3 / 6) - math.log(1 / 3), rel=1e-12)


def test_full_cross_entropy_holds_no_more_scores_than_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory for scores is taken once, for a block."""
    sizes: list[int] = []
    product = torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        made = product(a, b, **more)
        sizes.append(made.numel())
        return made

    monkeypatch.setattr(torch, "mm", watched)
    h = torch.randn(100, 4).requires_grad_()
    softmax.cross_entropy(h, torch.randn(50, 4), torch.zeros(100, dtype=torch.int64), 200)
    assert max(sizes) == 200 and len(sizes) == 50  # 4 rows of scores, then of their gradients


def test_large_scores_do_not_overflow() -> None:
    h = torch.tensor([[300.0], [-300.0]])
    total = softmax.cross_entropy(h, torch.tensor([[1.0], [0.0]]), torch.tensor([0, 0]))
    assert float(total) == pytest.approx(300.0)


def test_sampled_softmax_estimates_the_full_one() -> None:
    """The exponentials of what was drawn, each over how often it was expected, sum to those of all
    items but the target: here over every possible sample of two draws, each with its probability.
    """
    scores, share = doubles(4), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    target = 1
    expected = torch.zeros((), dtype=torch.float64)
    for one in range(4):
        for two in range(4):
            drawn = torch.tensor([one, two])
            loss = softmax.sampled(
                scores[[target]],
                scores[drawn][None],
                (2 * share[drawn]).log(),
                (drawn == target)[None],
            )
            partition = (loss + scores[target]).exp() - scores[target].exp()
            expected += share[one] * share[two] * partition
    others = scores.exp().sum() - scores[target].exp()
    assert float(expected) == pytest.approx(float(others), rel=1e-12)


def test_a_hit_does_not_compete_with_itself() -> None:
    positive, negative = torch.tensor([2.0]), torch.tensor([[2.0, 0.5]])
    hit = torch.tensor([[True, False]])
    by_hand = math.log(math.exp(2) + math.exp(0.5)) - 2
    assert float(softmax.sampled(positive, negative, torch.zeros(2), hit)) == pytest.approx(by_hand)
    by_hand = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(0.5))
    assert float(binary.cross_entropy(positive, negative, hit)) == pytest.approx(by_hand)


def test_exponent_of_gbce() -> None:
    """By the paper's formula: 256 of 3,415 sampled."""
    alpha = 256 / 3415
    assert binary.exponent(256, 3415, 0.0) == 1.0
    assert binary.exponent(256, 3415, 1.0) == pytest.approx(alpha, rel=1e-15)
    assert binary.exponent(256, 3415, 0.75) == pytest.approx(
        alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha), rel=1e-15
    )
    assert binary.exponent(9, 3, 1.0) == 1.0, "no more than all of them"


@pytest.mark.parametrize(
    ("calibration", "fitted"),
    [(1.0, lambda p, alpha: p), (0.0, lambda p, alpha: p / (p + alpha * (1 - p)))],
)
def test_gbce_recovers_the_odds_that_sampled_bce_inflates(calibration: float, fitted) -> None:
    """Four items, one negative of three: the gradient of the loss that is expected over targets and
    draws is zero where the probabilities are true, or too high by the share that is sampled.
    """
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    beta = binary.exponent(1, 3, calibration)
    scores = torch.logit(fitted(p, 1 / 3)).requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for target in range(4):
        for other in set(range(4)) - {target}:
            drawn = binary.cross_entropy(scores[[target]], scores[[other]][None], NONE, beta)
            loss = loss + p[target] / 3 * drawn
    loss.backward()
    assert scores.grad is not None and scores.grad.abs().max() < 1e-15
