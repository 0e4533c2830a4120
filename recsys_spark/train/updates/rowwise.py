"""Adagrad with one accumulator for each row of a table.

Source: "row-wise Adagrad" of facebookresearch/dlrm and FBGEMM. The moments of a table of width D
take 1 / D of its memory.
"""

from __future__ import annotations

from typing import Any

import torch


class RowwiseAdagrad(torch.optim.Optimizer):
    """For the rows r of a sparse gradient g: a_r += mean(g_r^2), w_r -= lr g_r / (sqrt(a_r) + eps).
    Other rows are not read.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, eps: float = 1e-10) -> None:
        super().__init__(groups, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                assert weight.grad.is_coalesced(), "a coalesced sparse gradient is expected"
                rows, values = weight.grad._indices()[0], weight.grad._values()  # (R,), (R, D)
                state = self.state[weight]
                if not state:
                    state["sum"] = weight.new_zeros(len(weight))
                total = state["sum"].index_select(0, rows) + values.square().mean(1)  # (R,)
                state["sum"].index_copy_(0, rows, total)
                weight.index_add_(
                    0, rows, values / (total.sqrt() + group["eps"]).unsqueeze(1), alpha=-group["lr"]
                )
