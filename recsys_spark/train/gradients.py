"""All gradients in one flat buffer, with a few numbers of the step behind them: one collective a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from recsys_spark.train.workers import Workers


class Gradients:
    """`reduce` sums the gradients over the ranks; the optimiser then reads them from the buffer. Nothing is copied on one rank."""

    def __init__(self, parameters: Iterable[nn.Parameter], workers: Workers) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.workers = workers
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        assert len(kinds) == 1, f"parameters of one dtype on one device are expected, not {kinds}"
        self.dtype, self.device = kinds.pop()
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.flat = torch.empty(0)
        self.views: list[Tensor] = []

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def reduce(self, numbers: Sequence[Tensor | float] = ()) -> list[float]:
        """Sums over the ranks of every gradient (a missing one is zero) and of `numbers`, which it returns."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = self._gradients()
        if self.workers.size == 1:
            return [float(number) for number in numbers]
        if len(self.flat) != sum(self.sizes) + len(numbers):
            self.flat = torch.empty(sum(self.sizes) + len(numbers), dtype=self.dtype, device=self.device)
            parts = self.flat.split([*self.sizes, len(numbers)])
            self.views = [part.view_as(parameter) for part, parameter in zip(parts, self.parameters, strict=False)]
        tail = self.flat[sum(self.sizes):]
        torch._foreach_copy_(self.views, gradients)
        if len(numbers):
            tail.copy_(torch.tensor([float(number) for number in numbers], dtype=self.dtype))
        self.workers.all_reduce_sum([self.flat])
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view
        return tail.tolist()

    def scale(self, factor: float) -> None:
        torch._foreach_mul_(self._gradients(), factor)

    def clip(self, norm: float) -> None:
        """Scale all gradients so that their joint 2-norm is at most `norm`."""
        nn.utils.clip_grad_norm_(self.parameters, norm)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]
