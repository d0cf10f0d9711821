"""CIFAR-10 and CIFAR-100 in torchvision's on-disk format."""

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from pcka.errors import ConfigError

from .tensors import ImageSet

_READERS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def read_cifar(
    name: str, root: str, *, train: bool, download: bool = False
) -> tuple[ImageSet, tuple[str, ...]]:
    """Read the training or test images, and the names of the classes.

    Args:
        name: ``cifar10`` or ``cifar100``.
        root: folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.
        train: which of the two.
        download: fetch the archive if the folder is not there.

    Raises:
        ConfigError: not there, or not complete.
    """
    reader, folder = _READERS[name], Path(root).expanduser()
    try:
        data = reader(folder, train=train, download=download)
    except (RuntimeError, OSError, EOFError) as error:
        raise ConfigError(_remedy(reader, folder, download, error)) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(data.targets)), tuple(data.classes)


def _remedy(reader: type[CIFAR10], root: Path, download: bool, error: Exception) -> str:
    folder, archive = root / reader.base_folder, root / reader.filename
    if download:
        return (
            f"cannot download {reader.url} to {root} ({error}). Without network, fetch it "
            f"elsewhere and extract it to {folder}"
        )
    if folder.is_dir():
        needed = [name for name, _ in [*reader.train_list, *reader.test_list]]
        missing = [
            name for name in [*needed, reader.meta["filename"]] if not (folder / name).exists()
        ]
        state = f"lacks {', '.join(missing)}" if missing else "holds damaged files"
        return f"{folder} {state}: remove it and extract {reader.filename} again"
    if archive.is_file():
        return f"{folder} is missing, but its archive is there: tar -xzf {archive} -C {root}"
    return (
        f"{folder} is missing. Set data.root to the folder that holds {reader.base_folder}, or "
        f"data.download true to fetch {reader.url}"
    )
