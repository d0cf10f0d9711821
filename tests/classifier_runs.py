"""Runs that take a second on the embedded digits, and the smallest networks with every part.

As a program, ``python classifier_runs.py ARGUMENTS``, this is ``python -m classification.train``
with these networks added.
"""

import csv
import os
import signal
import sys
from functools import cache

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from processes import run
from torch import nn

import pcka.classification.data as classification_data
from pcka.classification import models
from pcka.classification.building import build_distiller
from pcka.classification.config import load_config
from pcka.classification.data import build_data
from pcka.classification.processes import Process
from pcka.classification.train import main, train

CPU = Process(torch.device("cpu"))
# A tenth of the training images, 145: four batches of 32 and one of 17.
BASE = {
    "device": "cpu",
    "data": {"name": "digits", "holdout": 0.9},
    "student": {"name": "tiny"},
    "train": {"epochs": 2, "batch_size": 32, "milestones": [1]},
}
TERMS = {
    "kd": {"name": "kd", "features": ["logits"], "loss": "KD"},
    "fcka": {"name": "fcka", "features": ["last"], "loss": "FeatureCKA"},
    "intra": {"name": "intra", "features": ["logits"], "loss": "LogitCKA"},
    "inter": {
        "name": "inter",
        "features": ["logits"],
        "loss": "LogitCKA",
        "loss_args": {"relation": "inter"},
    },
    "hint": {"name": "hint", "features": ["stage1"], "loss": "Mimic", "adapter": "conv1x1"},
}


class Tiny(nn.Module):
    """Two stages, of 8x8 and 4x4 cells at ``width`` and twice that; computes in its own type."""

    features = models.features.name_features("stage1", "stage2", last="stage2")

    def __init__(self, num_classes, width=4, norm=True, dropout=0.0):
        super().__init__()

        def stage(before, after, size, stride):
            conv = nn.Conv2d(before, after, size, stride=stride, padding=size // 2)
            return nn.Sequential(conv, nn.BatchNorm2d(after) if norm else nn.Identity(), nn.ReLU())

        self.stage1 = stage(3, width, 5, 4)
        self.stage2 = stage(width, 2 * width, 3, 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        maps = self.stage2(self.stage1(x.to(self.fc.weight.dtype)))
        return self.fc(self.dropout(self.pool(maps)))


TINY = {
    "tiny": Tiny,
    "tiny_dropout": lambda classes: Tiny(classes, dropout=0.3),
    "tiny_plain": lambda classes: Tiny(classes, norm=False),  # no statistics over the batch
    "tiny_wide": lambda classes: Tiny(classes, width=8),
}


def add_tiny_models(patch):
    """Make TINY known by name, and read the digits once; ``patch`` undoes it."""
    for name, model in TINY.items():
        patch.setitem(models._MODELS, name, model)
    patch.setattr(classification_data, "read_digits", cache(classification_data.read_digits))


def save_teacher(path, name="tiny_wide", classes=10):
    """Write a file of fixed random weights; return the part of a config that names it."""
    torch.manual_seed(5)
    torch.save({"model": models.create_model(name, classes).state_dict()}, path)
    # Random weights predict by chance, so their accuracy is not checked.
    return {"name": name, "weights": str(path), "min_accuracy": 0}


def config_file(path, tree):
    """Write a config file with ``tree`` on top of BASE."""
    merged = {**BASE, **tree, "train": {**BASE["train"], **tree.get("train", {})}}
    path.write_text(yaml.safe_dump(merged))
    return path


def make_config(path, tree=(), *opts):
    """Return a config with ``output_dir`` ``path``."""
    file = config_file(path.with_name(path.name + ".yaml"), {"output_dir": str(path), **dict(tree)})
    return load_config([file], opts)


def make_distiller(cfg):
    data = build_data(cfg.data, batch_size=cfg.train.batch_size, seed=cfg.seed, device="cpu")
    return build_distiller(cfg, data, CPU), data


def noise_images(root, per_class):
    """Write ``train`` and ``val`` with this many 8x8 images of each of two classes."""
    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return str(root)


def weights(folder, name="student.pth"):
    return torch.load(folder / name, weights_only=True)["model"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def metrics(folder):
    """Return the rows of metrics.csv without the columns that depend on the clock."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def run_and_die(cfg, prepare, resume=False):
    """Train in a process of its own, which kills itself by SIGKILL as ``prepare(die)`` arranges."""

    def job():
        add_tiny_models(pytest.MonkeyPatch())
        prepare(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        train(cfg, CPU, resume=resume)

    process = run(job)
    process.join()
    assert process.exitcode == -signal.SIGKILL


if __name__ == "__main__":
    torch.set_num_threads(1)
    add_tiny_models(pytest.MonkeyPatch())
    sys.exit(main())
