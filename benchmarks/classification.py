"""Images per second of the whole training loop: this package's against the usual one.

    python benchmarks/classification.py                      # ResNet-20 > ResNet-8, CPU
    python benchmarks/classification.py --student resnet8x4 --teacher resnet32x4 --amp bf16 \\
        --channels-last --compile                            # on a GPU

Both train the same student by the same teacher with RCKA on the same 32x32 images, an epoch each
in turn; the first round is not counted. The usual loop keeps PIL images, augments them one by one
with torchvision in worker processes, and takes CKA as it is defined: H K H, traces of products, by
autograd. Last comes what share of a step our input and our terms take.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from PIL import Image
from rcka import plain as plain_cka
from timing import argument_parser, describe, medians, prepare
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pcka.classification.building import build_distiller
from pcka.classification.config import load_config
from pcka.classification.data import Data
from pcka.classification.data.tensors import ImageSet, TensorEvalLoader, TensorTrainLoader
from pcka.classification.engine import Engine
from pcka.classification.models import create_model
from pcka.classification.processes import Process

CONFIGS = Path(__file__).parents[1] / "configs" / "classification"
CLASSES = 100


class PILImages(Dataset):
    """Images as torchvision's CIFAR gives them."""

    def __init__(self, data, transform):
        self.images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in data.images]
        self.labels, self.transform = data.labels.tolist(), transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


class Usual:
    """The plain loop; ``epoch()`` trains one."""

    def __init__(self, student, teacher, data, cfg, device, workers):
        steps = [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(cfg.data.mean, cfg.data.std),
        ]
        self.loader = DataLoader(
            PILImages(data, transforms.Compose(steps)),
            batch_size=cfg.train.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        self.student, self.teacher = student.train(), teacher.eval()
        self.maps = {}
        for name, model in (("student", student), ("teacher", teacher)):
            last = model.get_submodule(model.features["last"])
            last.register_forward_hook(partial(self._keep, name))
        self.optimizer = torch.optim.SGD(
            student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
        )
        self.device, self.amp = device, cfg.train.amp == "bf16"

    def _keep(self, name, module, args, output):
        self.maps[name] = output

    def epoch(self):
        for images, labels in self.loader:
            images = images.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            self.step(images, labels)

    def step(self, images, labels):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            with torch.no_grad():
                wanted = self.teacher(images)
            found = self.student(images)
        loss = F.cross_entropy(found.float(), labels)
        found, wanted = found.float(), wanted.float()
        maps = [self.maps[name].float() for name in ("student", "teacher")]
        for pair in (maps, (found, wanted), (found.T, wanted.T)):
            loss = loss + 1 - plain_cka(*pair)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class InTurn:
    """Our loader, handed to an unchanged engine: times its epochs, the other loop's before each."""

    def __init__(self, loader, other, device):
        self.loader, self.other, self.device = loader, other, device
        self.samples = loader.samples
        self.seconds = {"usual": [], "ours": []}

    def __len__(self):
        return len(self.loader)

    def epoch(self, index, first_batch=0):
        start = self._now()
        self.other()
        middle = self._now()
        yield from self.loader.epoch(index, first_batch)  # the engine's steps run in between
        self.seconds["usual"].append(middle - start)
        self.seconds["ours"].append(self._now() - middle)

    def _now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def synthetic(images, seed=0):
    """``images`` random pictures of 32x32 pixels, smooth as photographs are."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(images, 3, 8, 8, generator=g)
    pixels = F.interpolate(coarse, size=32, mode="bilinear", align_corners=False).mul(255).byte()
    return ImageSet(pixels, torch.randint(0, CLASSES, (images,), generator=g))


def share_calls(distiller, loader, batch_size):
    """One epoch of our input, and our terms forward and backward, each by itself."""
    device = loader.images.device
    maps, logits = (batch_size, 64, 8, 8), (batch_size, CLASSES)
    teacher = {
        "last": torch.randn(maps, device=device).relu(),
        "logits": torch.randn(logits, device=device),
    }
    student = {n: (t + torch.randn_like(t)).requires_grad_() for n, t in teacher.items()}

    def terms():
        for leaf in student.values():
            leaf.grad = None
        sum(distiller.distill(student, teacher).values()).backward()

    def epoch():
        for _ in loader.epoch(0):
            pass

    return {"input": epoch, "terms": terms}


def main():
    parser = argument_parser(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of an epoch")
    parser.add_argument("--workers", type=int, default=2, help="of the usual loop")
    parser.add_argument("--amp", default="none", choices=["none", "bf16"])
    parser.add_argument("--compile", action="store_true", help="our loop alone")
    parser.add_argument("--channels-last", action="store_true", help="our loop alone")
    args = parser.parse_args()
    device = prepare(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        torch.manual_seed(0)
        student, teacher = (create_model(n, CLASSES) for n in (args.student, args.teacher))
        torch.save(teacher.state_dict(), folder / "teacher.pth")
        torch.save(student.state_dict(), folder / "student.pth")
        pairs = {
            "output_dir": folder / "run",
            "student.name": args.student,
            "student.weights": folder / "student.pth",
            "teacher.name": args.teacher,
            "teacher.weights": folder / "teacher.pth",
            "train.epochs": args.rounds + 1,
            "train.milestones": "[]",
            "train.batch_size": args.batch,
            "train.eval_every": args.rounds + 1,
            "train.checkpoint_every": args.rounds + 1,
            "train.amp": args.amp,
            "train.compile": str(args.compile).lower(),
            "train.channels_last": str(args.channels_last).lower(),
        }
        files = [CONFIGS / "base" / "cifar100.yaml", CONFIGS / "methods" / "rcka.yaml"]
        cfg = load_config(files, [str(token) for pair in pairs.items() for token in pair])
        images = synthetic(args.batch * args.steps)
        statistics = {"mean": cfg.data.mean, "std": cfg.data.std, "device": device}
        loader = TensorTrainLoader(
            images, batch_size=args.batch, padding=4, flip=True, seed=1, **statistics
        )
        usual = Usual(student.to(device), teacher.to(device), images, cfg, device, args.workers)
        in_turn = InTurn(loader, usual.epoch, device)
        val = TensorEvalLoader(images.subset(slice(0, args.batch)), batch_size=64, **statistics)
        data = Data(in_turn, val, tuple(map(str, range(CLASSES))), 32)
        process = Process(device)
        distiller = build_distiller(cfg, data, process)
        (folder / "run").mkdir()
        Engine(cfg, data, distiller, process, folder / "run").train()
    calls = share_calls(distiller, loader, args.batch)
    for call in calls.values():
        call()
    shares = medians(calls, device, 4 * args.rounds)

    ours = [f"amp {args.amp}", "channels-last" * args.channels_last, "compiled" * args.compile]
    print(f"{describe(device)}; the usual loop has {args.workers} worker(s)")
    print(f"{args.teacher} > {args.student}, RCKA, B={args.batch}; {', '.join(filter(None, ours))}")
    print(f"medians of {args.rounds} epochs of {args.steps} steps")
    steps = {name: median(seconds[1:]) / args.steps for name, seconds in in_turn.seconds.items()}
    print("\n| loop | images per second | milliseconds per step | speed |\n|---|---|---|---|")
    for name, seconds in steps.items():
        print(
            f"| {name} | {args.batch / seconds:.0f} | {1e3 * seconds:.1f} "
            f"| {steps['usual'] / seconds:.2f} |"
        )
    taken = {"input": shares["input"] / args.steps, "terms": shares["terms"]}
    for name, seconds in taken.items():
        print(f"our {name}: {1e3 * seconds:.2f} ms, {seconds / steps['ours']:.1%} of our step")


if __name__ == "__main__":
    main()
