"""The work of two processes in test_processes.py, in a module that both can import."""

import os
import signal

import torch
from detector_runs import train
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from pcka.detection import ConfigError, load_config
from pcka.detection.data.coco_json import register_coco_json
from pcka.detection.engine.processes import share_model

# RetinaNet draws nothing at random, unlike a two-stage detector with its proposals.
ONE_STAGE = (
    "MODEL.PCKA.STUDENT_META_ARCHITECTURE",
    "RetinaNet",
    "MODEL.BACKBONE.NAME",
    "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    64,
    "MODEL.RESNETS.NORM",
    "naiveSyncBN",
    "MODEL.RESNETS.OUT_FEATURES",
    ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES",
    ["res3", "res4", "res5"],
    "MODEL.PCKA.GRADIENT_PERIOD",
    1,  # leaves the gradients of the parameters alone
    "MODEL.PCKA.TERMS",
    [
        {
            "NAME": "channel",
            "FEATURES": ["p3", "p4"],
            "LOSS_ARGS": {"patch_size": 2, "gather": True, "inter": True},
        },
        {
            "NAME": "batch",
            "FEATURES": ["p3"],
            "LOSS_ARGS": {"patch_size": 2, "gather": True, "grouping": "batch"},
        },
        {"NAME": "mimic", "FEATURES": ["p4"], "LOSS": "Mimic", "ADAPTER": "conv1x1"},
        {
            "NAME": "ratio",
            "FEATURES": ["p3", "p4"],
            "LOSS_ARGS": {"patch_size": 2, "gather": True, "grouping": "batch"},
            "WEIGHT": {"ratio": 0.5},
        },
        {
            "NAME": "hint",
            "FEATURES": ["p4"],
            "LOSS": "Mimic",
            "ADAPTER": "conv1x1",
            "WEIGHT": {"ratio": 0.1},
        },
    ],
)
# The two of one process are padded to 64x96, those of the other to 96x64.
SIZES = [(64, 64), (50, 90), (90, 50), (64, 64)]


def images():
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for index, (height, width) in enumerate(SIZES):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[5.0, 6.0, 30.0 + index, 40.0]]))
        instances.gt_classes = torch.tensor([index % 2])
        image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=generator)
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs


def losses_and_gradients(cfg):
    """Return numbers and tensors by name of two steps on this process's part of the images."""
    torch.manual_seed(1)
    model = build_model(cfg).double().train()
    model.teacher.model.double()
    # RetinaNet divides by a running mean of this process's positives: here, a constant.
    model.student._ema_update = lambda *_: 100 / comm.get_world_size()
    shared = share_model(model)
    inputs = images()
    part = len(inputs) // comm.get_world_size()
    mine = inputs[comm.get_rank() * part :][:part]
    for _ in range(2):  # unused parameters would show in the second
        model.zero_grad()
        with EventStorage():
            losses = shared(mine)
        sum(losses.values()).backward()
    gathered = comm.all_gather({name: loss.item() for name, loss in losses.items()})
    means = {name: sum(g[name] for g in gathered) / len(gathered) for name in losses}
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return means, gathered, gradients


def work(args):
    """Do everything that needs two processes; ``args``: folder, file of the config, options."""
    torch.set_num_threads(1)

    def config(*opts):
        cfg = load_config(args.config_file, list(opts))
        register_coco_json(cfg)
        return cfg

    found = {"equal": losses_and_gradients(config(*ONE_STAGE))}
    try:
        share_model(build_model(config("MODEL.RESNETS.NORM", "SyncBN")))
    except ConfigError as error:
        found["SyncBN"] = str(error)
    train(config(*args.opts))
    torch.save(found, os.path.join(args.folder, f"found{comm.get_rank()}.pth"))
    comm.synchronize()
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()
