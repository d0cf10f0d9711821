"""An exported file beside the network that it came from: how far apart their results are.

Letters: N and M detections of the network and of the file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pcka.errors import RunError

# The largest difference between a file and its network: boxes in pixels, scores and masks as
# probabilities, logits as a part of the largest one.
TOLERANCES = {"boxes": 0.1, "scores": 1e-3, "masks": 1e-2, "logits": 1e-3}

Results = tuple[Tensor, ...]


class CutOff(NamedTuple):
    """The limits at which a detector drops detections; rounding may decide on those close to them.

    Attributes:
        score: the least one that is kept.
        most: how many are kept of an image at most.
    """

    score: float
    most: int

    def decides(self, scores: Tensor) -> Tensor:
        """Return which of the scores ``(N,)`` of an image are too close to be sure of."""
        close = scores <= self.score + TOLERANCES["scores"]
        if len(scores) >= self.most:
            close |= scores <= scores.min() + TOLERANCES["scores"]
        return close


class Comparison(NamedTuple):
    """The outcome of a comparison.

    Attributes:
        largest: the largest difference of every output that is not whole numbers.
        results: how many detections, or rows of logits, the network gave.
    """

    largest: dict[str, float]
    results: int


def compare(
    network: Callable[[Tensor], Results],
    file: Callable[[Tensor], Results],
    inputs: Sequence[Tensor],
    outputs: Sequence[str],
    cut_off: CutOff | None = None,
) -> Comparison:
    """Compare the results for all inputs; classes have to be equal.

    Args:
        network, file: functions with the same outputs.
        inputs: the inputs of both, one by one.
        outputs: their names: ``boxes``, ``scores``, ``classes`` and perhaps ``masks``, or
            ``logits``.
        cut_off: the limits of a detector; a detection that is close to them may be missing in one
            of the two.

    Raises:
        RunError: the results differ by more than ``TOLERANCES``.
    """
    largest = {name: 0.0 for name in outputs if name in TOLERANCES}
    results = 0
    for number, image in enumerate(inputs):
        expected = dict(zip(outputs, network(image), strict=True))
        found = dict(zip(outputs, file(image), strict=True))
        results += len(expected[outputs[0]])
        apart = (
            _logits_apart(expected["logits"], found["logits"])
            if "logits" in outputs
            else _detections_apart(expected, found, cut_off)
        )
        for name, value in apart.items():
            if not value <= TOLERANCES[name]:
                raise RunError(
                    f"the exported file computes something else: on image {number} its {name} are "
                    f"{value:.3g} away from the network's (at most {TOLERANCES[name]}); no file is "
                    "written"
                )
            largest[name] = max(largest[name], value)
    return Comparison(largest, results)


def _logits_apart(expected: Tensor, found: Tensor) -> dict[str, float]:
    if expected.shape != found.shape:
        return {"logits": torch.inf}
    scale = expected.abs().max().clamp(min=1)
    return {"logits": float((expected - found).abs().max() / scale)}


def _detections_apart(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], cut_off: CutOff | None
) -> dict[str, float]:
    """Match detections of equal class by boxes and scores, whatever their order."""
    apart = {name: 0.0 for name in expected if name in TOLERANCES}
    for a, b in ((expected, found), (found, expected)):
        if not len(a["scores"]):
            continue
        close = torch.zeros_like(a["scores"], dtype=torch.bool)
        if cut_off is not None:
            close = cut_off.decides(a["scores"])
        if not len(b["scores"]):
            apart["boxes"] = apart["boxes"] if close.all() else torch.inf
            continue
        # (N, M): the largest difference of a coordinate; of other classes, infinite.
        distance = (a["boxes"][:, None] - b["boxes"][None]).abs().amax(2)
        distance[a["classes"][:, None] != b["classes"][None]] = torch.inf
        scores = (a["scores"][:, None] - b["scores"][None]).abs()
        nearest = (distance / TOLERANCES["boxes"] + scores / TOLERANCES["scores"]).argmin(1)
        rows = torch.arange(len(nearest))
        differences = {"boxes": distance[rows, nearest], "scores": scores[rows, nearest]}
        matched = torch.ones_like(close)
        for name, values in differences.items():
            matched &= values <= TOLERANCES[name]
        if "masks" in apart:
            differences["masks"] = (a["masks"] - b["masks"][nearest]).abs().flatten(1).amax(1)
        for name, values in differences.items():
            apart[name] = max(apart[name], _largest(values[matched | ~close]))
    return apart


def _largest(values: Tensor) -> float:
    """Return the largest value, infinity for NaN, 0 of none."""
    if values.isnan().any():
        return torch.inf
    return float(values.max()) if len(values) else 0.0
