"""Draws the figures of docs/theory.md and prints its table: `python docs/theory_figures.py`."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from pcka.core import cka

IMAGES = Path(__file__).parent / "images"
F64 = torch.float64
INK, RED, GREY = "#1f4e79", "#c0392b", "#8a8a8a"


def chain(x, y, center):
    """The four figures of T6, largest first, for ``(N, Dx)`` and ``(N, Dy)``."""
    n = len(x)
    value = cka(x, y, center=center)
    if center:
        x, y = x - x.mean(0), y - y.mean(0)
    k, l = ((s @ s.T).flatten() for s in (x, y))
    k, l = k / k.norm(), l / l.norm()
    a, b = k.sort().values, l.sort().values
    figures = [2 * (1 - value) / n**2, (a - b).square().mean(), (a - b).abs().mean() ** 2]
    return [n**2 / 2 * f for f in (*figures, (k.mean() - l.mean()) ** 2)]


def draw_chain(path):
    """T6 over random pairs, uncentred and centred, in units of 1 - CKA."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    names = ["$W_2^2$", "$W_1^2$", r"$(\mathrm{E}k-\mathrm{E}l)^2$: the paper's"]
    for axis, center in zip(axes, (False, True), strict=True):
        g = torch.Generator().manual_seed(0)
        rows = []
        for _ in range(150):
            n, d = 24, 16
            mix, spread, mean = torch.rand(3, generator=g, dtype=F64)
            y = torch.randn(n, d, generator=g, dtype=F64)
            noise = torch.randn(n, d, generator=g, dtype=F64)
            x = mix * y + (1 - mix) * noise * torch.linspace(1, 3 * spread + 1, d, dtype=F64)
            rows.append(torch.stack(chain(x + mean, y + 0.3, center)))
        loss, *bounds = torch.stack(rows).T.numpy()
        for bound, name, color in zip(bounds, names, (INK, GREY, RED), strict=True):
            axis.scatter(loss, bound.clip(1e-8), s=9, label=name, color=color, alpha=0.7)
        line = [loss.min(), loss.max()]
        axis.plot(line, line, color="black", linewidth=0.8, label="1 - CKA itself")
        axis.set(xscale="log", yscale="log", ylim=(5e-9, 2), xlabel="1 - CKA")
        axis.set_title("centred" if center else "uncentred", fontsize=10)
    axes[0].set_ylabel("lower bound of 1 - CKA")
    axes[1].legend(fontsize=8, loc=(0.45, 0.16))
    axes[1].annotate("identically 0\n(drawn at 1e-8)", (0.03, 0.06), xycoords="axes fraction")
    fig.tight_layout()
    fig.savefig(path, dpi=130)
    plt.close(fig)


def draw_independent(path):
    """CKA of independent Gaussian representations against N, plain and debiased."""
    d, trials = 256, 12
    sizes = [4, 6, 9, 14, 24, 40, 77, 140, 273, 500, 1000]
    found = {False: [], True: []}
    for n in sizes:
        g = torch.Generator().manual_seed(n)
        x, y = torch.randn(2, trials, n, d, generator=g)
        for debiased, values in found.items():
            values.append(cka(x, y, debiased=debiased))
    fig, axis = plt.subplots(figsize=(6.4, 3.6))
    for debiased, color, name in ((False, RED, "CKA"), (True, INK, "debiased CKA")):
        mean = [v.mean().item() for v in found[debiased]]
        std = [v.std().item() for v in found[debiased]]
        axis.errorbar(sizes, mean, std, color=color, marker="o", markersize=3, label=name)
    curve = [1 / (1 + (n - 1) / d) for n in sizes]
    axis.plot(sizes, curve, color="black", linewidth=0.8, linestyle="--", label="1 / (1 + (N-1)/D)")
    for n, level in ((273, "p2"), (77, "p3"), (24, "p4"), (6, "p5")):
        axis.axvline(n, color=GREY, linewidth=0.6, linestyle=":")
        axis.text(n, 1.04, level, ha="center", fontsize=8, color=GREY)
    axis.set(xscale="log", ylim=(-0.6, 1.12), xlabel="samples N (patches), D = 256", ylabel="CKA")
    axis.legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=130)
    plt.close(fig)


def plain(x, y):
    """CKA as it is written, by H K H."""
    n = len(x)
    h = torch.eye(n, dtype=x.dtype) - 1 / n
    k, l = h @ (x @ x.T) @ h, h @ (y @ y.T) @ h
    return (k * l).sum() / torch.sqrt((k * k).sum() * (l * l).sum())


def print_table():
    """Print the results of the plain form and of ours, and the relative error of both."""
    g = torch.Generator().manual_seed(0)
    y = torch.randn(40, 64, generator=g, dtype=F64) + 0.3
    x = 0.5 * y + torch.randn(40, 64, generator=g, dtype=F64)
    cases = {f"float32, scale {s:g}": (s * x).float() for s in (1e-20, 1e-10, 1, 1e5, 1e10, 1e17)}
    cases |= {f"float16, scale {s:g}": (s * x).half() for s in (0.01, 1, 30)}
    cases |= {"bfloat16": x.bfloat16(), "float32, 1000 sigma off the origin": (x + 1000).float()}
    rows = {name: (data, (data.double() / data.abs().max() * 4)) for name, data in cases.items()}
    print("| input | plain form: value, gradient error | here: value, gradient error | exact |")
    print("|---|---|---|---|")
    for name, (data, exact) in rows.items():
        scale = 4 / data.double().abs().max().item()
        wanted, slope = with_gradient(plain, exact, exact_partner(y))
        cells = []
        for function in (plain, cka):
            value, gradient = with_gradient(function, data, exact_partner(y).to(data.dtype))
            error = (gradient.double() / scale - slope).norm() / slope.norm()
            cells.append(f"{value:.7g}, {error:.0e}")
        print(f"| {name} | {cells[0]} | {cells[1]} | {wanted:.7g} |")


def exact_partner(y):
    # Numbers that all types hold exactly, so that only the arithmetic differs.
    return (4 * y).round() / 4


def with_gradient(function, x, y):
    x = x.detach().clone().requires_grad_()
    value = function(x, y)
    return value.item(), torch.autograd.grad(value.float() if value.dtype != F64 else value, x)[0]


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    draw_chain(IMAGES / "theory_chain.png")
    draw_independent(IMAGES / "theory_independent.png")
    print_table()
