"""Layer similarity over all samples, of unchanged outputs, for every way to pool."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pcka.analysis import LayerReader, layer_similarity
from pcka.core import CKAMatrix, reference
from pcka.errors import ConfigError

F64 = torch.float64
SPLITS = ([24], [5, 4, 1, 14], [7, 17])


def network(width, seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 5),
    ).double()


@pytest.fixture
def pair():
    return network(3, seed=1), network(4, seed=2)


def plain_matrix(student, teacher, names, images, rows, debiased):
    """Compare every pair of layers by HKH, all images at once; ``rows`` makes outputs (N, D)."""
    sides = []
    for model in (student, teacher):
        outputs, x = {}, images
        for name, module in model.named_children():
            outputs[name] = x = module(x)
        sides.append([rows(outputs[name]) for name in names])
    return torch.stack(
        [torch.stack([reference.cka(x, y, debiased=debiased) for y in sides[1]]) for x in sides[0]]
    )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_is_that_of_all_images_at_once(pair, split, debiased, pool):
    images = torch.randn(24, 3, 6, 8, dtype=F64)
    names = ["0", "1", "3", "6"]
    readers = [LayerReader(model, names) for model in pair]
    found = layer_similarity(*readers, images.split(split), pool=pool, debiased=debiased)

    def rows(output):
        return output.mean((2, 3)) if pool == "mean" and output.dim() == 4 else output.flatten(1)

    wanted = plain_matrix(*pair, names, images, rows, debiased)
    assert found.rows == found.columns == tuple(names)
    torch.testing.assert_close(found.values, wanted, rtol=0, atol=1e-10)


def test_minibatches_average_the_unbiased_products(pair):
    images = torch.randn(24, 3, 6, 8, dtype=F64)
    batches = images.split([6, 10, 8])
    readers = [LayerReader(model, ["1", "6"]) for model in pair]
    found = layer_similarity(*readers, batches, pool="flatten", minibatch=True).values[0, 1]
    sums = torch.zeros(3, dtype=F64)
    for batch in batches:
        x, y = pair[0][:2](batch).flatten(1), pair[1](batch)
        k, l = x @ x.T, y @ y.T
        sums += len(batch) * torch.stack(
            [reference.unbiased_hsic(*p) for p in ((k, l), (k, k), (l, l))]
        )
    assert found.item() == pytest.approx((sums[0] / (sums[1] * sums[2]).sqrt()).item(), abs=1e-10)


def test_cells_of_the_coarser_map_are_the_samples():
    """Compare maps of strides 1 and 2 with one of stride 2 and another padding."""
    fine, coarse = torch.randn(2, 3, 7, 6, dtype=F64), torch.randn(2, 4, 4, 3, dtype=F64)
    theirs = torch.randn(2, 5, 3, 4, dtype=F64)  # stride 2: covers 6 pixels down, 8 across

    class Maps(nn.Module):
        def __init__(self, **maps):
            super().__init__()
            self.maps = maps

        def forward(self, part):
            return {name: m[part] for name, m in self.maps.items()}

    student, teacher = Maps(a=fine, b=coarse), Maps(c=theirs)
    readers = (
        LayerReader(student, {"maps": student}, strides={"b": 2, "a": 1}),
        LayerReader(teacher, {"maps": teacher}, strides={"c": 2}),
    )
    found = layer_similarity(*readers, [slice(0, 1), slice(1, 2)], pool="cells")
    assert found.rows == ("b", "a") and found.columns == ("c",)
    means = torch.stack(
        [
            torch.stack([fine[..., i : i + 2, j : j + 2].mean((2, 3)) for j in (0, 2, 4)], -1)
            for i in (0, 2, 4)
        ],
        -2,
    )
    samples = [m[..., :3, :3].movedim(1, -1).reshape(18, -1) for m in (coarse, means, theirs)]
    wanted = [reference.cka(x, samples[2], debiased=True).item() for x in samples[:2]]
    assert found.values.flatten().tolist() == pytest.approx(wanted, abs=1e-10)


def test_each_pair_has_the_grid_of_its_coarser_map():
    maps = {1: torch.randn(1, 3, 8, 8, dtype=F64), 4: torch.randn(1, 2, 2, 2, dtype=F64)}

    def reader(*strides):
        model = nn.Module()
        model.forward = lambda _: {str(s): maps[s] for s in strides}
        return LayerReader(model, {"maps": model}, strides={str(s): s for s in strides})

    found = layer_similarity(reader(1, 4), reader(4, 1), [0], pool="cells").values
    rows = {s: m.movedim(1, -1).flatten(0, 2) for s, m in maps.items()}
    pooled = F.avg_pool2d(maps[1], 4).movedim(1, -1).flatten(0, 2)
    assert found[0, 1].item() == pytest.approx(1, abs=1e-12)  # 64 cells of one map with itself
    wanted = reference.cka(pooled, rows[4], debiased=True).item()
    assert found[0, 0].item() == pytest.approx(wanted, abs=1e-10)
    assert found[1, 1].item() == pytest.approx(wanted, abs=1e-10)


def test_what_goes_on_in_place_is_not_misread():
    torch.manual_seed(3)
    layers = nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)
    model = nn.Sequential(*layers).double()
    images = torch.randn(30, 4, dtype=F64)
    found = LayerReader(model, ["0", "1"])(images)
    assert (found["0"] < 0).any()
    assert torch.equal(found["0"], layers[0](images)) and torch.equal(found["1"], found["0"].relu())


def test_reader_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reader = LayerReader(model, ["1"])
    outputs = reader(torch.randn(6, 3))
    assert torch.equal(reader(torch.ones(6, 3))["1"], reader(torch.ones(6, 3))["1"])
    assert not outputs["1"].requires_grad
    assert model.training and model[2].training and not model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError):
        reader(torch.randn(6, 5))  # even where it fails
    assert model.training and not model[1]._forward_hooks


def test_bad_input(pair):
    with pytest.raises(ConfigError, match="no layer 'layer11', did you mean 'layer1'"):
        LayerReader(nn.ModuleDict({"layer1": nn.Linear(1, 1)}), ["layer11"])
    readers = [LayerReader(model, ["1"]) for model in pair]
    images = torch.randn(6, 3, 6, 8, dtype=F64)
    with pytest.raises(ValueError, match="unknown pool 'men': one of mean, flatten, cells"):
        layer_similarity(*readers, [images], pool="men")
    with pytest.raises(ValueError, match="needs strides"):
        layer_similarity(*readers, [images], pool="cells")
    for pool in ("mean", "flatten"):
        with pytest.raises(ValueError, match="CKA"):
            layer_similarity(*readers, [images[:3]], pool=pool)
        with pytest.raises(ValueError, match="CKA"):
            layer_similarity(*readers, [], pool=pool)
    sequence = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 2))
    with pytest.raises(ValueError, match=r"'0' gives \(8, 5, 4\): pool='mean' takes maps"):
        layer_similarity(*2 * [LayerReader(sequence, ["0"])], [torch.ones(8, 5, 4)])
    with pytest.raises(ValueError, match="layer '1' of Sequential gives no tensor"):
        LayerReader(sequence, ["1"])(torch.ones(8, 5, 4))
    with pytest.raises(ValueError, match="did not run"):
        LayerReader(sequence, {"other": nn.Linear(1, 1)})(torch.ones(8, 5, 4))


def test_matrix_refuses_other_layers():
    meter = CKAMatrix()
    meter.update([torch.ones(4, 2), torch.ones(4, 3)], [torch.ones(4, 2)])
    with pytest.raises(ValueError, match=r"layers of \(\[2\], \[2\]\) features after"):
        meter.update([torch.ones(4, 2)], [torch.ones(4, 2)])
    with pytest.raises(ValueError, match="of the same samples"):
        CKAMatrix().update([torch.ones(4, 2), torch.ones(5, 3)], [torch.ones(4, 2)])


def test_wide_layers_are_compared_by_their_samples(monkeypatch):
    """No moment of a pair of layers is formed if samples are fewer than features."""
    net = nn.Sequential(nn.Linear(4, 300), nn.ReLU(), nn.Linear(300, 300))
    batches = [torch.randn(5, 4), torch.randn(3, 4)]  # a small last batch
    reader = LayerReader(net, ["0", "1", "2"])
    expected = layer_similarity(reader, reader, batches, pool="flatten").values
    with monkeypatch.context() as patch:
        patch.setattr(CKAMatrix, "update", None)
        found = layer_similarity(reader, reader, batches).values
    torch.testing.assert_close(found, expected)
    many = [torch.randn(40, 4) for _ in range(30)]
    whole = layer_similarity(reader, reader, many).values
    torch.testing.assert_close(whole, layer_similarity(reader, reader, [torch.cat(many)]).values)


def test_no_layers():
    with pytest.raises(ConfigError, match="no layer of Linear is named"):
        LayerReader(torch.nn.Linear(2, 2), [])
