"""multi_vae against plain numpy, equation by equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.batches.query import Query
from recsys_spark.models import registry
from recsys_spark.models.base import Context
from recsys_spark.nn import noise
from tests.models import worlds

NO_DROPOUT = {"hidden_dim": 5, "latent_dim": 3, "dropout": 0.0}
LISTS = [[2, 7, 11, 25], [], [1], [3, 4, 5, 6, 8, 9, 10]]


def encode(model, x):
    """Mean and log variance of a row of numbers over the items 0..I, the dense way."""
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    hidden = np.tanh(x @ weights["first"] + weights["first_bias"])
    both = weights["to_latent.weight"] @ hidden + weights["to_latent.bias"]
    return both[:3], both[3:]


def decode(model, z):
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    return (
        weights["last"] @ np.tanh(weights["from_latent.weight"] @ z + weights["from_latent.bias"])
        + weights["last_bias"]
    )


def ones(items):
    x = np.zeros(26)
    x[items] = 1
    return x


@pytest.fixture
def model():
    return worlds.stirred("multi_vae", NO_DROPOUT)


def test_scores_are_the_decoded_mean(model):
    """The input is L2-normalised: four items count 1/2 each."""
    scores = model.score(Query(torch.zeros(4), worlds.ragged(LISTS))).detach().numpy()
    for items, found in zip(LISTS, scores, strict=True):
        mean, _ = encode(model, ones(items) / max(1, np.sqrt(len(items))))
        np.testing.assert_allclose(found, decode(model, mean), rtol=1e-12)


def test_loss(model):
    """Equations 2 and 6 with the sample's noise taken from the same stream, summed by hand."""
    ctx = Context(seed=4, step=1000, epoch=2, training=True)
    batch = worlds.profiles(LISTS, torch.tensor([10, 11, 12, 2**33])).to("cpu", torch.float64)
    draws = noise.normal(noise.key(4, "latent", 2, 1000), batch.row, 3).double().numpy()
    nll, kl = 0.0, 0.0
    for items, epsilon in zip(LISTS, draws, strict=True):
        mean, log_variance = encode(model, ones(items) / max(1, np.sqrt(len(items))))
        # Column 0 is padding, not an item
        logits = decode(model, mean + epsilon * np.exp(log_variance / 2))[1:]
        log_softmax = logits - np.log(np.exp(logits).sum())
        nll -= sum(log_softmax[i - 1] for i in items)
        deviation = np.exp(log_variance / 2)
        kl += sum(-np.log(deviation) + (deviation**2 + mean**2) / 2 - 0.5)
    parts = worlds.terms(model, batch, ctx)
    assert parts["nll"].sum.item() == pytest.approx(nll, rel=1e-12) and parts[
        "kl"
    ].sum.item() == pytest.approx(kl, rel=1e-12)
    assert (parts["nll"].count, parts["kl"].count, parts["nll"].coefficient) == (4, 4, 1.0)


def test_beta_grows_to_its_cap():
    model = registry.build(
        "multi_vae", {**NO_DROPOUT, "beta": 0.2, "anneal_steps": 1000}, worlds.SIZES, seed=1
    )
    assert [model.beta_at(Context(step=step, training=True)) for step in (0, 50, 200, 900)] == [
        0.0,
        0.05,
        0.2,
        0.2,
    ]
    assert model.beta_at(Context(step=0)) == 0.2


def test_dropout_by_global_row():
    """Hides `dropout` of the items, scales the rest, the same for a row in any batch, and never in
    evaluation.
    """
    model = worlds.stirred("multi_vae", {**NO_DROPOUT, "dropout": 0.75})
    batch = worlds.profiles(LISTS, torch.tensor([10, 11, 12, 2**33])).to("cpu", torch.float64)
    ctx = Context(seed=4, step=3, training=True)
    drawn = noise.uniform(noise.key(4, "dropout", 0, 3), batch.row, 26).numpy()
    means = model(batch, ctx)["mean"].detach().numpy()
    for items, draw, found in zip(LISTS, drawn, means, strict=True):
        kept = [i for i in items if draw[i] >= 0.75]
        np.testing.assert_allclose(
            found, encode(model, ones(kept) * 4 / max(1, np.sqrt(len(items))))[0], rtol=1e-6
        )
    alone = model(worlds.take(batch, [3]), ctx)["mean"]
    torch.testing.assert_close(alone[0].detach().numpy(), means[3])
    torch.testing.assert_close(model(batch, Context())["mean"], model._encode(batch.items)[0])


def test_padding_in_a_history_counts_for_nothing(model):
    clean, padded = worlds.ragged([[3, 9], []]), worlds.ragged([[0, 3, 0, 9], [0]])
    torch.testing.assert_close(
        model.score(Query(torch.zeros(2), padded)), model.score(Query(torch.zeros(2), clean))
    )


def test_the_user_does_not_count(model):
    histories = worlds.ragged([[3, 9]] * 2)
    scores = model.score(Query(torch.tensor([0, 17]), histories))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-12, atol=1e-12)
