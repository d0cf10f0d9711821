"""Files of weights: what is read whatever its name, and what is refused in one line."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pcka.checkpoint_files import CheckpointError, read_checkpoint
from pcka.checkpoints import check_numbers, find_state, without_prefix

STATE = {"a.weight": torch.arange(4096.0), "a.bias": torch.ones(2)}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def arrays():
    return {key: value.numpy() for key, value in STATE.items()}


def same(content):
    state, _ = find_state(content, "file")
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.safetensors", "w"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_any_name(tmp_path, name, zipped):
    path = saved(tmp_path / name, STATE, _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(path))


@pytest.mark.parametrize("name", ["w.pkl", "w.pth"])
@pytest.mark.parametrize("protocol", [2, 4, pickle.HIGHEST_PROTOCOL])
def test_pickles_of_arrays_of_any_name(tmp_path, name, protocol):
    (tmp_path / name).write_bytes(pickle.dumps({"model": arrays()}, protocol=protocol))
    assert same(read_checkpoint(tmp_path / name))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("length", [0x7B20, 0x3C20, 0x3C3C, 0x8000])
def test_safetensors_whose_length_reads_as_text(tmp_path, name, length):
    content = safetensors.torch.save(STATE)
    [old] = struct.unpack("<Q", content[:8])
    padded = content[8 : 8 + old].ljust(length)
    (tmp_path / name).write_bytes(struct.pack("<Q", length) + padded + content[8 + old :])
    assert same(read_checkpoint(tmp_path / name))


def test_random_states_beside_the_weights(tmp_path):
    content = {"model": STATE, "numpy": np.random.default_rng(0).integers(9, size=3).astype("u4")}
    assert same(read_checkpoint(saved(tmp_path / "w.pth", content)))


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        ({"state": {"model": STATE}}, "state.model"),
        ({"model": {"state_dict": STATE, "step": 3}}, "model.state_dict"),
        ({"ema_model": STATE, "optimizer": {"state": {0: {"m": torch.ones(1)}}}}, "ema_model"),
        ({"model_ema": {"ema": {"params_ema": STATE}}}, "model_ema.ema.params_ema"),
        ({"checkpoint": STATE, "other": STATE}, "checkpoint"),
    ],
)
def test_where_weights_are_found(content, layout):
    assert same(content) and find_state(content, "file")[1] == layout


@pytest.mark.parametrize(
    "content", [{"generator": STATE, "critic": STATE}, {"model": {"x": {}}}, {"w": np.array(["a"])}]
)
def test_where_none_are_found(content):
    with pytest.raises(CheckpointError, match="holds no weights"):
        find_state(content, "file")


@pytest.mark.parametrize("prefix", ["teacher.", "ema_model.", "encoder.net.", "module.student."])
def test_prefixes_of_any_name(prefix):
    wrapped = {prefix + key: value for key, value in STATE.items()}
    state, found = without_prefix(wrapped, STATE)
    assert found == prefix and state.keys() == STATE.keys()


def test_a_prefix_that_fits_stays():
    assert without_prefix(STATE, STATE) == (STATE, "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<head><title>404</title>", "is a web page"),
        (b"\xef\xbb\xbf\n<!-- x --><html>", "is a web page"),
        (b'{"error": "not found"}', "is text, from a download that failed"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
        (bytes(20480), "holds nothing"),
        (gzip.compress(b"x" * 999), "cannot read"),
        (pickle.dumps({"a": 1})[:9], "cannot read"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02X\x09", "cannot read"),
        (b"\x80\x02}", "cannot read"),
    ],
    ids=range(9),
)
def test_other_files(tmp_path, content, words):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as error:
        read_checkpoint(tmp_path / "w.pth")
    assert str(tmp_path / "w.pth") in str(error.value) and "\n" not in str(error.value)


def _tar(mode):
    """Return an archive of two files that cannot be compressed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name in ("a.pth", "b.pth"):
            member = tarfile.TarInfo(name)
            member.size = 200_000
            archive.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(member.size)))
    return file.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("part", [0.002, 0.4, 0.7])
def test_archives_that_are_cut(tmp_path, mode, part):
    content = _tar(mode)
    (tmp_path / "w.pth").write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError, match=r"is a damaged archive|is an archive|cannot read"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("kept", ["end", "directory gone", "front gone"])
def test_zip_files_whose_directory_is_damaged(tmp_path, kept):
    content = saved(tmp_path / "w.pth", STATE).read_bytes()
    end = content.rfind(b"PK\x05\x06")
    damaged = {
        "end": content[end:],
        "directory gone": content[: end - 150] + bytes(150) + content[end:],
        "front gone": content[1000:],
    }
    (tmp_path / "w.pth").write_bytes(damaged[kept])
    with pytest.raises(CheckpointError, match=r"is damaged|is a damaged archive"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**STATE, "epoch": 3}, r"tensors beside other entries \(one is 'epoch': int\)"),
        ({**STATE, 5: torch.ones(1)}, r"one is 5: Tensor"),
        ({"w": np.ones(2, complex)}, r"a dictionary of w \(one is 'w': ndarray of complex128\)"),
        ({"w": np.ones(2, np.longdouble)}, r"one is 'w': ndarray of (long|float)"),
        ({"w": np.ones(2, object)}, r"one is 'w': ndarray of object"),
    ],
)
def test_what_is_found_instead_is_named(content, words):
    with pytest.raises(CheckpointError, match=words):
        find_state(content, "file")


def test_one_wrong_bit(tmp_path):
    path = saved(tmp_path / "w.pth", STATE)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("w/data/0").header_offset
    data = bytearray(path.read_bytes())
    data[start + 5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged, by its checksums"):
        read_checkpoint(path)


def test_files_without_checksums(tmp_path):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "w.pth", STATE)
    finally:
        torch.serialization.set_crc32_options(computed)
    assert same(read_checkpoint(path))


def test_an_address():
    with pytest.raises(CheckpointError, match=r"https://x\.y/w\.pth is an address: download it"):
        read_checkpoint("https://x.y/w.pth")


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(3, dtype=torch.int8),
        torch.ones(3, dtype=torch.float8_e4m3fn),
        torch.ones(3, dtype=torch.float8_e5m2),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.tensor([1.0, float("inf"), 0.0]),
        pytest.param(nn.Parameter(torch.tensor(float("nan"))), id="nan"),
    ],
)
def test_numbers_that_are_no_weights(weight):
    with pytest.raises(CheckpointError, match=r"file holds .*weight") as error:
        check_numbers({"weight": weight}, "file", {"weight": torch.zeros(3)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("weight", torch.full((3,), 1e300, dtype=torch.float64)), ("bn.running_var", -torch.ones(3))],
)
def test_numbers_that_become_nan_or_infinity(key, value):
    with pytest.raises(CheckpointError, match=f"file holds .* {key}"):
        check_numbers({key: value}, "file", {key: torch.zeros(3)})


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(kind):
    check_numbers({"weight": torch.ones(3, dtype=kind)}, "file", {"weight": torch.zeros(3)})
    counter = torch.tensor(3)
    check_numbers({"num_batches_tracked": counter}, "f", {"num_batches_tracked": counter})
