"""One reader of weight files for detectors and classifiers: safe, and clear about what is wrong.

A checkpoint is read as data alone, so that a file from the internet cannot run code. Files of
``torch.save``, safetensors and pickles of numpy arrays (detectron2's model zoo) are read; the
content decides which it is, not the name.
"""

import argparse
import datetime
import lzma
import os
import pathlib
import pickle
import re
import tarfile
import types
import zipfile
import zlib
from collections import defaultdict
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from pcka.errors import ConfigError

# Training scripts store their options as a Namespace and accuracies as numpy scalars; the latter
# are pickled under two module names, before and since numpy 2.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_ARRAY = np.zeros(0).__reduce__()[0]
_SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    datetime.datetime,
    datetime.timedelta,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    defaultdict,
    list,
    dict,
    int,
    float,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + "?efd"),
    *(
        (function, f"{module}.multiarray.{name}")
        for function, name in ((_NUMPY_SCALAR, "scalar"), (_NUMPY_ARRAY, "_reconstruct"))
        for module in ("numpy.core", "numpy._core")
    ),
]
# What other programs leave under the name of a checkpoint, by its first bytes.
_FAILED = "from a download that failed: fetch it again"
_NO_WEIGHTS = {
    b"<": f"a web page, {_FAILED}",
    b"{": f"text, {_FAILED}",
    b"version https://git-lfs": (
        "a pointer of git-lfs, from a download that failed: fetch the file itself (git lfs pull)"
    ),
    b"\x89hdf": "an HDF5 file, as Keras writes: save the weights by torch.save or safetensors",
}
# The number with which files begin that torch.save wrote before version 1.6.
_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


class CheckpointError(ConfigError):
    """A file that is no usable checkpoint; the message names the file and the remedy."""


def read_checkpoint(path: str | os.PathLike) -> Any:
    """Return the content of a checkpoint file, its tensors on the CPU.

    Args:
        path: the path of a file written by ``torch.save``, a ``.safetensors`` file, or a pickle of
            numpy arrays (``.pkl``), whose arrays stay as they are.

    Raises:
        CheckpointError: no such file, an archive, a web page, TorchScript, a file that is empty
            or cut short, or one that holds objects which could run code.
    """
    path = os.path.expanduser(os.fspath(path))
    if "://" in path:
        raise CheckpointError(f"{path} is an address: download it, and give the file's path")
    if os.path.isdir(path):
        files = ", ".join(sorted(os.listdir(path))[:5]) or "nothing"
        raise CheckpointError(f"{path} is a folder: name one of the files in it ({files})")
    if not os.path.isfile(path):
        raise CheckpointError(f"no checkpoint {path!r} (looked for {os.path.abspath(path)})")
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError(f"{path} is empty: fetch it again")
    # First: the length that a safetensors file begins with may read as text.
    if _starts_as_safetensors(path, head):
        return _read_safetensors(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for mark, kind in _NO_WEIGHTS.items():
        if start.startswith(mark):
            raise CheckpointError(f"{path} is {kind}")
    if zipfile.is_zipfile(path) or _LEGACY in head:
        _check_archive(path)
        return _read_torch(path)
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    _check_archive(path)
    is_pickle = path.endswith(".pkl") or head[:1] == b"\x80"
    return _read_pickle(path) if is_pickle else _read_torch(path)


def _read_torch(path: str) -> Any:
    try:
        # Of a path, torch.load would read the ending; of a file, the content.
        with open(path, "rb") as file, torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of any kind make torch fail in many ways
        _unreadable(path, str(error), error)


def _starts_as_safetensors(path: str, head: bytes) -> bool:
    """Return whether a file starts with the length of a header in JSON, and then the header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path)


def _read_safetensors(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error


# What a pickle of numpy arrays may name; everything else could run code.
_PICKLED = {
    *((m, "_reconstruct") for m in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((m, "scalar") for m in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((m, "_frombuffer") for m in ("numpy.core.numeric", "numpy._core.numeric")),  # protocol 5
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("argparse", "Namespace"),
}


class _ArraysAlone(pickle.Unpickler):
    """Reads pickles of numpy arrays and builtin containers; anything else is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return super().find_class(module, name)


def _read_pickle(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return _ArraysAlone(file, encoding="latin1").load()
    except Exception as error:  # bytes of any kind make pickle fail in many ways
        _unreadable(path, str(error), error)


# Errors of archives whose start is whole and whose rest is not.
_BROKEN_ARCHIVE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
    OSError,
)


def _check_archive(path: str) -> None:
    """Raise CheckpointError for a tar or zip file, unless it is torch's own and whole."""
    if tarfile.is_tarfile(path):
        try:
            with tarfile.open(path) as archive:
                members = [member.name for member in islice(archive, 50)]
        except _BROKEN_ARCHIVE as error:
            raise CheckpointError(f"{path} is a damaged archive: fetch it again") from error
    elif zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
                damaged = _is_damaged(archive)
        except _BROKEN_ARCHIVE as error:
            raise CheckpointError(f"{path} is a damaged archive: fetch it again") from error
        if damaged:
            raise CheckpointError(f"{path} is damaged, by its checksums: fetch it again")
        if any(name.endswith("constants.pkl") for name in members):
            raise CheckpointError(
                f"{path} is a TorchScript program, which holds code beside the weights: save the "
                "weights alone, torch.save(torch.jit.load(FILE).state_dict(), NEW)"
            )
        if any(name.endswith("data.pkl") for name in members):
            return
    else:
        return
    if not members:
        raise CheckpointError(f"{path} holds nothing: fetch it again")
    likely = [n for n in members if n.endswith((".pth", ".pt", ".th", ".tar"))] or members
    raise CheckpointError(
        f"{path} is an archive, not a checkpoint: unpack it and name the file inside, such as "
        + ", ".join(likely[:3])
    )


def _is_damaged(archive: zipfile.ZipFile) -> bool:
    """Return whether a checksum is wrong; torch can leave all of them out, as 0."""
    if not any(member.CRC for member in archive.infolist()):
        return False
    try:
        return archive.testzip() is not None
    except Exception:  # a header inside the file is damaged
        return True


def _unreadable(path: str, reason: str, cause: Exception) -> NoReturn:
    # torch's own words advise weights_only=False, which would run whatever the file says.
    refused = re.search(r"(?:GLOBAL |got <class ')([\w.]+)", reason)
    if refused:
        raise CheckpointError(
            f"{path} holds an object of {refused[1]}, and only tensors, arrays, numbers and an "
            "argparse Namespace are read: anything else could run code. If you trust the file, "
            "save its weights alone: torch.save(model.state_dict(), FILE) where it was made"
        ) from cause
    raise CheckpointError(
        f"cannot read {path}: it is damaged, cut short, or not written by torch.save; fetch it "
        "again, or save the weights as torch.save(model.state_dict(), FILE)"
    ) from cause
