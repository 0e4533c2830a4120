"""Adam on tables of which a step reads few rows: the same moves as dense Adam's, each made when its
row is next read.

Dense Adam moves every row in every step, also where the gradient is zero, by the momentum that is
left. A row whose moments were m and v after step s, and which no step met since, has moved by

    sum over k = 1 .. t - s of  lr_(s+k) * m b1^k / (1 - b1^(s+k))
                                / (sqrt(v b2^k / (1 - b2^(s+k))) + eps)

after step t. With f = b1 / sqrt(b2) that is m / sqrt(v) times a number that depends on s and t
alone, C(s, t) = sum of lr_(s+k) f^k sqrt(1 - b2^(s+k)) / (1 - b1^(s+k)), but for eps. So a step
reads and writes the rows of its batch, and adds one term to the sums of the last few hundred steps
(f^k vanishes).

Differs from Adam (Kingma and Ba, ICLR 2015, arXiv:1412.6980) in rounding, and in eps, which is
taken at the mean k of these moves. tests/models/test_deferred.py has what that comes to: nothing to
see where gradients are large beside eps, one or two per cent where eps is all of the denominator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

_BLOCK = 1 << 16  # rows brought up to date at a time
_STEPS = 1024  # room for so many sums at the start


class DeferredAdam(torch.optim.Optimizer):
    """Takes sparse, coalesced gradients. Between steps a weight lags behind: `read` returns rows as
    they are, `settle` writes them into the weight.

    State of a table (rows, D): the moments `exp_avg` and `exp_avg_sq`; `last` int64 (rows,), the
    step of which they and the weight are; `sums` float64, C(s, `step`) of each step s.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        # The rows last read of each weight, which the step mostly wants again
        self._kept: dict[int, tuple[Tensor, _Rows]] = {}

    def updates(self, weight: Tensor) -> bool:
        return any(weight is other for _, other in self._weights())

    @torch.no_grad()
    def read(self, weight: Tensor, index: Tensor) -> Tensor:
        """The rows of int64 (R,), as they are after the last step: (R, D). The next step may write
        into them.
        """
        if not (state := self.state.get(weight)):
            return weight.index_select(0, index)
        group = next(group for group, other in self._weights() if other is weight)
        rows = _rows(group, state, weight, index)
        self._kept[id(weight)] = index, rows
        return rows.weight

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group, weight in self._weights():
            if weight.grad is None:
                continue
            assert weight.grad.is_coalesced(), "a coalesced sparse gradient is expected"
            index, gradient = weight.grad._indices()[0], weight.grad._values()  # (R,), (R, D)
            state = self.state[weight] or self._start(weight)
            (b1, b2), step = group["betas"], state["step"] + 1
            rows = self._last_read(weight, index) or _rows(group, state, weight, index)
            rows.faded(group["betas"])
            rows.exp_avg.lerp_(gradient, 1 - b1)
            rows.exp_avg_sq.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            pace, root = _pace(group, step), math.sqrt(1 - b2**step)
            denominator = rows.exp_avg_sq.sqrt().add_(group["eps"] * root)
            rows.weight.addcdiv_(rows.exp_avg, denominator, value=-pace)
            _write(state, weight, index, rows, step)
            self._add(group, state, step, pace)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring every row of every table up to date. It costs what a dense step costs."""
        for group, weight in self._weights():
            if state := self.state.get(weight):
                for index in torch.arange(len(weight), device=weight.device).split(_BLOCK):
                    rows = _rows(group, state, weight, index).faded(group["betas"])
                    _write(state, weight, index, rows, state["step"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Torch would give all of the state the dtype of the weights."""
        super().load_state_dict(state_dict)
        for number, (_, weight) in enumerate(self._weights()):
            if saved := state_dict["state"].get(number):
                exact = {name: saved[name].to(weight.device) for name in ("last", "sums")}
                self.state[weight].update(exact, step=int(saved["step"]))

    def _last_read(self, weight: Tensor, index: Tensor) -> _Rows | None:
        kept = self._kept.pop(id(weight), None)
        return kept[1] if kept and torch.equal(kept[0], index) else None

    def _weights(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.param_groups:
            for weight in group["params"]:
                yield group, weight

    def _start(self, weight: Tensor) -> dict[str, Any]:
        self.state[weight] = {
            "step": 0,
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
            "last": torch.zeros(len(weight), dtype=torch.int64, device=weight.device),
            "sums": torch.zeros(_STEPS, dtype=torch.float64, device=weight.device),
        }
        return self.state[weight]

    def _add(self, group: dict[str, Any], state: dict[str, Any], step: int, pace: float) -> None:
        """Add step `step` to the sums of the steps before it."""
        if step >= len(state["sums"]):
            state["sums"] = torch.cat([state["sums"], torch.zeros_like(state["sums"])])
        first = max(0, step - _reach(group["betas"]))
        age = torch.arange(step - first, 0, -1, dtype=torch.float64, device=state["sums"].device)
        state["sums"][first:step] += pace * _fade(group["betas"]) ** age
        state["step"] = step


class _Rows(NamedTuple):
    """Copies of rows of a table and of its moments, (R, D) each. The weight is of the state's step,
    the moments of the row's last one.
    """

    weight: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    age: Tensor  # float64 (R, 1): steps since then

    def faded(self, betas: tuple[float, float]) -> _Rows:
        """With the moments of the state's step, in place."""
        b1, b2 = ((beta**self.age).to(self.weight.dtype) for beta in betas)
        self.exp_avg.mul_(b1), self.exp_avg_sq.mul_(b2)
        return self


def _rows(group: dict[str, Any], state: dict[str, Any], weight: Tensor, index: Tensor) -> _Rows:
    """The rows of int64 (R,), after the moves that they missed."""
    b2, last = group["betas"][1], state["last"].index_select(0, index)
    now, m, v = (
        each.index_select(0, index) for each in (weight, state["exp_avg"], state["exp_avg_sq"])
    )
    age = (state["step"] - last).double()
    # eps in units of sqrt(v), at the mean k of the moves: the middle of a short absence, and of a
    # long one the mean of a geometric distribution
    middle = ((1 + age) / 2).clamp_(max=1 / (1 - _fade(group["betas"])))
    eps = group["eps"] * (b2**-middle - b2 ** last.double()).sqrt_()
    moved, eps, age = (
        each.unsqueeze(1) for each in (state["sums"].index_select(0, last), eps, age)
    )
    now.addcdiv_(m * moved.to(m.dtype), v.sqrt().add_(eps.to(v.dtype)), value=-1.0)
    return _Rows(now, m, v, age)


def _write(state: dict[str, Any], weight: Tensor, index: Tensor, rows: _Rows, step: int) -> None:
    weight.index_copy_(0, index, rows.weight)
    state["exp_avg"].index_copy_(0, index, rows.exp_avg)
    state["exp_avg_sq"].index_copy_(0, index, rows.exp_avg_sq)
    state["last"].index_fill_(0, index, step)


def _fade(betas: tuple[float, float]) -> float:
    """Ratio of a row's moves in successive steps without a gradient."""
    return betas[0] / math.sqrt(betas[1])


def _reach(betas: tuple[float, float]) -> int:
    """Steps after which what is left of a move is below the rounding of float64."""
    return math.ceil(math.log(2.0**-60) / math.log(_fade(betas)))


def _pace(group: dict[str, Any], step: int) -> float:
    """The learning rate times the corrections of the moments' start from zero."""
    b1, b2 = group["betas"]
    return float(group["lr"]) * math.sqrt(1 - b2**step) / (1 - b1**step)
