"""Published layouts of trained weights, and the files that users give by mistake."""

import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pcka.classification.checkpoints import CheckpointError, load_weights
from pcka.classification.models import create_model

CLASSES = 10


@pytest.fixture(scope="module")
def trained():
    """Return a resnet8 that differs from a new one in all of its state."""
    torch.manual_seed(5)
    model = create_model("resnet8", CLASSES)
    model(torch.randn(4, 3, 32, 32))
    return model


def prefixed(model, prefix):
    return {prefix + k: v for k, v in model.state_dict().items()}


def student_and_teacher(trained, prefix):
    teacher = create_model("resnet14", CLASSES)
    projection = {f"{prefix}conv_reg.weight": torch.zeros(2)}
    return {
        **prefixed(trained, prefix + "student."),
        **prefixed(teacher, prefix + "teacher."),
        **projection,
    }


LAYOUTS = {
    "bare": lambda m: m.state_dict(),
    "bare: module.*": lambda m: prefixed(m, "module."),
    "bare: student.*": lambda m: student_and_teacher(m, ""),
    "model": lambda m: {"epoch": 240, "model": m.state_dict(), "best_acc": torch.tensor(70.0)},
    "state_dict": lambda m: {"best_prec1": 91.7, "state_dict": m.state_dict()},
    "state_dict: module.*": lambda m: {"state_dict": prefixed(m, "module.")},
    "model: module.student.*": lambda m: {"model": student_and_teacher(m, "module."), "epoch": 3},
    "model: _orig_mod.*": lambda m: {"model": prefixed(m, "_orig_mod.")},
    "model: module._orig_mod.*": lambda m: {"model": prefixed(m, "module._orig_mod.")},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(trained, tmp_path, layout, zipped):
    path = tmp_path / "ckpt_epoch_240.pth"
    torch.save(LAYOUTS[layout](trained), path, _use_new_zipfile_serialization=zipped)
    model = create_model("resnet8", CLASSES)
    loaded = load_weights(model, path)
    assert (loaded.path, loaded.layout, loaded.keys) == (
        str(path),
        layout,
        len(trained.state_dict()),
    )
    for key, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_options_and_numpy_accuracies_beside_the_weights(trained, tmp_path):
    options = argparse.Namespace(model="resnet8", learning_rate=0.05, lr_decay_epochs=[150, 180])
    content = {"opt": options, "model": trained.state_dict(), "acc": np.float64(70.5)}
    torch.save({**content, "top5": np.float32(90)}, tmp_path / "resnet8_last.pth")
    model = create_model("resnet8", CLASSES)
    load_weights(model, tmp_path / "resnet8_last.pth")
    assert torch.equal(model.fc.weight, trained.fc.weight)


def test_numbers_of_batches_may_be_missing(trained, tmp_path):
    state = {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    model = create_model("resnet8", CLASSES)
    assert load_weights(model, tmp_path / "old.pth").keys == len(state)
    assert torch.equal(model.bn1.running_mean, trained.bn1.running_mean)


def refused(tmp_path, content, words, *, model="resnet8", classes=CLASSES, name="file.pth"):
    """Save, fail to load, match the message with the pattern; the model stays unchanged."""
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    model = create_model(model, classes)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as error:
        load_weights(model, path)
    assert "\n" not in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_depth(trained, tmp_path):
    words = r"file\.pth fits resnet8 \(10 classes\), not resnet14"
    refused(tmp_path, trained.state_dict(), words, model="resnet14")


def test_another_width(trained, tmp_path):
    words = r"fits resnet8 \(10 classes\), not resnet8x4"
    refused(tmp_path, trained.state_dict(), words, model="resnet8x4", classes=100)


def test_another_shortcut(trained, tmp_path):
    words = "fits resnet8 .*, not resnet8_option_a"
    refused(tmp_path, trained.state_dict(), words, model="resnet8_option_a")


def test_another_number_of_classes(trained, tmp_path):
    words = "is resnet8 for 10 classes, and the model is to tell 100 apart"
    refused(tmp_path, trained.state_dict(), words, classes=100)


def test_a_missing_and_an_additional_entry(trained, tmp_path):
    state = dict(trained.state_dict())
    state["layer2.0.se.weight"] = state.pop("layer2.0.conv2.weight")
    words = (
        r"fits neither resnet8 nor(.|\n)*layer2\.0\.conv2\.weight \(missing in the file(.|\n)*"
        r"layer2\.0\.se\.weight \(\(32, 32, 3, 3\) in the file, missing wanted"
    )
    refused(tmp_path, state, words)


def test_a_model_of_ones_own(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"fits resnet8 .*, not Linear"):
        load_weights(nn.Linear(2, 2), tmp_path / "file.pth")


@pytest.mark.parametrize(
    "key", ["backbone.bottom_up.stem.conv1.weight", "bbox_head.fc.weight", "roi_heads.x"]
)
def test_a_detector(tmp_path, key):
    refused(tmp_path, {"model": {key: torch.ones(2, 2)}}, "holds a detector")


def test_a_diverged_run(trained, tmp_path):
    state = {k: v.clone() for k, v in trained.state_dict().items()}
    state["fc.bias"][3] = float("nan")
    refused(tmp_path, {"model": state}, r"NaN or infinity in fc\.bias: its training")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "holds no weights, .*, but a list"),
        ({"epoch": 3, "optimizer": {}}, "but a dictionary of epoch, optimizer"),
        ({"model": {}}, "a dictionary of nothing"),
        ({"model": {0: torch.ones(1)}}, "a dictionary of 0"),
        (torch.ones(2), "a Tensor"),
        (b"", "is empty: fetch it again"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "download that failed"),
        (b"\x00\x01 noise", "damaged, cut short"),
    ],
)
def test_no_weights(tmp_path, content, words):
    refused(tmp_path, content, words)


def test_a_file_cut_short(trained, tmp_path):
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    refused(tmp_path, buffer.getvalue()[:50_000], "cut short")


def test_a_pickle_of_detectron2(tmp_path):
    content = pickle.dumps({"model": {"stem.conv1.weight": np.ones(2)}, "__author__": "x"}, 2)
    refused(tmp_path, content, "holds a detector .* which teaches no classifier", name="R-50.pkl")


def test_a_whole_model(trained, tmp_path):
    words = r"an object of pcka\.classification\.models\.resnet\.ResNet.*torch\.save\(model\.state"
    refused(tmp_path, trained, words)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_file_cannot_run_code(trained, tmp_path):
    content = {"model": trained.state_dict(), "opt": RunsCode(tmp_path / "made")}
    refused(tmp_path, content, r"an object of \w+\.mkdir")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_archives(trained, tmp_path, kind):
    member = tmp_path / "ckpt_epoch_240.pth"
    torch.save(trained.state_dict(), member)
    path, inner = tmp_path / f"teachers.{kind}", "resnet8_vanilla/ckpt_epoch_240.pth"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(member, inner)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(member, inner)
    with pytest.raises(CheckpointError, match=f"is an archive.*such as {inner}"):
        load_weights(create_model("resnet8", CLASSES), path)


def test_a_checkpoint_whose_name_ends_in_tar(trained, tmp_path):
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "model_best.pth.tar")
    load_weights(create_model("resnet8", CLASSES), tmp_path / "model_best.pth.tar")


def test_paths(tmp_path):
    model = create_model("resnet8", CLASSES)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*absent\.pth"):
        load_weights(model, tmp_path / "absent.pth")
    (tmp_path / "ckpt_epoch_240.pth").touch()
    with pytest.raises(CheckpointError, match=r"is a folder.*ckpt_epoch_240\.pth"):
        load_weights(model, tmp_path)


def shared_data():
    folders = [parent / "shared" / "data" for parent in Path(__file__).resolve().parents[2:]]
    return next((f for f in folders if (f / "cifar10_teachers").is_dir()), None)


@pytest.mark.skipif(shared_data() is None, reason="no trained CIFAR-10 teachers beside the project")
def test_a_published_teacher_is_as_good_as_published():
    model = create_model("resnet20_option_a", CLASSES).eval()
    loaded = load_weights(model, shared_data() / "cifar10_teachers" / "resnet20-12fca82f.th")
    assert (loaded.layout, loaded.keys) == ("state_dict: module.*", 97)
    with zipfile.ZipFile(shared_data() / "cifar10.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("test/") and n[-1] != "/")
        classes = sorted({name.split("/")[1] for name in names})
        names = names[::20]
        images = np.stack([np.asarray(Image.open(archive.open(n)).convert("RGB")) for n in names])
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    x = ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)
    labels = torch.tensor([classes.index(name.split("/")[1]) for name in names])
    with torch.inference_mode():
        accuracy = (model(x).argmax(1) == labels).double().mean().item()
    assert len(names) == 500
    assert accuracy > 0.88  # 91.73 % on all 10,000 images; three deviations of 500 are 3.7 points


@pytest.mark.parametrize(
    "value",
    [
        pathlib.PosixPath("out"),
        datetime.datetime(2024, 1, 20),
        types.SimpleNamespace(lr=0.1),
        argparse.Namespace(out=pathlib.PosixPath("out")),
        collections.defaultdict(list),
    ],
)
def test_plain_values_beside_the_weights(trained, tmp_path, value):
    torch.save({"state_dict": trained.state_dict(), "value": value}, tmp_path / "file.pth")
    load_weights(create_model("resnet8", CLASSES), tmp_path / "file.pth")
