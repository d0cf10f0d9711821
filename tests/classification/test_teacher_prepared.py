"""The teacher prepared for a GPU: BatchNorm folded, weights cast once."""

import logging
from copy import deepcopy

import pytest
import torch
from classifier_runs import CPU, TERMS, add_tiny_models, make_config, make_distiller, save_teacher
from torch import nn

from pcka.classification import building
from pcka.classification.building import check_teacher, prepare_teacher
from pcka.classification.folding import fold_batch_norm
from pcka.classification.models import create_model
from pcka.classification.processes import Process
from pcka.classification.tapped_model import TappedModel
from pcka.classification.teacher import Teacher
from pcka.errors import ConfigError

STATISTICS = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def lively(model):
    """Give BatchNorm statistics and weights that differ from those of a new layer."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.weight, module.bias):
                value.data.normal_(0.5, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.double().eval()


@pytest.mark.parametrize(
    ("name", "size", "folded"),
    [
        ("resnet20", 32, 21),  # 1 + 18 of the blocks + 2 of the shortcuts
        ("wrn_16_2", 32, 7),  # the first layer, and the first convolution of each block
        ("vgg8", 32, 5),
        ("shufflenet_v2_cifar", 32, None),
        ("torchvision:resnet18", 64, 20),
        ("torchvision:mobilenet_v3_small", 64, 34),
        ("torchvision:densenet121", 64, None),
        ("torchvision:vit_b_32", 224, 0),
    ],
)
def test_folding_keeps_what_a_network_computes(name, size, folded):
    model = lively(create_model(name, 10))
    features = ["last", "logits"] if name.startswith(("res", "wrn", "vgg")) else ["logits"]
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    before = TappedModel(model, features)(images)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    found = fold_batch_norm(model, images[:1], TappedModel(model, features).taps.modules.values())
    after = TappedModel(model, features)(images)
    assert found == (norms - sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()))
    assert folded is None or found == folded
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-10, atol=1e-10)


class Awkward(nn.Module):
    """Convolutions that only seem to be followed by a BatchNorm of their own."""

    def __init__(self):
        super().__init__()
        self.shared, self.twice, self.read, self.free = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

    def forward(self, x):
        x = self.norms[1](self.shared(self.norms[0](self.shared(x))))
        y = self.twice(x)
        x = self.norms[2](y) + y
        x = self.norms[3](self.read(x)) * self.read.weight.sum()
        return self.norms[4](self.free(x))


def test_only_a_batch_norm_that_alone_reads_its_convolution_is_folded():
    model = lively(Awkward())
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    before = model(images)
    assert fold_batch_norm(model, images) == 1
    torch.testing.assert_close(model(images), before)


@pytest.mark.parametrize("kept", ["free", "norms.4"])
def test_outputs_that_are_read_stay(kept):
    model = lively(Awkward())
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert fold_batch_norm(model, images, [model.get_submodule(kept)]) == 0


def test_cast_weights_give_the_bits_of_autocast():
    model = create_model("wrn_16_2", 10).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: None)  # hooks do not hinder it
    images = torch.randn(2, 3, 32, 32)
    options = {**STATISTICS, "data_mean": STATISTICS["mean"], "data_std": STATISTICS["std"]}
    plain, cast = (Teacher(deepcopy(model), ["last"], **options) for _ in range(2))
    folded = fold_batch_norm(plain.model, images)
    assert cast.prepare(images, torch.bfloat16) == folded
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = plain(images), cast(images)
    for key in wanted:
        assert torch.equal(wanted[key], found[key])


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Prepare on a CPU too, as if it were a GPU."""
    monkeypatch.setattr(building, "_GPU", "cpu")


def test_the_preflight_measures_the_prepared_teacher(tmp_path, monkeypatch, on_a_gpu, caplog):
    add_tiny_models(monkeypatch)
    tree = {"teacher": save_teacher(tmp_path / "t.pth"), "terms": [TERMS["kd"]]}
    cfg = make_config(tmp_path / "run", tree)
    distiller, data = make_distiller(cfg)
    before = check_teacher(cfg, distiller.teacher, data, CPU)
    with caplog.at_level(logging.INFO, "classification"):
        prepare_teacher(cfg, distiller.teacher, data, CPU, before)
    assert "BatchNorm layers are folded" in caplog.text

    def spoil(self, images, dtype):
        next(self.model.parameters()).data.mul_(-1)
        return 0

    monkeypatch.setattr(Teacher, "prepare", spoil)
    with pytest.raises(ConfigError, match=r"teacher\.prepare false"):
        prepare_teacher(cfg, distiller.teacher, data, CPU, before)


def test_a_cpu_keeps_the_teacher_as_it_is(tmp_path, monkeypatch):
    add_tiny_models(monkeypatch)
    tree = {"teacher": save_teacher(tmp_path / "t.pth"), "terms": [TERMS["kd"]]}
    cfg = make_config(tmp_path / "run", tree)
    distiller, data = make_distiller(cfg)
    monkeypatch.setattr(Teacher, "prepare", lambda *_: pytest.fail("prepared"))
    prepare_teacher(cfg, distiller.teacher, data, Process(torch.device("cpu")), None)
