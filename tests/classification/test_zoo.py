"""The zoo: sizes and parameter names as published, features by name, any size of image."""

import pytest
import torch
from torch import nn

from pcka.classification.models import create_model, feature_modules, model_names
from pcka.classification.models.layers import channel_shuffle
from pcka.core import Taps

# Parameters at 100 classes (CIFAR-100), at 10 for option A (CIFAR-10), at 1000 for ImageNet.
PARAMETERS = {
    ("resnet20", 100): 278_324,
    ("resnet32", 100): 472_756,
    ("resnet56", 100): 861_620,
    ("resnet110", 100): 1_736_564,
    ("resnet8x4", 100): 1_233_540,
    ("resnet32x4", 100): 7_433_860,
    ("wrn_16_2", 100): 703_284,
    ("wrn_40_1", 100): 569_780,
    ("wrn_40_2", 100): 2_255_156,
    ("vgg8", 100): 3_965_028,
    ("vgg13", 100): 9_462_180,
    ("shufflenet_v1_cifar", 100): 949_258,
    ("shufflenet_v2_cifar", 100): 1_355_528,
    ("mobilenet_v2_cifar", 100): 812_836,
    ("resnet50_cifar", 100): 23_705_252,
    ("resnet20_option_a", 10): 269_722,
    ("resnet56_option_a", 10): 853_018,
    ("resnet110_option_a", 10): 1_727_962,
    ("mobilenet_v1", 1000): 4_231_976,
    ("resnet18", 1000): 11_689_512,
    ("resnet34", 1000): 21_797_672,
}

# Convolutions and linear layers of each family, in order, written from the published checkpoints.
WEIGHTS = {
    "resnet8": """conv1 layer1.0.conv1 layer1.0.conv2
        layer2.0.conv1 layer2.0.conv2 layer2.0.downsample.0
        layer3.0.conv1 layer3.0.conv2 layer3.0.downsample.0 fc""",
    "resnet8x4": """conv1 layer1.0.conv1 layer1.0.conv2 layer1.0.downsample.0
        layer2.0.conv1 layer2.0.conv2 layer2.0.downsample.0
        layer3.0.conv1 layer3.0.conv2 layer3.0.downsample.0 fc""",
    "resnet8_option_a": """conv1 layer1.0.conv1 layer1.0.conv2
        layer2.0.conv1 layer2.0.conv2 layer3.0.conv1 layer3.0.conv2 linear""",
    "wrn_16_1": """conv1
        block1.layer.0.conv1 block1.layer.0.conv2 block1.layer.1.conv1 block1.layer.1.conv2
        block2.layer.0.conv1 block2.layer.0.conv2 block2.layer.0.convShortcut
        block2.layer.1.conv1 block2.layer.1.conv2
        block3.layer.0.conv1 block3.layer.0.conv2 block3.layer.0.convShortcut
        block3.layer.1.conv1 block3.layer.1.conv2 fc""",
    "vgg13": """block0.0 block0.3 block1.0 block1.3 block2.0 block2.3 block3.0 block3.3
        block4.0 block4.3 classifier""",
}
# Of the larger ones, the entries of some parts.
PARTS = {
    ("shufflenet_v1_cifar", "layer2.0"): "conv1 bn1 conv2 bn2 conv3 bn3",
    ("shufflenet_v1_cifar", ""): "conv1 bn1 layer1 layer2 layer3 linear",
    ("shufflenet_v2_cifar", "layer1.0"): "conv1 bn1 conv2 bn2 conv3 bn3 conv4 bn4 conv5 bn5",
    ("shufflenet_v2_cifar", "layer1.3"): "conv1 bn1 conv2 bn2 conv3 bn3",
    ("shufflenet_v2_cifar", ""): "conv1 bn1 layer1 layer2 layer3 conv2 bn2 linear",
    ("mobilenet_v2_cifar", ""): "conv1 blocks conv2 classifier",
    ("mobilenet_v2_cifar", "blocks"): "0 1 2 3 4 5 6",
    ("mobilenet_v2_cifar", "blocks.0.0"): "conv",
    ("mobilenet_v2_cifar", "blocks.5.2.conv"): "0 1 3 4 6 7",
    ("mobilenet_v2_cifar", "conv2"): "0 1",
    ("mobilenet_v2_cifar", "classifier"): "0",
    ("mobilenet_v1", ""): "model fc",
    ("mobilenet_v1", "model"): "0 1 2 3 4 5 6 7 8 9 10 11 12 13",
    ("mobilenet_v1", "model.0"): "0 1",
    ("mobilenet_v1", "model.13"): "0 1 3 4",
    ("resnet50_cifar", ""): "conv1 bn1 layer1 layer2 layer3 layer4 linear",
    ("resnet50_cifar", "layer1.0"): "conv1 bn1 conv2 bn2 conv3 bn3 shortcut",
    ("resnet50_cifar", "layer1.1"): "conv1 bn1 conv2 bn2 conv3 bn3",
    ("resnet50_cifar", "layer2.0.shortcut"): "0 1",
    ("resnet56", "layer2.0"): "conv1 bn1 conv2 bn2 downsample",
    ("wrn_40_2", "block3.layer.0"): "bn1 conv1 bn2 conv2 convShortcut",
    ("wrn_40_2", ""): "conv1 block1 block2 block3 bn1 fc",
    ("vgg13", "block4"): "0 1 3 4",
}

# Channels and height of each stage, of `last`, and the width of `pooled`; then the image's size.
SHAPES = {
    "resnet8": ([(16, 32), (32, 16), (64, 8)], (64, 8), 64, 32),
    "resnet8x4": ([(64, 32), (128, 16), (256, 8)], (256, 8), 256, 32),
    "resnet8_option_a": ([(16, 32), (32, 16), (64, 8)], (64, 8), 64, 32),
    "wrn_16_2": ([(32, 32), (64, 16), (128, 8)], (128, 8), 128, 32),
    "vgg8": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], (512, 4), 512, 32),
    "shufflenet_v1_cifar": ([(240, 16), (480, 8), (960, 4)], (960, 4), 960, 32),
    "shufflenet_v2_cifar": ([(116, 16), (232, 8), (464, 4)], (1024, 4), 1024, 32),
    "mobilenet_v2_cifar": ([(12, 16), (16, 8), (48, 4), (160, 2)], (1280, 2), 1280, 32),
    "resnet50_cifar": ([(256, 16), (512, 8), (1024, 4), (2048, 2)], (2048, 2), 2048, 16),
    "mobilenet_v1": ([(128, 16), (256, 8), (512, 4), (1024, 2)], (1024, 2), 1024, 64),
    "resnet18": ([(64, 16), (128, 8), (256, 4), (512, 2)], (512, 2), 512, 64),
}


def entries(model, part=""):
    """Return the names of the direct children of ``part`` that hold weights or buffers."""
    prefix = f"{part}." if part else ""
    keys = [k.removeprefix(prefix) for k in model.state_dict() if k.startswith(prefix)]
    return list(dict.fromkeys(key.split(".")[0] for key in keys))


def on_meta(name, num_classes):
    with torch.device("meta"):
        return create_model(name, num_classes)


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_number_of_parameters(name, classes):
    model = on_meta(name, classes)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, classes]


@pytest.mark.parametrize("name", WEIGHTS)
def test_names_of_all_weights(name):
    model = on_meta(name, 10)
    layers = {k for k, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert layers == set(WEIGHTS[name].split())


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_names_of_parts(name, part):
    assert set(entries(on_meta(name, 10), part)) == set(PARTS[name, part].split())


@pytest.mark.parametrize("name", SHAPES)
def test_features_by_name(name):
    stages, last, pooled, size = SHAPES[name]
    model = create_model(name, 7)
    taps = Taps(feature_modules(model))
    with taps.record() as features:
        logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 7)
    wanted = {f"stage{i}": (2, c, s, s) for i, (c, s) in enumerate(stages, start=1)}
    wanted["last"] = (2, last[0], last[1], last[1])
    assert {k: tuple(v.shape) for k, v in features.items() if k != "pooled"} == wanted
    assert features["pooled"].flatten(1).shape == (2, pooled)
    torch.testing.assert_close(features["pooled"].flatten(1), features["last"].mean((2, 3)))
    assert features["last"].min() >= 0  # after the activation


@pytest.mark.parametrize("name", SHAPES)
def test_tapped_tensors_are_not_overwritten(name):
    model = create_model(name, 7)
    # Every module of our own networks can be read; torchvision's blocks add in place.
    tapped = feature_modules(model) if name == "resnet18" else dict(model.named_modules())
    before = {}
    with Taps(tapped).record() as features:
        handles = [
            module.register_forward_hook(lambda m, x, y, key=key: before.update({key: y.clone()}))
            for key, module in tapped.items()
        ]
        model(torch.randn(2, 3, SHAPES[name][-1], SHAPES[name][-1]))
    for handle in handles:
        handle.remove()
    assert len(features) == len(before) > 4
    for key in before:
        assert torch.equal(features[key], before[key]), key


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_reach_every_parameter(name):
    model = create_model(name, 7)
    model(torch.randn(2, 3, SHAPES[name][-1], SHAPES[name][-1])).square().sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_one_image_and_other_sizes(name):
    model = create_model(name, 7).eval()
    size = SHAPES[name][-1]
    images = torch.randn(2, 3, size + 16, size + 8)
    with torch.no_grad():
        both, one = model(images), model(images[:1])
    assert one.shape == (1, 7)
    torch.testing.assert_close(one, both[:1], rtol=1e-4, atol=1e-5)


def test_vgg_halves_once_more_where_there_is_room():
    model = create_model("vgg8", 10).eval()
    with torch.no_grad(), Taps(feature_modules(model, ["stage5"])).record() as features:
        model(torch.randn(1, 3, 64, 64))
    assert features["stage5"].shape[-2:] == (4, 4)


def test_shuffle_interleaves_the_groups():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert channel_shuffle(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_shuffle_units_keep_their_input_where_published():
    x = torch.randn(2, 24, 8, 8).relu()
    down = create_model("shufflenet_v1_cifar", 10).layer1[0]
    torch.testing.assert_close(down(x)[:, -24:], nn.AvgPool2d(3, 2, 1)(x))
    x = torch.randn(2, 116, 4, 4)
    unit = create_model("shufflenet_v2_cifar", 10).layer1[1]
    assert torch.equal(unit(x)[:, ::2], x[:, :58])


def test_option_a_pads_both_sides():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    shortcut = create_model("resnet8_option_a", 10).layer2[0].downsample
    out = shortcut(torch.cat([x] * 8, 1))
    assert out.shape == (1, 32, 2, 2)
    assert out[0, 8].tolist() == [[0, 2], [8, 10]] and out[0, 9].tolist() == [[16, 18], [24, 26]]
    assert out[0, :8].abs().max() == out[0, 24:].abs().max() == 0


def test_names_are_the_lists():
    assert len(set(model_names())) == len(model_names())
    assert {name for name, _ in PARAMETERS} <= set(model_names())


def test_torchvision_by_name():
    model = on_meta("torchvision:vgg11", 10)
    assert model.classifier[-1].out_features == 10
    assert not any(getattr(m, "inplace", False) for m in model.modules())
    assert feature_modules(model) == {}  # its own `features` are layers
    assert feature_modules(model, ["features.3"]) == {"features.3": model.features[3]}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet21", "did you mean.* resnet20"),
        ("wrn40_2", "did you mean wrn_40_2"),
        ("ShuffleV1", "did you mean shufflenet_v1_cifar"),
        ("MobileNetV2", "mobilenet_v2_cifar"),
        ("ResNet50", "did you mean resnet50_cifar, resnet50,"),
        ("torchvision:resnet51", "did you mean torchvision:resnet50"),
        ("torchvision:googlenet", "unknown model"),
        ("?", "did you mean resnet8, .*mobilenet_v1"),
        (None, "unknown model None"),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(ValueError, match=words):
        create_model(name, 10)


@pytest.mark.parametrize("classes", [0, -1, 2.0, "10", True, None])
def test_numbers_of_classes(classes):
    with pytest.raises(ValueError, match="num_classes is a whole number"):
        create_model("resnet8", classes)


def test_features_that_do_not_exist():
    model = on_meta("resnet8", 10)
    assert feature_modules(model, ["layer2.0.bn1"]) == {"layer2.0.bn1": model.layer2[0].bn1}
    with pytest.raises(
        ValueError, match=r"no feature 'stage4': it has stage1, .*pooled.*'layer1\.0'"
    ):
        feature_modules(model, ["stage4"])
    with pytest.raises(ValueError, match="no named features"):
        feature_modules(nn.Sequential(nn.Linear(1, 1)), ["stage1"])
