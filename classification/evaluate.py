"""Top-1 and top-5 accuracy."""

from dataclasses import dataclass

import torch
from torch import nn

from .data import Loader
from .processes import Process


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent, over ``samples`` images."""

    top1: float
    top5: float
    samples: int

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2f}, top-5 {self.top5:.2f} on {self.samples} images"


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Loader, process: Process, *, transform=None) -> Accuracy:
    """Accuracy of ``model`` over all images of ``loader``, each counted once.

    Args:
        model: ``(B, 3, H, W)`` -> logits ``(B, P)``; is left in the mode it had.
        transform: applied to every batch of images before the model sees it.

    Raises:
        FloatingPointError: logits that are not finite, which would count as some class.
    """
    training = model.training
    model.eval()
    # On the device, so that a GPU never waits for the count: top-1, top-5, not finite, all.
    counts = torch.zeros(4, dtype=torch.int64, device=process.device)
    samples = 0
    for images, labels in loader.epoch(0):
        logits = model(images if transform is None else transform(images))
        hits = logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
        broken = ~logits.isfinite().all(1)
        counts[:3] += torch.stack([hits[:, 0].sum(), hits.sum(), broken.sum()])
        samples += len(labels)
    counts[3] = samples
    model.train(training)
    top1, top5, broken, samples = process.sum(counts).tolist()
    if broken:
        raise FloatingPointError(
            f"{broken} of {samples} evaluated images get logits that are not finite: damaged "
            "images, or weights that diverged; lower train.lr or set train.clip_grad_norm"
        )
    return Accuracy(100 * top1 / samples, 100 * top5 / samples, samples)
