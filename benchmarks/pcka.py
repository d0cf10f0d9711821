"""PCKA, forward and backward, on the FPN maps of an 800x1333 image.

    python benchmarks/pcka.py                 # B = 1 and 2, p2-p6; minutes, most of them the loops
    python benchmarks/pcka.py --batch 1 --rounds 1 --skip published

Prints seconds per pass over all levels, and how often they fit into those of the other forms. All
variants compute the same uncentred figure, as published, and are checked against each other.
`floor`: the fewest GEMM operations (two Gram matrices and one product for the gradient) at the rate
of a large GEMM, plus each input read once and the gradient written once at the rate of a copy, both
measured in the same run. On a GPU it runs unchanged; `--dtype float16` gives the maps of autocast.
"""

import torch
import torch.nn.functional as F
from timing import argument_parser, describe, medians, peak_bytes, prepare, rate_calls, rates

from pcka.core import patch_cka

SIZES = {"p2": (200, 336), "p3": (100, 168), "p4": (50, 84), "p5": (25, 42), "p6": (13, 21)}
CHANNELS, PATCH = 256, 16


def patches(x):
    """``(B, C, H, W) -> (C, N, B P P)``, by autograd."""
    b, c, h, w = x.shape
    u, v = -(-h // PATCH), -(-w // PATCH)
    size = (u * PATCH, v * PATCH)
    x = F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False)
    x = x.reshape(b, c, u, PATCH, v, PATCH).permute(1, 2, 4, 0, 3, 5)
    return x.reshape(c, u * v, -1)


def published(student, teacher, inter=False):
    """The algorithm as the paper states it: HSIC as a trace, channel by channel."""

    def one(x, y):
        k, l = x @ x.T, y @ y.T
        return torch.trace(k @ l) / torch.sqrt(torch.trace(k @ k) * torch.trace(l @ l))

    xs, ys = patches(student), patches(teacher)
    total = 0.0
    for c in range(len(xs)):
        total = total + one(xs[c], ys[c])
        if inter:
            total = total + one(xs[c].T, ys[c].T)
    return total / len(xs)


def unbound(student, teacher):
    """The same loop done well: channels unbound once, Frobenius products instead of traces."""

    def one(x, y):
        k, l = x @ x.T, y @ y.T
        return (k * l).sum() / ((k * k).sum() * (l * l).sum()).sqrt()

    xs, ys = patches(student).unbind(), patches(teacher).unbind()
    return torch.stack([one(x, y) for x, y in zip(xs, ys, strict=True)]).mean()


def batched(student, teacher):
    """All channels at once, by autograd."""
    xs, ys = patches(student), patches(teacher)
    k, l = xs @ xs.mT, ys @ ys.mT
    products = [(a * b).sum((-2, -1)) for a, b in ((k, l), (k, k), (l, l))]
    return (products[0] / (products[1] * products[2]).sqrt()).mean()


VARIANTS = {
    "published": published,
    "unbound": unbound,
    "batched": batched,
    "fused": lambda s, t: patch_cka(s, t, center=False),
    "published, inter": lambda s, t: published(s, t, inter=True),
    "fused, inter": lambda s, t: 2 * patch_cka(s, t, center=False, inter=True),
}
# Needs three patches, so not p6; timed on the same levels as `fused` without it.
CENTRED = {
    "fused, centred": lambda s, t: patch_cka(s, t),
    "fused, batch, centred": lambda s, t: patch_cka(s, t, grouping="batch"),
}
MEMORY = "fused", "fused, batch, centred"


def floor_seconds(shape, size, gemm_rate, copy_rate, element_bytes):
    b, (h, w) = shape, size
    n = -(-h // PATCH) * -(-w // PATCH)
    operations = 3 * 2 * n * n * (b * PATCH * PATCH) * CHANNELS
    return operations / gemm_rate + 3 * b * CHANNELS * h * w * element_bytes / copy_rate


def measure(b, levels, names, rounds, device, dtype):
    """Median seconds by variant and level, the floor by level, memory in maps likewise."""
    times, floors, memory = {}, {}, {}
    patch_cka(*torch.randn(2, 1, 8, 64, 64, device=device).requires_grad_()).backward()  # libraries
    for level in levels:
        shape = (b, CHANNELS, *SIZES[level])
        g = torch.Generator(device=device).manual_seed(0)
        teacher = torch.randn(shape, generator=g, device=device).relu().to(dtype)
        student = torch.randn(shape, generator=g, device=device).to(dtype).requires_grad_()

        def step(variant, student=student, teacher=teacher):
            student.grad = None
            value = variant(student, teacher)
            value.backward()
            return value.item() if device.type == "cpu" else value

        variants = {n: v for n, v in {**VARIANTS, **CENTRED}.items() if n in names}
        if level == "p6":
            variants = {n: v for n, v in variants.items() if n not in CENTRED}
        for n in MEMORY:
            if n in variants:
                student.grad = None  # or freeing it would count against the peak
                peak = peak_bytes(lambda: step(variants[n]), device)  # noqa: B023
                memory.setdefault(n, {})[level] = peak / (student.numel() * student.element_size())
        values = {n: float(step(v)) for n, v in variants.items() if n not in CENTRED}
        for n, value in values.items():
            same = next(v for m, v in values.items() if ("inter" in m) == ("inter" in n))
            assert abs(value - same) < 1e-4, f"{level}: {values}"
        calls = {n: (lambda v=v: step(v)) for n, v in variants.items()}
        found = medians({**calls, **rate_calls(device, torch.float32)}, device, rounds)
        floors[level] = floor_seconds(
            b, SIZES[level], *rates(found, device), student.element_size()
        )
        for n in variants:
            times.setdefault(n, {})[level] = found[n]
    return times, floors, memory


def main():
    parser = argument_parser(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--levels", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--skip", nargs="*", default=[], choices=[*VARIANTS, *CENTRED])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    args = parser.parse_args()
    device = prepare(args)
    names = [n for n in (*VARIANTS, *CENTRED) if n not in args.skip]
    print(f"{describe(device)}; {args.dtype} maps, C={CHANNELS}, patches of {PATCH}")
    for b in args.batch:
        times, floors, memory = measure(
            b, args.levels, names, args.rounds, device, getattr(torch, args.dtype)
        )
        print(f"\nB={b}: milliseconds, medians of {args.rounds}")
        print("| variant | " + " | ".join(args.levels) + " | all | x fused |")
        print("|---|" + "---|" * (len(args.levels) + 2))
        fused = times.get("fused", {})
        for name, by_level in {**times, "floor": floors}.items():
            cells = [f"{1e3 * by_level[v]:.2f}" if v in by_level else "-" for v in args.levels]
            total = sum(by_level.values())
            base = times.get("fused, inter", fused) if "inter" in name else fused
            ratio = total / sum(base[v] for v in by_level) if base else float("nan")
            print(f"| {name} | " + " | ".join(cells) + f" | {1e3 * total:.1f} | {ratio:.2f} |")
        if fused:
            print(f"fused over floor: {sum(fused.values()) / sum(floors.values()):.2f}")
        for name, maps in memory.items():
            shown = ", ".join(f"{k} {v:.2f}" for k, v in maps.items())
            print(f"{name}, peak memory above the inputs in maps: {shown}")


if __name__ == "__main__":
    main()
