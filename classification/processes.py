"""One process or many: what ``torchrun`` tells, and the collectives that training needs."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pcka.cli import end_with
from pcka.errors import ConfigError


@dataclass(frozen=True)
class Process:
    """One process among those that train a model together."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values that the first has, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def join_processes(device: str) -> Iterator[Process]:
    """Take part in what ``torchrun`` started, or be alone.

    Args:
        device: ``auto``: this process's GPU where there is one; else as torch names it.

    Raises:
        ConfigError: a GPU that is not there.
    """
    if dist.is_torchelastic_launched():
        end_with(os.getppid())  # a launcher that is killed cannot end its processes
    local = int(os.environ.get("LOCAL_RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: torch sees no GPU here; set device cpu")
    place = torch.device(device)
    if place.type == "cuda":
        if place.index is not None and world_size > 1:
            raise ConfigError(f"device {device!r} cannot serve {world_size} processes: set cuda")
        index, count = local if place.index is None else place.index, torch.cuda.device_count()
        if index >= count:
            raise ConfigError(
                f"there is no GPU {index} for process {local} of this machine, which has {count}: "
                "name one below that number; of torchrun, start one process per GPU"
            )
        place = torch.device("cuda", index)
        torch.cuda.set_device(place)
    if world_size == 1:
        yield Process(place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Process(place, dist.get_rank(), world_size)
    finally:
        dist.destroy_process_group()
