"""Several processes of one run: starting them, and sharing the model between them."""

import os
import warnings
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import create_ddp_model, launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import nn

from pcka.detection.config import ConfigError


def run_processes(main: Callable[[Namespace], object], args: Namespace, device: str) -> None:
    """Run ``main(args)`` in every process of the run.

    Under torchrun the processes exist already, and this one joins them. Otherwise detectron2's
    ``launch`` starts ``args.num_gpus`` processes, or runs ``main`` here if that is 1. They
    communicate by NCCL on GPUs and by gloo on CPU. If one dies, the launcher stops the others.

    Args:
        main: a function that can be imported by its name; its result is dropped.
        args: the result of detectron2's ``default_argument_parser``.
        device: MODEL.DEVICE.
    """
    if dist.is_torchelastic_launched():
        if device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, timeout=DEFAULT_TIMEOUT)
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        main(args)
        dist.destroy_process_group()
        return
    if device == "cpu" and args.num_gpus * args.num_machines > 1:
        # detectron2's launch chooses NCCL wherever it sees a GPU.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def machine_and_turn(args: Namespace) -> tuple[int, int]:
    """Return the number of this machine, and that of this process on it, before the launch."""
    if dist.is_torchelastic_launched():
        return int(os.environ["GROUP_RANK"]), int(os.environ["LOCAL_RANK"])
    return args.machine_rank, 0


def check_processes(cfg: CfgNode, args: Namespace) -> None:
    """Check the number of processes before any is started.

    Raises:
        ConfigError: more processes than GPUs, a batch that they cannot share, or ``--num-gpus``
            under torchrun.
    """
    if dist.is_torchelastic_launched():
        if args.num_gpus > 1 or args.num_machines > 1:
            raise ConfigError(
                "torchrun starts the processes: leave out --num-gpus and --num-machines, or start "
                "without torchrun"
            )
        here, world = (int(os.environ[key]) for key in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    else:
        here, world = args.num_gpus, args.num_gpus * args.num_machines
        if here < 1 or args.num_machines < 1:
            raise ConfigError(
                f"--num-gpus {args.num_gpus} and --num-machines {args.num_machines} are numbers "
                "from 1 up"
            )
    device, batch = cfg.MODEL.DEVICE, cfg.SOLVER.IMS_PER_BATCH
    if device.startswith("cuda") and torch.cuda.is_available():
        if here > torch.cuda.device_count():
            raise ConfigError(
                f"{here} processes on this machine, but torch sees {torch.cuda.device_count()} "
                "GPU(s): start one process per GPU"
            )
        if here > 1 and device != "cuda":
            raise ConfigError(f"MODEL.DEVICE {device} is one GPU for {here} processes: set it cuda")
    share = cfg.SOLVER.REFERENCE_WORLD_SIZE or world
    if not args.eval_only and (batch < share or batch % share):
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} is the batch of all processes together and does not "
            f"divide among {share}: take a multiple of {share}"
        )


def share_model(model: nn.Module) -> nn.Module:
    """Wrap the model in DistributedDataParallel; return it as it is in a run of one process.

    Raises:
        ConfigError: SyncBN on CPU, which torch has on GPUs only.
    """
    if comm.get_world_size() == 1:
        return model
    on_cpu = next(model.parameters()).device.type == "cpu"
    synced = [name for name, m in model.named_modules() if isinstance(m, nn.SyncBatchNorm)]
    if on_cpu and synced:
        raise ConfigError(
            f"{len(synced)} layers, such as {synced[0]}, are SyncBN, which torch has for GPUs "
            "only: set their NORM (MODEL.RESNETS.NORM, ...) to naiveSyncBN, detectron2's own"
        )
    with warnings.catch_warnings():
        # Newer torch has another argument for it, which older torch does not know.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        devices = {"device_ids": None} if on_cpu else {}  # detectron2 would name a GPU
        return create_ddp_model(model, broadcast_buffers=False, **devices)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the batch statistics of process 0, which are the ones that are saved."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def unwrapped(model: nn.Module) -> Any:
    """Return the model inside DistributedDataParallel, or the model itself."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.module
    return model
