"""The shipped configs: every pair with every method, as the command line composes them."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pcka.classification.config import load_config
from pcka.classification.distiller import build_terms
from pcka.classification.models import create_model
from pcka.classification.tapped_model import LOGITS, TappedModel

CONFIGS = Path(__file__).parents[2] / "configs" / "classification"
METHODS = sorted((CONFIGS / "methods").glob("*.yaml"))
PAIRS = sorted((CONFIGS / "pairs").glob("*.yaml"))
QUICK = [pytest.param(p, id=p.stem) for p in PAIRS if "resnet32x4" in p.stem or "vgg" in p.stem]
LARGE = [
    pytest.param(p, id=p.stem, marks=pytest.mark.slow)
    for p in PAIRS
    if p.stem not in {q.id for q in QUICK}
]
FEATURES = ("stage2", "last", "pooled")
BATCH = 4


@pytest.mark.parametrize("pair", [*QUICK, *LARGE])
def test_every_method_trains_every_pair(pair):
    """Both networks run once, and the gradients of each method reach the student."""
    cfg = load_config([pair])
    size, classes = {"cifar100": (32, 100), "imagenet": (64, 1000)}[cfg.data.name]
    student, teacher = (create_model(side.name, classes) for side in (cfg.student, cfg.teacher))
    images, labels = torch.randn(BATCH, 3, size, size), torch.arange(BATCH)
    theirs = TappedModel(teacher.eval().requires_grad_(False), FEATURES)(images)
    mine = TappedModel(student, FEATURES)(images)
    leaves = {name: value.detach().requires_grad_() for name, value in mine.items()}
    for method in METHODS:
        # After pooling, torchvision's networks have maps of one cell.
        maps = method.stem == "itrd" and mine["pooled"].dim() == 4
        both = load_config([pair, method], ["terms.itrd.adapter", "conv1x1"] if maps else [])
        assert (both.student, both.train, both.data) == (cfg.student, cfg.train, cfg.data)
        terms, _ = build_terms(both.terms, student, teacher, size)
        features = {name: terms.through(name, leaf) for name, leaf in leaves.items()}
        losses = terms(features, theirs, labels)
        own = both.ce_weight * F.cross_entropy(features[LOGITS], labels)
        if terms.balances:  # in a network, the cross-entropy has a gradient at all features
            own = own + sum(feature.square().mean() for feature in features.values())
        loss = sum(losses.values(), start=own)
        used = {name for term in both.terms for name in term.features}
        for leaf in leaves.values():
            leaf.grad = None
        loss.backward()
        for name in used:
            gradient = leaves[name].grad
            assert loss.isfinite() and gradient.isfinite().all(), (method.stem, losses)
            assert gradient.any(), method.stem
    torch.autograd.backward(list(mine.values()), [torch.ones_like(v) for v in mine.values()])
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_the_pairs_of_the_published_tables():
    pairs = {path.stem: load_config([path]) for path in PAIRS}
    assert len({(cfg.teacher.name, cfg.student.name) for cfg in pairs.values()}) == 11
    for name, cfg in pairs.items():
        recipe = (cfg.train.epochs, cfg.train.batch_size, cfg.train.lr)
        if cfg.data.name == "imagenet":
            assert recipe == (100, 512, 0.2)
        else:
            slow = "shufflenet" in name or "mobilenet" in name
            assert recipe == (240, 64, 0.01 if slow else 0.05), name


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
def test_headers_name_the_files_they_stand_in(path):
    header = path.read_text().split("\n_BASE_")[0]
    assert f"pairs/{path.name}" in header and f"output/classification/{path.stem}" in header
