"""fpmc by hand, and where both taste and order are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys_spark.models.base import Context, Sizes
from tests.models import order_worlds, worlds


def test_scores_by_hand() -> None:
    """A user's factors with V^{I,U}, and the mean of the last two items' with V^{I,L}; a user or an
    item that is not known adds nothing.
    """
    model: Any = worlds.stirred("fpmc", {"dim": 3, "basket": 2})
    with torch.no_grad():
        model.user.weight[0] = model.item.weight[0] = 0.0  # as they are in training
    query = worlds.Query(torch.tensor([4, 0, 5]).int(), worlds.ragged([[9, 7, 2], [6], [0]]))
    user, item, predicted = (
        table.weight.detach().numpy() for table in (model.user, model.item, model.predicted)
    )
    of_user, of_last = predicted[:, :3], predicted[:, 3:]
    expected = [
        of_user @ user[4] + of_last @ (item[7] + item[2]) / 2,
        of_last @ item[6],
        of_user @ user[5],
    ]
    np.testing.assert_allclose(model.score(query).detach().numpy(), expected, rtol=1e-12)


def test_s_bpr_by_hand() -> None:
    """-ln sigmoid of each target less each of its negatives; one that is the target counts not."""
    model: Any = worlds.stirred("fpmc", {"dim": 3, "num_negatives": 2})
    batch = worlds.batch("sequence")
    negative = torch.stack([batch.following.long(), batch.negative[:, 0]], 1)
    histories, total, entry = worlds.unragged(batch.items), 0.0, 0
    for user, history in zip(batch.user, histories, strict=True):
        for length in range(1, len(history) + 1):
            query = worlds.Query(user[None], worlds.ragged([history[:length]]))
            scores = model.score(query)[0].detach().numpy()
            target, other = int(batch.following[entry]), int(negative[entry, 1])
            if target and other != target:
                total += np.log1p(np.exp(scores[other] - scores[target]))
            entry += 1
    (term,) = worlds.terms(model, batch.beside(negative), Context()).values()
    assert float(term.sum.detach()) == pytest.approx(total, rel=1e-12)
    assert float(term.count) == (batch.following > 0).sum()


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_taste_and_order_are_both_needed(loss: str) -> None:
    """Hubs 1 to 6 are open to all; after hub h a user of taste t takes item 6 + 4 h + t - 4. The
    chain alone cannot tell four tastes apart, the taste alone not six hubs.
    """
    rng = np.random.default_rng(1)
    tastes = np.arange(80) % 4 + 1
    hubs = rng.integers(1, 7, (80, 12))
    histories = [
        [item for hub in row for item in (hub, 2 + 4 * hub + taste)]
        for row, taste in zip(hubs, tastes, strict=True)
    ]
    train = order_worlds.events(histories)
    config = {"dim": 16, "loss": loss, "num_negatives": 4}
    model = worlds.fit("fpmc", config, train, Sizes(80, 30), steps=150, lr=0.02)
    users = np.repeat(np.arange(1, 81), 6)
    asked = np.tile(np.arange(1, 7), 80)
    wanted = 2 + 4 * asked + tastes[users - 1]

    def hits(users: np.ndarray, asked: np.ndarray) -> float:
        return float((order_worlds.first(model, users, asked[:, None]) == wanted).mean())

    assert hits(users, asked) > 0.9
    assert hits(0 * users, asked) < 0.4 and hits(users, 0 * asked) < 0.4
