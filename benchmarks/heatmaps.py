"""CKA between all layers of two ResNets: ours beside the packages of the index, values and time.

    pip install pytorch-cka cka-pytorch      (in an environment of their own)
    OMP_NUM_THREADS=1 python benchmarks/heatmaps.py

ResNet-18 and ResNet-34 of torchvision with random weights (of a seed), random images in batches.
The oracle is the definition, in float64: the Gram matrices of all images at once, H K H, traces of
products. Two oracles more say what an estimate has to do with it: the same with the unbiased HSIC,
and the mean of the unbiased HSIC over minibatches, which is what the packages say they compute.
All of them, ours too, compare the outputs of the named layers, flattened; BatchNorm is followed by
a ReLU in place. A package that is not installed is left out.
"""

import contextlib
import importlib
import io
from copy import deepcopy

import torch
from timing import argument_parser, describe, medians, prepare
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18, resnet34
from torchvision.models.resnet import BasicBlock

from pcka.analysis import LayerReader, layer_similarity


def blocks(model):
    """The outputs of all blocks, and the logits; nothing changes these any more."""
    return [name for name, module in model.named_modules() if isinstance(module, BasicBlock)] + [
        "fc"
    ]


def before_relus(model):
    """The outputs of every first BatchNorm, which a ReLU then overwrites."""
    return [name for name, _ in model.named_modules() if name.split(".")[-1] == "bn1"]


def pytorch_cka(models, loader, layers):
    package = importlib.import_module("cka")
    [matrix] = package.compute_cka(
        *models, loader, layers=layers[0], model2_layers=layers[1], device="cpu", progress=False
    )
    return matrix


def cka_pytorch(models, loader, layers):
    package = importlib.import_module("cka_pytorch.cka")
    calculator = package.CKACalculator(*models, *layers, device=torch.device("cpu"), verbose=False)
    return calculator.calculate_cka_matrix(loader, num_epochs=1)


def ours(models, loader, layers, **options):
    readers = [LayerReader(model, names) for model, names in zip(models, layers, strict=True)]
    batches = (images for images, _ in loader)
    return layer_similarity(*readers, batches, pool="flatten", **options).values


VARIANTS = {
    "ours, all images, as defined": lambda *job: ours(*job, debiased=False),
    "ours, all images, unbiased": ours,
    "ours, minibatches": lambda *job: ours(*job, minibatch=True),
    "pytorch-cka": pytorch_cka,
    "cka-pytorch": cka_pytorch,
}
PACKAGES = {"pytorch-cka": "cka", "cka-pytorch": "cka_pytorch.cka"}


@torch.no_grad()
def features(model, images, layers):
    """Outputs in float64, ``{name: (N, D)}``, each from a run that ends with its layer."""

    class Reached(Exception):
        pass

    found = {}
    for name in layers:

        def stop(module, args, output, name=name):
            found[name] = output.flatten(1).clone()
            raise Reached

        handle = model.get_submodule(name).register_forward_hook(stop)
        with contextlib.suppress(Reached):
            model(images)
        handle.remove()
    return found


def hsic(k, l, unbiased):
    """``tr(K H L H) / (n - 1)^2``, or Song et al. 2012, equation 5."""
    n = len(k)
    if not unbiased:
        h = torch.eye(n, dtype=k.dtype) - 1 / n
        return torch.trace(h @ k @ h @ l) / (n - 1) ** 2
    k, l = k - k.diag().diag(), l - l.diag().diag()
    one = torch.ones(n, dtype=k.dtype)
    last = 2 / (n - 2) * (one @ k @ l @ one)
    return (torch.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - last) / (n * (n - 3))


def oracle(pair, batches, unbiased):
    """CKA ``(Ls, Lt)`` by sums of HSIC over batches of features, weighted by their samples."""
    sides = [[[x for x in side[name].split(batches)] for name in side] for side in pair]
    products = {}
    for key, (a, b) in {"xy": sides, "xx": (sides[0],) * 2, "yy": (sides[1],) * 2}.items():
        grams = [[[x @ x.T for x in layer] for layer in side] for side in (a, b)]
        products[key] = torch.stack(
            [
                torch.stack(
                    [
                        sum(len(k) * hsic(k, l, unbiased) for k, l in zip(x, y, strict=True))
                        for j, y in enumerate(grams[1])
                        if key == "xy" or j == i
                    ]
                )
                for i, x in enumerate(grams[0])
            ]
        )
    return products["xy"] / (products["xx"] * products["yy"].T).sqrt()


def main():
    parser = argument_parser(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    args = parser.parse_args()
    device = prepare(args)
    if device.type != "cpu":
        parser.error("on a CPU alone: --device cpu")
    torch.manual_seed(0)
    models = [build(num_classes=10).eval() for build in (resnet18, resnet34)]
    images = torch.randn(args.images, 3, args.size, args.size)
    loader = DataLoader(TensorDataset(images, torch.zeros(args.images)), args.batch)
    variants = {}
    for name, variant in VARIANTS.items():
        try:
            importlib.import_module(PACKAGES.get(name, "pcka"))
            variants[name] = variant
        except ImportError as error:
            print(f"{name} is left out ({error}): pip install {name}")
    print(
        f"{describe(device)}; {args.images} images of {args.size}x{args.size} in batches of "
        f"{args.batch}; seconds, medians of {args.rounds}"
    )
    exact = [deepcopy(model).double() for model in models]
    for choose in (blocks, before_relus):
        layers = [choose(model) for model in models]
        pair = [features(m, images.double(), n) for m, n in zip(exact, layers, strict=True)]
        wanted = {
            "all, as defined": oracle(pair, args.images, unbiased=False),
            "all, unbiased": oracle(pair, args.images, unbiased=True),
            "minibatches": oracle(pair, args.batch, unbiased=True),
        }

        def run(variant, layers=layers):
            with contextlib.redirect_stdout(io.StringIO()):
                return variant(models, loader, layers)

        found = {name: run(variant).double() for name, variant in variants.items()}
        calls = {name: (lambda v=variant: run(v)) for name, variant in variants.items()}
        times = medians(calls, device, args.rounds)
        size = " x ".join(str(len(names)) for names in layers)
        print(f"\n{choose.__name__}, {size} layers: error to each oracle, largest (mean)\n")
        print(f"| | {' | '.join(wanted)} | seconds |\n|---|{'---|' * (len(wanted) + 1)}")
        for name, values in found.items():
            errors = [(values - w).abs() for w in wanted.values()]
            cells = [f"{e.max():.1e} ({e.mean():.1e})" for e in errors]
            print(f"| {name} | {' | '.join(cells)} | {times[name]:.2f} |")


if __name__ == "__main__":
    main()
