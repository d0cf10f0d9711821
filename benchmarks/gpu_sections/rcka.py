"""RCKA's terms, value and gradient: features over a batch, logits over samples and classes."""

from typing import Any

import torch

from pcka.core import feature_cka, logit_cka

from .clocks import describe, device_of, in_graph, kernels, milliseconds, pipelined


def plain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return centred CKA of ``(N, Dx)`` and ``(N, Dy)`` in plain lines."""
    x, y = (t.float() - t.float().mean(0) for t in (x, y))
    k, l = x @ x.T, y @ y.T
    return (k * l).sum() / (k.norm() * l.norm())


def measure(quick: bool, toy: bool) -> dict[str, Any]:
    """Return times in milliseconds and launches of ours and of plain autograd."""
    device = device_of(toy)
    rounds = 1 if toy else 20
    rows = []
    for batch in (8,) if toy else (64, 256, 1024):
        for dtype in (torch.float32, torch.bfloat16):
            generator = torch.Generator(device).manual_seed(0)

            def draw(*shape, generator=generator, dtype=dtype):
                return torch.randn(shape, generator=generator, device=device).to(dtype)

            width = 40 if toy else 256 * 8 * 8
            x, y = draw(batch, width).requires_grad_(), draw(batch, width)
            p, q = draw(batch, 100).requires_grad_(), draw(batch, 100)
            calls = {
                "FeatureCKA": (lambda x=x, y=y: feature_cka(x, y), x),
                "FeatureCKA, plain": (lambda x=x, y=y: plain(x, y), x),
                "LogitCKA intra": (lambda p=p, q=q: logit_cka(p, q), p),
                "LogitCKA intra, plain": (lambda p=p, q=q: plain(p, q), p),
                "LogitCKA inter": (lambda p=p, q=q: logit_cka(p, q, relation="inter"), p),
                "LogitCKA inter, plain": (lambda p=p, q=q: plain(p.T, q.T), p),
            }
            for name, (value, leaf) in calls.items():

                def call(value=value, leaf=leaf):
                    leaf.grad = None
                    value().backward()

                found = kernels(call)
                rows.append(
                    {
                        "B": batch,
                        "type": str(dtype)[6:],
                        "term": name,
                        "alone": milliseconds(call, rounds),
                        "pipelined": pipelined(call, rounds),
                        "graph": in_graph(call, rounds),
                        "launches": found[0] if found else "",
                        "busy": found[1] if found else "",
                    }
                )
    return {**describe(device), "value and gradient, ms": rows}
