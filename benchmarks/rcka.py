"""FCKA and LCKA, forward and backward, against the plain form.

    python benchmarks/rcka.py
    python benchmarks/rcka.py --rounds 20 --batch 64 256

The plain form is the definition: Gram matrices of the samples, H K H, traces of products, by
autograd. Both take turns in one run; medians. On a GPU it runs unchanged.
"""

import torch
from timing import argument_parser, describe, medians, prepare

from pcka.core import feature_cka, logit_cka

FEATURES = (64, 8, 8)  # the last stage of a CIFAR ResNet


def plain(student, teacher):
    """CKA of ``(N, Dx)`` and ``(N, Dy)`` as it is defined."""
    x, y = student.flatten(1), teacher.flatten(1)
    n = len(x)
    h = torch.eye(n, device=x.device) - 1 / n
    k, l = h @ (x @ x.T) @ h, h @ (y @ y.T) @ h
    return torch.trace(k @ l) / torch.sqrt(torch.trace(k @ k) * torch.trace(l @ l))


def jobs(batches, classes):
    """Name, shape, plain form, ours."""
    for b in batches:
        yield f"FCKA B={b}, D={FEATURES}", (b, *FEATURES), plain, feature_cka
    for relation in ("intra", "inter"):
        for p in classes:
            for b in batches:

                def ours(s, t, relation=relation):
                    return logit_cka(s, t, relation=relation)

                def theirs(s, t, relation=relation):
                    return plain(s, t) if relation == "intra" else plain(s.T, t.T)

                yield f"{relation}-LCKA B={b}, P={p}", (b, p), theirs, ours


def main():
    parser = argument_parser(__doc__.splitlines()[0], rounds=9)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000])
    args = parser.parse_args()
    device = prepare(args)
    print(f"{describe(device)}; milliseconds, medians of {args.rounds}\n")
    print("| job | plain | ours | ratio |\n|---|---|---|---|")
    for name, shape, theirs, ours in jobs(args.batch, args.classes):
        teacher = torch.randn(shape, device=device)
        student = (0.5 * teacher + torch.randn(shape, device=device)).requires_grad_()

        def step(function, student=student, teacher=teacher):
            student.grad = None
            value = function(student, teacher)
            value.backward()
            return value

        difference = (step(theirs) - step(ours)).abs().item()
        assert difference < 1e-3, f"{name}: the two differ by {difference}"
        calls = {"plain": lambda: step(theirs), "ours": lambda: step(ours)}  # noqa: B023
        times = medians(calls, device, args.rounds)
        print(
            f"| {name} | {1e3 * times['plain']:.3f} | {1e3 * times['ours']:.3f} "
            f"| {times['plain'] / times['ours']:.2f} |"
        )


if __name__ == "__main__":
    main()
