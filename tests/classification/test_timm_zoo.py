"""timm's classifiers by name: features at the right strides, weights from files, clear errors."""

import sys
from copy import deepcopy

import pytest
import torch
import yaml
from torch import nn

from pcka import timm_networks
from pcka.classification.checkpoints import load_weights
from pcka.classification.models import create_model, feature_modules, model_names
from pcka.classification.train import main
from pcka.core import Taps
from pcka.errors import ConfigError

# Channels of stage1 ... and of `last`; then the image's size.
SHAPES = {
    "resnet10t": ([64, 128, 256, 512], 512, 64),
    "test_resnet": ([32, 48, 192, 96], 96, 64),
    "mobilenetv3_small_050": ([8, 16, 24, 288], 288, 64),
    "convnext_atto": ([40, 80, 160, 320], 320, 64),
    "regnetx_002": ([24, 56, 152, 368], 368, 64),
    "vgg11": ([256, 512, 512, 512], 4096, 64),  # has a submodule called `features`
    "swin_tiny_patch4_window7_224": ([96, 192, 384, 768], 768, 224),  # maps (B, H, W, C) inside
}


def needs_timm():
    return pytest.importorskip("timm")


def without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    # Without its cache: timm may have been imported before.
    monkeypatch.setattr(timm_networks, "import_timm", timm_networks.import_timm.__wrapped__)


def test_the_message_where_timm_is_missing(monkeypatch):
    without_timm(monkeypatch)
    with pytest.raises(ConfigError, match=r"cannot be imported .*pip install 'pcka\[timm\]'"):
        create_model("timm:resnet10t", 10)


def test_an_old_timm_is_refused(monkeypatch):
    timm = needs_timm()
    monkeypatch.setattr(timm, "__version__", "0.9.16")
    with pytest.raises(ConfigError, match=r"timm 0\.9\.16 is too old: pip install 'timm>=1\.0\."):
        timm_networks.import_timm.__wrapped__()


@pytest.mark.parametrize("name", SHAPES)
def test_features_by_name(name):
    needs_timm()
    stages, last, size = SHAPES[name]
    model = create_model(f"timm:{name}", 7).eval()
    taps = Taps(feature_modules(model))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad(), taps.record() as features:
        logits = model(images)
    assert logits.shape == (2, 7)
    wanted = {
        f"stage{i}": (2, c, size // 2 ** (i + 1), size // 2 ** (i + 1))
        for i, c in enumerate(stages, start=1)
    }
    assert {k: tuple(v.shape) for k, v in features.items() if k.startswith("stage")} == wanted
    assert features["last"].shape[:2] == (2, last)
    torch.testing.assert_close(features["pooled"].flatten(1), features["last"].mean((2, 3)))
    plain = timm_networks.timm_model(name, 7).eval()
    plain.load_state_dict(model.state_dict())  # the identities hold no weights
    with torch.no_grad():
        assert torch.equal(plain(images), logits)


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_what_replaces_a_feature_is_gone_on_with_in_copies_as_well(name):
    needs_timm()
    model = create_model(f"timm:{name}", 7).eval()
    copied = deepcopy(model)
    images = torch.randn(1, 3, SHAPES[name][-1], SHAPES[name][-1])
    for network in (copied, model):
        for feature in ("stage2", "last"):
            taps = Taps(feature_modules(network, [feature]))
            with torch.no_grad(), taps.record(lambda _, x: 0 * x):
                changed = network(images)
            with torch.no_grad():
                assert not torch.equal(changed, network(images)), feature


def test_a_network_of_tokens_has_its_pooled_vector_alone():
    needs_timm()
    model = create_model("timm:test_vit", 7)
    taps = Taps(feature_modules(model))
    with taps.record() as features:
        model(torch.randn(2, 3, 160, 160))
    assert {k: tuple(v.shape) for k, v in features.items()} == {"pooled": (2, 64)}
    with pytest.raises(ValueError, match="no feature 'stage1': it has pooled"):
        feature_modules(model, ["stage1"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnet51", r"timm has no network 'resnet51', did you mean .*resnet50"),
        ("timm:ConvNext_Att", "did you mean convnext_atto"),
        (
            "timm:resnet18.a1_in1",
            r"no weights 'a1_in1' of resnet18, did you mean resnet18\.a1_in1k",
        ),
        ("timm:hf-hub:someone/net", "timm has no network 'hf-hub:someone/net'"),
        ("timm:", r"timm has no network '': timm\.list_models\(\) lists its names"),
    ],
)
def test_unknown_names(name, words):
    needs_timm()
    with pytest.raises(ConfigError, match=words):
        create_model(name, 10)
    assert not any(known.startswith("timm:") for known in model_names())


def test_weights_from_files(tmp_path):
    needs_timm()
    from safetensors.torch import save_file

    torch.manual_seed(1)
    source = create_model("timm:test_resnet.r160_in1k", 7)
    save_file(source.state_dict(), tmp_path / "net.safetensors")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "net.pth")
    for file in ("net.safetensors", "net.pth"):
        model = create_model("timm:test_resnet", 7)
        loaded = load_weights(model, tmp_path / file)
        assert loaded.keys == len(source.state_dict())
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())
    other = create_model("timm:test_convnext", 7)
    with pytest.raises(ConfigError, match=r"net\.pth fits neither timm:test_convnext nor"):
        load_weights(other, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match=r"fc\.weight \(\(7, 96\) in the file, \(8, 96\) wanted"):
        load_weights(create_model("timm:test_resnet", 8), tmp_path / "net.pth")


@pytest.mark.slow
def test_a_run_with_a_teacher_of_timm(tmp_path, capsys):
    needs_timm()
    torch.save(create_model("timm:mobilenetv3_small_050", 10).state_dict(), tmp_path / "t.pth")
    content = {
        "student": {"name": "timm:test_resnet"},
        "teacher": {
            "name": "timm:mobilenetv3_small_050",
            "weights": str(tmp_path / "t.pth"),
            "min_accuracy": 0,
        },
        "data": {"name": "digits", "holdout": 0.95},
        "terms": [
            {"name": "fcka", "features": ["last", "pooled"], "loss": "FeatureCKA", "weight": 1},
        ],
        "train": {"epochs": 1, "milestones": []},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    arguments = ["--config-file", str(tmp_path / "run.yaml"), "--device", "cpu"]
    assert main(arguments) == 0
    state = torch.load(tmp_path / "run" / "student.pth", weights_only=True)["model"]
    plain = timm_networks.import_timm().create_model("test_resnet", num_classes=10)
    plain.load_state_dict(state)
    assert main([*arguments, "--resume"]) == 0
    capsys.readouterr()
    fresh = ["output_dir", str(tmp_path / "other")]
    for key, value, words in (
        ("student.name", "timm:resnet51", "student.name: timm has no network 'resnet51'"),
        ("teacher.name", "timm:test_resnet", "t.pth fits neither timm:test_resnet nor"),
    ):
        assert main([*arguments, *fresh, key, value]) == 2
        assert words in capsys.readouterr().err


def test_identities_hold_nothing():
    needs_timm()
    model = create_model("timm:test_resnet", 7)
    assert all(isinstance(m, nn.Identity) for m in model.feature_maps.values())
    assert not any("feature_maps" in key for key in model.state_dict())
