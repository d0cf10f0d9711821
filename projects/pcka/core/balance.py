"""A term whose gradient is held at a ratio to the task's, so that no weight has to be searched.

Let F be a feature of the student, g the gradient that comes back to F from all that follows it, and
d the gradient of a term's loss L at F. With ``weight: {ratio: r}``, F passes on

    g + r m f d / |d|,    m = mean of |g| over the last steps,    f = sqrt(L) or 1.

f is sqrt(L) where 1 - L is a similarity, such as CKA: the pull vanishes where both networks agree.
The parameters of an adapter get their gradients with the same factor. None of this depends on the
units of the task's loss, of the features, of the term's loss or of a loss scale. The sum is no
gradient of one scalar, so the value of L is reported, and adds nothing to the gradient by itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .collectives import all_sum_, world_size
from .gradients import SCALE, norm, scaled_gradients

# A part of the running mean that stays in each step.
_DECAY = 0.9


@dataclass
class _Pull:
    """The gradient of one term, which waits for that of the task."""

    key: str
    aim: Tensor  # r f, ()
    size: Tensor  # |d|, ()
    slope: Tensor  # d, in the shape of F
    adapter: dict[int, Tensor]  # gradients of the adapters' parameters, by their place
    outer: Tensor | None = None  # what backward brings to the term's loss: a loss scale, or 1


class Balance(nn.Module):
    """Balances the terms at one feature; its state is the running mean of the task's gradient.

    Call :meth:`through` where the feature is made, then :meth:`add` for every term that reads it.

    Args:
        feature: its name, for messages.

    Attributes:
        figures: the figures of the last backward, by term: ``weight/<key>``, the constant weight
            that would have had the same effect, and ``gradient/<key>``, the ratio of both
            gradients.
    """

    mean: Tensor

    def __init__(self, feature: str):
        super().__init__()
        self.feature = feature
        # The decayed sums of norms and of ones: their ratio is a mean from the first step on.
        self.register_buffer("mean", torch.zeros(2))
        self.figures: dict[str, Tensor] = {}
        self._parameters_of: list[nn.Parameter] = []
        self._pulls: list[_Pull] = []

    def through(self, feature: Tensor, parameters: Iterable[nn.Parameter] = ()) -> Tensor:
        """Return what the network goes on with in place of the feature; the values are the same.

        Args:
            feature: ``(B, ...)``.
            parameters: those of the adapters of its terms.
        """
        if not torch.is_grad_enabled():
            return feature
        self.figures = {}
        self._pulls, self._parameters_of = [], list(parameters)
        return _Through.apply(feature, self, self._pulls, *self._parameters_of)

    def add(
        self, key: str, ratio: float, weight: float, loss: Tensor, leaf: Tensor, *, fades: bool
    ) -> Tensor:
        """Take up a term; return ``weight`` times its loss, which belongs into the sum of losses.

        Args:
            key: the key of the term, for the figures.
            ratio: r, without its schedule.
            weight: the factor of the schedule.
            loss: L, ``()``, computed from ``leaf``.
            leaf: the detached feature, which requires a gradient of its own.
            fades: whether 1 - L is a similarity.
        """
        places = [i for i, p in enumerate(self._parameters_of) if p.requires_grad]
        inputs = [leaf, *(self._parameters_of[i] for i in places)]
        found = scaled_gradients(loss, inputs)
        slope = found[0] if found[0] is not None else torch.zeros_like(leaf)
        value = loss.detach()
        size = norm(slope).square()
        # One norm and one value for all processes, as one process with the whole batch would have.
        square, total = all_sum_(torch.stack([size, value.to(size.dtype)])).unbind()
        fade = (total / world_size()).clamp(0, 1).sqrt() if fades else torch.ones_like(total)
        adapter = {i: g for i, g in zip(places, found[1:], strict=True) if g is not None}
        pull = _Pull(key, ratio * weight * fade, square.sqrt(), slope, adapter)
        self._pulls.append(pull)
        anchor = torch.zeros((), device=value.device, requires_grad=True)
        return _Value.apply(weight * value, anchor, self, pull)

    def pass_on(self, g: Tensor, pulls: list[_Pull]) -> tuple[Tensor, list[Tensor | None]]:
        """Return the gradients of the feature and of each adapter's parameter; empty ``pulls``."""
        outer = next(
            (p.outer for p in pulls if p.outer is not None), torch.ones((), device=g.device)
        )
        # Each process has the gradients of its own images times the number of processes.
        unit = outer * world_size()
        length = all_sum_(norm(g).square()).sqrt()
        task = self._update(length / unit)
        adapters: list[Tensor | None] = [None] * len(self._parameters_of)
        total = g
        for pull in pulls:
            size = pull.size
            factor = torch.where(size > 0, pull.aim * task * unit / size, torch.zeros_like(size))
            total = total + (pull.slope.to(factor.dtype) * factor).to(g.dtype)
            for place, gradient in pull.adapter.items():
                mine, other = gradient * factor, adapters[place]
                adapters[place] = mine if other is None else other + mine
            self.figures[f"weight/{pull.key}"] = factor / outer * SCALE
            self.figures[f"gradient/{pull.key}"] = factor * size / length
        pulls.clear()
        return total, adapters

    def check(self) -> None:
        """Raise ValueError if the last backward brought no gradient to the feature."""
        if self._pulls:
            names = ", ".join(pull.key for pull in self._pulls)
            self._pulls.clear()
            raise ValueError(
                f"no loss of the student's own has a gradient at {self.feature!r}, which a ratio "
                f"as weight (of {names}) needs: name a feature that is trained, or give a number"
            )

    def _update(self, length: Tensor) -> Tensor:
        """Take up the norm of a step, unless it is not finite; return the mean."""
        new = torch.stack([length, torch.ones_like(length)]).to(self.mean.dtype)
        new = torch.lerp(new, self.mean, _DECAY)
        self.mean.copy_(torch.where(length.isfinite(), new, self.mean))
        return self.mean[0] / self.mean[1].clamp(min=torch.finfo(torch.float32).tiny)


class _Through(torch.autograd.Function):
    """The identity, in whose backward the terms' gradients join the task's."""

    @staticmethod
    def forward(ctx, feature, balance, pulls, *parameters):
        ctx.balance, ctx.pulls = balance, pulls
        return feature.view_as(feature)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        feature, adapters = ctx.balance.pass_on(g, ctx.pulls)
        return feature, None, None, *adapters


class _Value(torch.autograd.Function):
    """A loss without a gradient, which learns what factor the sum of all losses gets."""

    @staticmethod
    def forward(ctx, value, anchor, balance, pull):
        ctx.balance, ctx.pull = balance, pull
        return value.clone()

    @staticmethod
    def backward(ctx, outer):
        ctx.pull.outer = outer
        torch.autograd.Variable._execution_engine.queue_callback(ctx.balance.check)
        return None, None, None, None
