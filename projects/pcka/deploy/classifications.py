"""The most probable classes of images, as a table and on contact sheets."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pcka.analysis.plotting import INK, fitting_size, new_figure
from pcka.files import replacing

from .classifier import TrainedClassifier

PREDICTIONS = "predictions.csv"
TOP = 5
_COLUMNS, _ROWS = 8, 6  # of a contact sheet
_THUMBNAIL = 160  # pixels

# (class name, probability), the most probable first.
Ranking = list[tuple[str, float]]


def classify_images(
    classifier: TrainedClassifier,
    images: Sequence[Path],
    output: Path,
    *,
    batch_size: int,
    with_teacher: bool = False,
) -> None:
    """Write ``predictions.csv`` and ``contact_sheet_1.png``, ... into ``output``.

    Args:
        classifier: the student.
        images: the files.
        output: a folder; it is made.
        batch_size: images at once.
        with_teacher: also run the teacher: more rows in the table, a second line on the sheets.

    Raises:
        ConfigError: an image that cannot be read, or a teacher that the run does not have.
    """
    networks: dict[str, Callable[[Tensor], Tensor]] = {"student": classifier.model}
    if with_teacher:
        networks["teacher"] = classifier.teacher()
    output.mkdir(parents=True, exist_ok=True)
    sheet = _ContactSheets(output)
    with replacing(output / PREDICTIONS) as part, part.open("w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        places = range(1, min(TOP, len(classifier.classes)) + 1)
        figures = [column for n in places for column in (f"class_{n}", f"probability_{n}")]
        table.writerow(["file_name", "network", *figures])
        with tqdm(total=len(images), desc="images", unit="image", disable=None) as progress:
            for start in range(0, len(images), batch_size):
                paths = images[start : start + batch_size]
                pictures = [classifier.read(path) for path in paths]
                inputs = classifier.normalized([classifier.pixels(image) for image in pictures])
                with torch.inference_mode():
                    found = {
                        name: rankings(network(inputs), classifier.classes)
                        for name, network in networks.items()
                    }
                for index, path in enumerate(paths):
                    of_image = {name: part[index] for name, part in found.items()}
                    for name, ranking in of_image.items():
                        cells = [cell for word, p in ranking for cell in (word, f"{p:.6f}")]
                        table.writerow([path, name, *cells])
                    sheet.add(pictures[index], path.name, of_image)
                    progress.update()
    sheet.finish()


def rankings(logits: Tensor, classes: Sequence[str]) -> list[Ranking]:
    """Return the most probable classes of each row of logits ``(B, K)``."""
    top = logits.float().softmax(1).topk(min(TOP, len(classes)), dim=1)
    return [
        [(classes[label], p) for label, p in zip(labels, values, strict=True)]
        for labels, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


class _ContactSheets:
    """Small pictures with their most probable class, drawn sheet by sheet."""

    def __init__(self, output: Path):
        self.output, self.count = output, 0
        self.waiting: list[tuple[Image.Image, str, dict[str, Ranking]]] = []

    def add(self, image: Image.Image, name: str, found: dict[str, Ranking]) -> None:
        image = image.copy()
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        self.waiting.append((image, name, found))
        if len(self.waiting) == _COLUMNS * _ROWS:
            self.finish()

    def finish(self) -> None:
        """Write the sheet of the pictures that wait, if there are any."""
        if not self.waiting:
            return
        self.count += 1
        with replacing(self.output / f"contact_sheet_{self.count}.png") as part:
            self._figure().savefig(part, format="png")
        self.waiting.clear()

    def _figure(self) -> Figure:
        columns = min(_COLUMNS, len(self.waiting))
        rows = -(-len(self.waiting) // columns)
        lines = 1 + len(self.waiting[0][2])
        figure = new_figure(1.4 * columns, (1.3 + 0.16 * lines) * rows, layout="constrained")
        for index, (image, name, found) in enumerate(self.waiting):
            axes = figure.add_subplot(rows, columns, index + 1)
            axes.imshow(image)
            axes.set_axis_off()
            words = [name]
            for network, ranking in found.items():
                word, probability = ranking[0]
                before = f"{network}: " if len(found) > 1 else ""
                words.append(f"{before}{word} {100 * probability:.0f}%")
            size = min(fitting_size(line, 1.3, 7) for line in words)
            axes.set_title("\n".join(words), size=size, color=INK, pad=3)
        return figure
