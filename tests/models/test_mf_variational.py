"""mf_variational: the bound by hand, its samples, and what it knows of its own errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recsys_spark.batches.query import Query
from recsys_spark.core.errors import ShardError
from recsys_spark.models import registry
from recsys_spark.models.base import Context, Sizes
from recsys_spark.nn import noise
from tests.models import worlds
from tests.models.test_mf_bias import rows
from tests.shardsets import Events

MEAN_P, VARIANCE_P = [0.5, 1.0, 2.0], [0.04, 0.02, 0.09]  # bias and two factors
MEAN_Q, VARIANCE_Q = [-0.25, 0.5, 0.25], [0.01, 0.03, 0.05]
PRIOR = [0.25, 0.16, 0.16]  # variances


@pytest.fixture
def model():
    """One user, two items (the second never trained), width 2, mean 3, 50 ratings, noise of
    variance 0.5.
    """
    made = registry.build(
        "mf_variational", {"dim": 2}, Sizes(1, 2, {"label_mean": 3.0, "label_count": 50.0}), seed=1
    ).double()
    with torch.no_grad():
        made.log_precision.fill_(math.log(2.0))
        for side, mean, variance in (
            (made.user, MEAN_P, VARIANCE_P),
            (made.item, MEAN_Q, VARIANCE_Q),
        ):
            side.prior.copy_(torch.tensor([PRIOR[0], PRIOR[1]]).log())
            side.mean.weight[1:], side.ratio.weight[1:] = 0.0, 0.0
            side.mean.weight[1] = torch.tensor(mean)
            side.ratio.weight[1] = (torch.tensor(variance) / torch.tensor(PRIOR)).log()
    return made


def test_it_predicts_with_the_posterior_mean(model):
    batch = rows([1, 1, 0], [1, 2, 1], [0.0] * 3)
    assert model.predict(batch)["rating"].tolist() == pytest.approx(
        [3 + 0.5 - 0.25 + 0.5 + 0.5, 3.5, 2.75]
    )
    assert model.score(Query(torch.tensor([1]), worlds.ragged([[]])))[0].tolist() == pytest.approx(
        [3.5, 4.25, 3.5]
    )


def test_the_bound_by_hand(model):
    """Minus the log density of the label at the sampled rating, and the divergence of all rows over
    50 ratings.
    """
    ctx = Context(seed=4, step=7, epoch=1, training=True)
    batch = rows([1], [1], [4.0])
    p, q = (
        np.array(mean)
        + np.sqrt(variance)
        * noise.normal(noise.key(4, name, 1, 7), batch.row, 3)[0].double().numpy()
        for name, mean, variance in (("user", MEAN_P, VARIANCE_P), ("item", MEAN_Q, VARIANCE_Q))
    )
    rating = 3 + p[0] + q[0] + p[1] * q[1] + p[2] * q[2]
    parts = worlds.terms(model, batch, ctx)
    assert parts["nll"].sum.item() == pytest.approx(
        0.5 * math.log(2 * math.pi * 0.5) + (rating - 4) ** 2 / (2 * 0.5), rel=1e-6
    )
    # An untouched row is at its prior: 0
    divergence = sum(
        0.5 * (v / prior + m * m / prior - 1 - math.log(v / prior))
        for means, variances in ((MEAN_P, VARIANCE_P), (MEAN_Q, VARIANCE_Q))
        for m, v, prior in zip(means, variances, PRIOR, strict=True)
    )
    assert (
        parts["kl"].sum.item() == pytest.approx(divergence, rel=1e-6)
        and parts["kl"].coefficient == 1 / 50
    )


def test_its_variance_is_that_of_samples(model):
    draw = np.random.default_rng(0)
    p, q = (
        draw.normal(mean, np.sqrt(variance), (200_000, 3))
        for mean, variance in ((MEAN_P, VARIANCE_P), (MEAN_Q, VARIANCE_Q))
    )
    sampled = (p[:, 0] + q[:, 0] + (p[:, 1:] * q[:, 1:]).sum(1)).var() + 0.5
    known, unknown = model.predict(rows([1, 0], [1, 0], [0.0] * 2))["variance"].tolist()
    assert known == pytest.approx(sampled, rel=0.02)
    assert unknown == pytest.approx(0.5 + 2 * PRIOR[0] + 2 * PRIOR[1] ** 2, rel=1e-6)


def test_a_shard_set_without_the_number_of_ratings_is_refused():
    with pytest.raises(
        ShardError,
        match=r"statistics of the shard set: found label_mean; expected label_count.*mend: run "
        r"export_shards",
    ):
        registry.build("mf_variational", {}, Sizes(2, 2, {"label_mean": 3.0}), seed=1)


def noisy(seed=0, users=300, items=50):
    """Ratings of two factors with noise of deviation 0.5; user n has 3 to 25 of them to train on
    and as many held.
    """
    draw = np.random.default_rng(seed)
    means = 3 + draw.normal(size=(users, 2)) @ draw.normal(size=(2, items)) * 0.7
    values = means + 0.5 * draw.normal(size=means.shape)
    pairs = [
        (u, i, part)
        for u in range(users)
        for n in [3 + u % 23]
        for part, chosen in enumerate(np.split(draw.permutation(items)[: 2 * n], 2))
        for i in chosen
    ]
    user, item, part = np.array(pairs).T
    events = [
        Events(
            (user[part == n] + 1).astype(np.int32),
            (item[part == n] + 1).astype(np.int32),
            values[user, item][part == n].astype(np.float32),
        )
        for n in (0, 1)
    ]
    statistics = {
        "label_mean": float(events[0].value.mean()),
        "label_count": float((part == 0).sum()),
    }
    return *events, Sizes(users, items, statistics), torch.from_numpy(means[user, item][part == 1])


def test_it_knows_its_errors_and_a_constant_noise_does_not():
    """Against mf_bias with the noise that fits it best on the held ratings themselves: lower
    held-out NLL, and honest intervals.
    """
    train, held, sizes, oracle = noisy()
    batch = worlds.rows_of(held)
    model = worlds.fit(
        "mf_variational", {"dim": 4, "init_std": 0.3}, train, sizes, steps=1500, rows=256
    )
    found = model.predict(batch)
    error, variance = found["rating"] - batch.label, found["variance"]
    inside = (error.abs() < 1.645 * variance.sqrt()).double().mean()
    assert 0.85 < inside < 0.95, f"the 90 % interval holds {inside:.3f}"
    nll = 0.5 * (variance.log() + error.square() / variance).mean()
    point = worlds.fit(
        "mf_bias",
        {"dim": 4, "l2_factor": 0.06, "l2_bias": 0.02, "init_std": 0.3},
        train,
        sizes,
        steps=1500,
        rows=256,
    )
    constant = 0.5 * ((point.predict(batch)["rating"] - batch.label).square().mean().log() + 1)
    assert nll < constant, f"{nll:.3f} against {constant:.3f}"
    baseline, best = (
        (value - batch.label).square().mean() for value in (sizes.statistics["label_mean"], oracle)
    )
    assert error.square().mean() < best + 0.5 * (baseline - best)
