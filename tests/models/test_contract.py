"""What every model promises. Models are found by their files; a new one is tested here without a
line being added.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys_spark.core import config as configuration
from recsys_spark.core.contracts import Train, Workers
from recsys_spark.core.errors import ConfigError
from recsys_spark.models import registry, store
from recsys_spark.models.base import Context
from recsys_spark.nn.tables import tables
from recsys_spark.train import phases
from recsys_spark.train.saves.checkpoint import State
from recsys_spark.train.updates.lookups import Lookups
from tests.models import field_worlds, worlds

ROOT = Path(__file__).parents[2]
NAMES = registry.names()
CONFIGURATIONS = [
    path
    for path in sorted((ROOT / "conf/models").glob("*.yaml"))
    if configuration.load(path).get("model") in NAMES
]
TRAINING = Context(seed=3, step=7, epoch=1, total_steps=100, training=True)


@pytest.fixture(params=[f"{name}-{size}" for name in NAMES for size in ("default", "tiny")])
def model(request):
    name, size = request.param.rsplit("-", 1)
    return worlds.stirred(name, worlds.tiny(registry.find(name)) if size == "tiny" else {})


def name_of(model):
    return type(model).__module__.rsplit(".", 1)[1]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_models_are_found():
    assert {"mf_bias", "neumf", "multi_vae"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_files(name):
    kind = registry.find(name)
    text = importlib.import_module(kind.__module__).__doc__ or ""
    assert "\nPaper: " in text, (
        f"{kind.__module__} does not say which paper it is: add `Paper:` to its docstring"
    )
    assert "\nDiffers: " in text, (
        f"{kind.__module__} does not say how it differs from its paper: add `Differs:` (or "
        "'nothing known')"
    )
    assert (ROOT / f"tests/models/test_{name}.py").is_file(), (
        f"model {name} has no tests/models/test_{name}.py"
    )
    assert (ROOT / f"conf/models/{name}.yaml").is_file(), (
        f"model {name} has no conf/models/{name}.yaml"
    )
    assert kind.task in ("rating", "click", "ranking")
    assert not kind.couples_rows or "Couples rows:" in text, (
        f"{name} couples rows: say why after `Couples rows:` in its docstring"
    )


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_configuration_file(path):
    values = configuration.load(path)
    name = values["model"]
    assert set(values) <= {"model", "config", "train", "workers"} and (
        path.stem == name or path.stem.startswith(f"{name}_")
    )
    registry.build(name, values["config"], worlds.SIZES, seed=1, source=str(path))
    configuration.validate(Train, values["train"], source=str(path), key="train")
    configuration.validate(Workers, values.get("workers", {}), source=str(path), key="workers")


def test_order_of_rows_changes_no_loss(model):
    rows = worlds.batch(model.layout)
    turned = worlds.take(rows, list(reversed(range(len(rows)))))
    close(
        worlds.total(worlds.terms(model, rows, TRAINING)),
        worlds.total(worlds.terms(model, turned, TRAINING)),
    )


def test_loss_is_the_weighted_mean_of_its_halves(model):
    if model.couples_rows:
        pytest.skip("its loss couples rows, for the reason in its docstring")
    rows = worlds.batch(model.layout)
    whole = worlds.terms(model, rows, TRAINING)
    halves = [
        worlds.terms(model, worlds.take(rows, index), TRAINING)
        for index in (list(range(5)), list(range(5, len(rows))))
    ]
    for key, term in whole.items():
        close(term.sum, halves[0][key].sum + halves[1][key].sum)
        close(
            torch.as_tensor(term.count),
            torch.as_tensor(halves[0][key].count) + torch.as_tensor(halves[1][key].count),
        )
        assert term.coefficient == halves[0][key].coefficient == halves[1][key].coefficient, key


def test_a_row_of_weight_two_counts_as_two_rows(model):
    if model.layout != "pointwise" or model.couples_rows:
        pytest.skip("its rows have no weight, or count together")
    rows = worlds.batch("pointwise")
    doubled = dataclasses.replace(rows, weight=2 * torch.ones_like(rows.weight))
    single = dataclasses.replace(rows, weight=torch.ones_like(rows.weight))
    twice = worlds.take(single, 2 * list(range(len(rows))))
    for a, b in zip(
        worlds.terms(model, doubled, TRAINING).values(),
        worlds.terms(model, twice, TRAINING).values(),
        strict=True,
    ):
        close(a.sum, b.sum)
        close(torch.as_tensor(a.count), torch.as_tensor(b.count))


def needs_to_rank(model):
    if not worlds.ranks(model):
        pytest.skip("it reads items' profiles, and ranks no items for a user")


def test_scores_do_not_depend_on_the_other_rows(model):
    needs_to_rank(model)
    query = worlds.query()
    whole = model.score(query)
    assert whole.shape == (len(query.user), worlds.SIZES.num_items + 1)
    for i in range(len(query.user)):
        close(model.score(worlds.part(query, [i])), whole[i : i + 1])


def test_scores_of_some_items_are_those_of_the_catalogue(model):
    needs_to_rank(model)
    query, some = worlds.query(), torch.tensor([7, 2, 25, 1])
    each = torch.stack([torch.roll(torch.arange(1, 6), n) for n in range(len(query.user))])
    whole = model.score(query)
    close(model.score(query, some), whole[:, some])
    close(model.score(query, each), whole.gather(1, each))


def test_its_index_ranks_as_it_scores(model):
    factors, query = model.index(), worlds.query()
    if factors is None:
        pytest.skip("its scores are no dot products")
    close(model.encode(query) @ factors.items.T + factors.bias, model.score(query))


def test_prediction_rises_with_the_score(model):
    if model.layout != "pointwise":
        pytest.skip("its rows hold no single item")
    rows = worlds.at_no_moment(worlds.batch("pointwise"))
    predicted = model.predict(rows)[model.task]
    scored = model.score(
        worlds.Query(rows.user, worlds.ragged([[]] * len(rows))), rows.item.long()[:, None]
    )[:, 0]
    assert predicted.shape == scored.shape == (len(rows),)
    assert (predicted[scored.argsort()].diff() >= 0).all() and len(predicted.unique()) > 1


def test_a_profile_predicts_each_held_entry_and_learns_from_none(model):
    """In the order of the entries, within the labels' range, from the row's own profile alone;
    entries of an empty profile too.
    """
    if model.layout != "profile" or model.task != "rating":
        pytest.skip("it predicts no held entries")
    rows = worlds.batch("profile")
    predicted, statistics = model.predict(rows)["rating"], worlds.SIZES.statistics
    assert (
        predicted.shape == rows.held_values.shape
        and predicted.isfinite().all()
        and len(predicted.unique()) > 5
    )
    assert predicted.min() >= statistics["label_min"] and predicted.max() <= statistics["label_max"]
    close(
        torch.cat([model.predict(worlds.take(rows, [i]))["rating"] for i in range(len(rows))]),
        predicted,
    )
    empty = dataclasses.replace(rows, items=worlds.ragged([[]] * len(rows)), values=rows.values[:0])
    assert model.predict(empty)["rating"].isfinite().all()
    other = dataclasses.replace(
        rows, held=worlds.ragged([[]] * len(rows)), held_values=rows.held_values[:0]
    )
    close(
        worlds.total(worlds.terms(model, rows, TRAINING)),
        worlds.total(worlds.terms(model, other, TRAINING)),
    )
    close(
        model.predict(dataclasses.replace(rows, held_values=1 - rows.held_values))["rating"],
        predicted,
    )


def test_a_model_of_items_profiles_says_that_it_cannot_rank(model):
    if worlds.ranks(model):
        pytest.skip("it ranks")
    with pytest.raises(
        ConfigError,
        match="ranking by .*found a model of items' profiles.*leave out `task: ranking`",
    ):
        model.score(worlds.query())


def test_two_steps_of_sgd(model):
    """Against the same two steps on plain tensors: nothing is left over from the first batch in the
    second step. What the model does after a step is done to both.
    """
    beside = copy.deepcopy(model)
    names = {weight: key for key, weight in model.named_parameters()}
    rates, decays = (
        {
            names[weight]: group.get(setting, default)
            for group in model.parameter_groups()
            for weight in group["params"]
        }
        for setting, default in (("lr", 0.1), ("weight_decay", 0.0))
    )
    batches = [worlds.batch(model.layout, seed=seed) for seed in (1, 2)]
    state = {key: value.detach().clone() for key, value in model.named_parameters()}
    other = {key: value.detach().clone() for key, value in model.named_buffers()}
    for step, rows in enumerate(batches):
        ctx = Context(seed=3, step=step, training=True)

        def objective(weights, rows=rows, ctx=ctx):
            def call(*arguments):
                return torch.func.functional_call(model, {**weights, **other}, arguments)

            output = call(rows, ctx)
            return worlds.total(model.loss(rows, output, ctx))

        leaves = {key: value.clone().requires_grad_() for key, value in state.items()}
        found = torch.autograd.grad(
            objective(leaves), list(leaves.values()), materialize_grads=True
        )
        gradients = dict(zip(leaves, found, strict=True))
        state = {
            key: value - rates[key] * (gradients[key] + decays[key] * value)
            for key, value in state.items()
        }
        for key, value in beside.named_parameters():
            value.data, value.grad = state[key], gradients[key]
        beside.after_step()
        state = {key: value.detach().clone() for key, value in beside.named_parameters()}
    optimiser = torch.optim.SGD(model.parameter_groups(), lr=0.1)
    for step, rows in enumerate(batches):
        optimiser.zero_grad()
        worlds.total(
            worlds.terms(model, rows, Context(seed=3, step=step, training=True))
        ).backward()
        optimiser.step()
        model.after_step()
    for key, value in model.named_parameters():
        close(value.detach(), state[key])


def test_every_weight_is_trained(model):
    """By all phases together; each reaches all that it says it trains."""
    rows, state, reached = worlds.batch(model.layout), State(), set()
    for phase in phases.of(model):
        for state.epoch in range(len(phase.groups) if phase.in_turn else 1):
            name, groups = phases.moving(phase, state)
            phases.freeze(model, groups)
            worlds.total(
                worlds.terms(phase.model or model, rows, dataclasses.replace(TRAINING, phase=name))
            ).backward()
            for key, weight in model.named_parameters():
                if weight.requires_grad:
                    assert weight.grad is not None and weight.grad.abs().max() > 0, (
                        f"{key} gets no gradient in phase {name!r}"
                    )
                    reached.add(key)
    assert reached == {key for key, _ in model.named_parameters()}


def test_a_step_reaches_tables_by_look_up_alone_or_says_so(model):
    """What it does not look up has no gradient by rows."""
    for each in tables(model):
        each.fetch = Lookups(each, partial(each.weight.detach().index_select, 0))
    worlds.total(worlds.terms(model, worlds.batch(model.layout), TRAINING)).backward()
    reached = [each for each in tables(model) if each.weight.grad is not None]
    assert model.whole_tables or not reached, (
        "set `whole_tables`: its tables cannot lie on the ranks in parts"
    )


def test_draws_come_from_the_context_alone(model):
    rows, losses = worlds.batch(model.layout), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model.train(seed == 1)
        losses.append(worlds.total(worlds.terms(model, rows, TRAINING)))
    assert torch.equal(*losses)


def test_unknown_users_and_items_get_finite_scores(model):
    needs_to_rank(model)
    nobody = worlds.Query(torch.zeros(2, dtype=torch.int32), worlds.ragged([[], [0]]))
    assert model.score(nobody).isfinite().all()
    assert model.score(nobody, torch.tensor([0, 1])).isfinite().all()


def test_no_rows(model):
    """A rank may get none of a small batch: it takes part in the reduction with sums of 0."""
    nothing = worlds.take(worlds.batch(model.layout), [])
    parts = worlds.terms(model, nothing, TRAINING)
    assert all(term.sum.item() == 0.0 and float(term.count) == 0.0 for term in parts.values())
    torch.stack([term.coefficient * term.sum for term in parts.values()]).sum().backward()
    assert all(
        weight.grad is None or not weight.grad.abs().max() > 0 for weight in model.parameters()
    )
    if worlds.ranks(model):
        assert model.score(worlds.part(worlds.query(), [])).shape == (0, worlds.SIZES.num_items + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded_it_is_the_same(model, dtype, tmp_path):
    model = model.to(dtype)
    store.save(tmp_path, model, name_of(model))
    again = store.load(tmp_path)
    assert (
        type(again) is type(model) and again.config == model.config and again.sizes == model.sizes
    )
    assert {value.dtype for value in again.parameters()} == {dtype}
    assert torch.equal(worlds.answers(again), worlds.answers(model))


def test_the_seed_decides_the_start(model):
    name, config = name_of(model), model.config.model_dump()
    one, same, other = (registry.build(name, config, worlds.SIZES, seed) for seed in (1, 1, 2))
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    if all(bool((weight == weight.flatten()[0]).all()) for weight in one.parameters()):
        pytest.skip("it starts from constants")
    assert any(not torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_a_planted_world(name):
    """200 steps on users with tastes, negatives drawn anew at each step (models memorise fixed
    ones), beat popularity or the mean. Models of clicks: on fields that matter one by one.
    """
    if registry.find(name).task == "click":
        world = field_worlds.plain()
        clicks = field_worlds.fit(
            name, dict.fromkeys(worlds.tiny(registry.find(name)), 8), world, steps=200
        )
        assert (
            world.share(
                field_worlds.predictions(clicks, world), world.sizes.statistics["label_mean"]
            )
            > 0.6
        )
        return
    train, held, sizes = worlds.planted()
    model = worlds.fit(
        name, dict.fromkeys(worlds.tiny(registry.find(name)), 8), train, sizes, steps=200
    )
    if model.layout == "profile" and model.task == "rating":
        by = model.by_of({})
        rows = worlds.profiles_of(np.arange(1, 1 + {"user": 300, "item": 60}[by]), train, held, by)
        error = (model.predict(rows)["rating"] - rows.held_values).square().mean()
        assert len(rows.held_values) == 300 and error < 0.6 * held.value.var()
    elif model.task == "rating":
        rows = worlds.rows_of(held)
        error, spread = (
            (value - rows.label).square().mean()
            for value in (model.predict(rows)["rating"], float(train.value.mean()))
        )
        assert error < 0.6 * spread
    else:
        assert worlds.hits(model, train, held, sizes) > 2 * worlds.popularity_hits(
            train, held, sizes
        )
