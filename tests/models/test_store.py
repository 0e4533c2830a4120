"""Saved models: whole and theirs, or refused with the reason."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from recsys_spark.core import artifacts
from recsys_spark.core.errors import CheckpointError
from recsys_spark.models import registry, store
from recsys_spark.models.base import Sizes
from tests.models import worlds


@pytest.fixture
def saved(tmp_path):
    model = worlds.stirred("mf_bias", {"dim": 4})
    store.save(tmp_path, model, "mf_bias")
    return model, tmp_path


def change(folder, **facts):
    path = folder / store.FACTS
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written(saved):
    model, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    facts = json.loads((folder / store.FACTS).read_text())
    assert (facts["model"], facts["config"]["dim"], facts["config"]["init_std"]) == (
        "mf_bias",
        4,
        0.03,
    )
    assert (
        facts["num_users"],
        facts["num_items"],
        facts["statistics"]["label_mean"],
        facts["dtype"],
    ) == (30, 25, 3.5, "float64")
    assert facts["sha256"] == artifacts.file_digest(folder / store.WEIGHTS)


def test_loading_draws_no_random_numbers(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    store.load(saved[1])
    assert torch.equal(torch.rand(3), expected)


def test_a_loaded_model_can_be_trained(saved):
    model = store.load(saved[1])
    worlds.total(
        worlds.terms(model, worlds.batch("pointwise"), worlds.Context(training=True))
    ).backward()
    torch.optim.SGD(model.parameter_groups(), lr=0.1).step()
    assert not torch.equal(model.user.weight, saved[0].user.weight)


def test_restoring_fills_the_model_that_is_there(saved):
    model, folder = saved
    other = registry.build("mf_bias", {"dim": 4}, worlds.SIZES, seed=9).double()
    weights = other.user.weight
    store.restore(folder, other, "mf_bias")
    assert other.user.weight is weights and torch.equal(weights, model.user.weight)


@pytest.mark.parametrize(
    ("name", "config", "sizes", "dtype", "message"),
    [
        (
            "neumf",
            {},
            worlds.SIZES,
            torch.float64,
            r"model.json, model: found 'mf_bias'; expected 'neumf'.*empty run folder",
        ),
        (
            "mf_bias",
            {"dim": 8},
            worlds.SIZES,
            torch.float64,
            r"model.json, config: found .*'dim': 4.*expected .*'dim': 8",
        ),
        (
            "mf_bias",
            {"dim": 4},
            Sizes(30, 26),
            torch.float64,
            r"model.json, num_items: found 25; expected 26",
        ),
        (
            "mf_bias",
            {"dim": 4},
            worlds.SIZES,
            torch.float32,
            r"model.json, dtype: found 'float64'; expected 'float32'",
        ),
    ],
)
def test_a_checkpoint_of_another_model(saved, name, config, sizes, dtype, message):
    model = registry.build(name, config, sizes, seed=1).to(dtype)
    before = [value.clone() for value in model.parameters()]
    with pytest.raises(CheckpointError, match=message):
        store.restore(saved[1], model, name)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_weights_cut_short(saved):
    path = saved[1] / store.WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(
        CheckpointError,
        match=rf"model.safetensors: found {len(whole) - 100} bytes; expected {len(whole)} bytes"
        r" \(is it cut short\?\). To mend: .*another checkpoint",
    ):
        store.load(saved[1])


def test_weights_altered(saved):
    path = saved[1] / store.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    with pytest.raises(
        CheckpointError,
        match=r"model.safetensors: found sha256 \w{16}; expected \w{16} as in model.json",
    ):
        store.load(saved[1])


def test_nothing_there(tmp_path):
    with pytest.raises(
        CheckpointError,
        match=r"model.json: found no such file; expected a Stored in JSON.*another checkpoint",
    ):
        store.load(tmp_path)


def test_weights_missing(saved):
    (saved[1] / store.WEIGHTS).unlink()
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: found no such file; expected \d+ bytes"
    ):
        store.load(saved[1])


def test_facts_cut_short(saved):
    path = saved[1] / store.FACTS
    path.write_text(path.read_text()[:40])
    with pytest.raises(CheckpointError, match=r"model.json, the whole file: .*Invalid JSON"):
        store.load(saved[1])


def test_a_model_that_is_gone(saved):
    change(saved[1], model="mf_byas")
    with pytest.raises(
        CheckpointError,
        match=r"model.json, model: found 'mf_byas'; expected one of .*did you mean 'mf_bias'",
    ):
        store.load(saved[1])


def test_a_configuration_that_is_gone(saved):
    change(saved[1], config={"width": 3})
    with pytest.raises(
        CheckpointError,
        match=r"unknown key config.width: found 3; .*another version of the project",
    ):
        store.load(saved[1])


def test_other_shapes(saved):
    change(saved[1], num_users=31)
    with pytest.raises(
        CheckpointError,
        match=r"model.safetensors, user.weight: found \(31, 4\); expected \(32, 4\)",
    ):
        store.load(saved[1])


def test_a_tensor_too_many(saved):
    path = saved[1] / store.WEIGHTS
    save_file({**load_file(path), "more": torch.zeros(2)}, path)
    change(saved[1], sha256=artifacts.file_digest(path), bytes=path.stat().st_size)
    with pytest.raises(
        CheckpointError, match=r"more: found \(2,\); expected no such tensor in mf_bias"
    ):
        store.load(saved[1])


def test_a_disk_that_refuses(saved, monkeypatch):
    """The weights of the earlier save stay whole and loadable, and no half file is left."""
    model, folder = saved
    before = contents(folder)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", refuse)
    with pytest.raises(
        CheckpointError,
        match=r"found \[Errno 28\] No space left on device; expected room for \d+ bytes.*free "
        r"some space",
    ):
        store.save(folder, model, "mf_bias")
    assert contents(folder) == before


def test_killed_between_the_two_files(saved, monkeypatch):
    """New weights never stand beside the old facts."""

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.artifacts, "write_model", die)
    with pytest.raises(KeyboardInterrupt):
        store.save(saved[1], saved[0], "mf_bias")
    with pytest.raises(CheckpointError, match=r"model.json: found no such file"):
        store.load(saved[1])
