"""The option gather=True on two gloo processes: loss and DDP gradient of the whole batch."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pcka.core import feature_cka, logit_cka, patch_cka, rcka

F64 = torch.float64
WORLD = 2
MAPS = [
    {"grouping": grouping, "center": center, "debiased": debiased, "inter": inter}
    for grouping in ("channel", "batch", "position")
    for center, debiased in ((False, False), (True, False), (True, True))
    for inter in (False, 0.3)
]
LOGITS = [
    {"relation": relation, **options}
    for relation in ("intra", "inter")
    for options in (
        {"center": False},
        {"center": True},
        {"debiased": True},
        {"temperature": 4.0},
        {"normalize_rows": True},
    )
]


class Student(nn.Module):
    """A student with a map ``(B, 4, 9, 14)`` and logits ``(B, 7)``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 7)
        self.double()

    def forward(self, image):
        features = self.conv(image).tanh()
        return features, self.head(features.mean((2, 3)))


def losses(teacher_map, teacher_logits, gather):
    """Return every loss by name, as a function of the student's features and logits."""
    found = {}
    for o in MAPS:
        found[f"patch {o}"] = lambda f, z, o=o: (
            1 - patch_cka(f, teacher_map, patch_size=4, gather=gather, **o)
        )
    for o in ({"center": False}, {"center": True}, {"debiased": True}):
        found[f"feature {o}"] = lambda f, z, o=o: (
            1 - feature_cka(f, teacher_map, gather=gather, **o)
        )
    for o in LOGITS:
        found[f"logit {o}"] = lambda f, z, o=o: 1 - logit_cka(z, teacher_logits, gather=gather, **o)
    found["rcka"] = lambda f, z: rcka([f], [teacher_map], z, teacher_logits, gather=gather)
    return found


def batch():
    g = torch.Generator().manual_seed(0)
    shapes = (6, 3, 9, 14), (6, 4, 9, 14), (6, 7)
    return [torch.randn(shape, generator=g, dtype=F64) for shape in shapes]


def results(model, run, image, teacher_map, teacher_logits, gather):
    found = {}
    for name, loss_of in losses(teacher_map, teacher_logits, gather).items():
        model.zero_grad()
        loss = loss_of(*run(image))
        # Parameters that a loss does not reach still take part, as in training.
        (loss + 0 * sum(p.sum() for p in model.parameters())).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found[name] = torch.cat([loss.detach().view(1), gradient])
    return found


def worker(rank, port, queue):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    try:
        model = Student()
        mine = [t.chunk(WORLD)[rank] for t in batch()]
        found = results(model, DistributedDataParallel(model), *mine, gather=True)
        uneven = torch.ones(2 + rank, 3, 8, 8)
        try:
            patch_cka(uneven, uneven, patch_size=2, gather=True)
            found["uneven"] = ""
        except ValueError as error:
            found["uneven"] = str(error)
        if rank == 0:
            queue.put({k: v if isinstance(v, str) else v.tolist() for k, v in found.items()})
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def gathered():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    running = mp.spawn(worker, (port, queue), nprocs=WORLD, join=False)
    while queue.empty():
        if running.join(timeout=0.2):  # raises what a worker raised
            break
    found = queue.get()
    while not running.join():
        pass
    return found


@pytest.mark.slow
def test_loss_and_gradient_of_the_whole_batch(gathered):
    model = Student()
    whole = results(model, model, *batch(), gather=False)
    assert len(whole) == len(MAPS) + 3 + len(LOGITS) + 1
    for name, wanted in whole.items():
        assert wanted[1:].norm() > 1e-6, name
        difference = (torch.tensor(gathered[name], dtype=F64) - wanted).abs()
        assert difference.max() <= 1e-12, f"{name}: {difference.max()}"


@pytest.mark.slow
def test_unlike_shapes_raise_on_all_processes(gathered):
    assert "(2, 3, 8, 8), (3, 3, 8, 8)" in gathered["uneven"]


def test_without_processes_gather_does_nothing():
    s, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    assert torch.equal(
        patch_cka(s, t, patch_size=2, gather=True), patch_cka(s, t, patch_size=2, gather=False)
    )
