"""What a comparison found: a table in Markdown, the figures as JSON, and one picture."""

import json
import os
import platform
import statistics
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from .comparison import Comparison, Run
from .data import register_coco_json
from .figures import comparison_figure
from .metrics import read_scalars

_METRICS = ("AP", "AP50", "AP75")


def write_report(comparison: Comparison, command: str) -> str:
    """Write ``table.md``, ``results.json`` and ``picture.png``; return the table."""
    results = collect(comparison)
    table = markdown_table(comparison, results)
    text = f"# {comparison.title}\n\n{table}\n\n{_provenance(comparison, command)}\n"
    output = comparison.output_dir
    (output / "table.md").write_text(text)
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    if comparison.picture:
        draw_picture(comparison).savefig(output / "picture.png")
    return table


def collect(comparison: Comparison) -> dict[str, list[dict]]:
    """Per label one entry per seed: ``{seed, AP, AP50, AP75, parameters, seconds}``."""
    rows = {"teacher": [comparison.teacher], **comparison.students}
    return {
        label: [
            {
                "seed": run.seed,
                **{m: run.metric(m) for m in _METRICS},
                "parameters": run.summary["parameters"],
                "seconds": run.summary["seconds"],
            }
            for run in runs
        ]
        for label, runs in rows.items()
    }


def markdown_table(comparison: Comparison, results: dict[str, list[dict]]) -> str:
    """Mean and sample standard deviation over seeds; differences are paired by seed."""
    lines = [
        "| | AP | AP50 | AP75 | difference to the student alone (AP) | parameters | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = {entry["seed"]: entry["AP"] for entry in results[comparison.baseline]}
    for label, entries in results.items():
        cells = [_spread([e[m] for e in entries]) for m in _METRICS]
        pairs = [e["AP"] - alone[e["seed"]] for e in entries if e["seed"] in alone]
        is_student = label not in ("teacher", comparison.baseline)
        cells.append(_spread(pairs, sign="+") if is_student else "")
        cells.append(f"{entries[0]['parameters'] / 1e6:.2f} M")
        cells.append(f"{statistics.mean(e['seconds'] for e in entries):.0f}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], sign: str = "") -> str:
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _provenance(comparison: Comparison, command: str) -> str:
    seeds = [run.seed for run in comparison.students[comparison.baseline]]
    over = f"Mean ± sample standard deviation over seeds {', '.join(map(str, seeds))}"
    several = f"{over}; differences are paired by seed." if len(seeds) > 1 else f"Seed {seeds[0]}."
    return (
        f"{several} The teacher is one run (seed 0). Evaluated on "
        f"{', '.join(comparison.teacher.config.DATASETS.TEST)}. Seconds: training and evaluation "
        f"of one run.\n\nCommand: `{command}`\n\nMachine: {_cpu()}, torch {torch.__version__}."
    )


def _cpu() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{os.cpu_count()} cores of {name}"


def draw_picture(comparison: Comparison):
    """Detections of the first validation images, beside the truth, and CKA over training.

    The images are the first ones of the data set, not chosen by what they show.
    """
    runs = {label: comparison.students[label][0] for label in comparison.picture["STUDENTS"]}
    register_coco_json(comparison.teacher.config)
    name = comparison.teacher.config.DATASETS.TEST[0]
    dicts = DatasetCatalog.get(name)[: comparison.picture.get("IMAGES", 4)]
    metadata = MetadataCatalog.get(name)
    images = [cv2.imread(d["file_name"])[..., ::-1] for d in dicts]
    panels = {"ground truth": [_truth(d) for d in dicts]}
    to_class = metadata.thing_dataset_id_to_contiguous_id
    for label, run in runs.items():
        panels[label] = _detections(run, name, [d["image_id"] for d in dicts], to_class)
    scalars = {
        label: found
        for label, run in runs.items()
        if (found := read_scalars(run.output_dir / "metrics.json", "cka/"))
    }
    curves = {}
    for label, found in scalars.items():
        terms = {name.rsplit("_", 1)[0] for name in found}
        for name, curve in found.items():
            # The level alone says it where one run has curves, of one term.
            short = name.rsplit("_", 1)[-1] if len(terms) == 1 else name.removeprefix("cka/")
            curves[short if len(scalars) == 1 else f"{label}: {short}"] = curve
    return comparison_figure(
        images,
        panels,
        list(metadata.thing_classes),
        curves,
        comparison.title,
        truth="ground truth",
    )


def _truth(record: dict) -> dict:
    boxes = np.array([a["bbox"] for a in record["annotations"]], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "boxes": boxes,
        "classes": np.array([a["category_id"] for a in record["annotations"]], int),
        "scores": None,
    }


def _detections(run: Run, dataset: str, image_ids: list, to_class: dict) -> list[dict]:
    """A run's own COCO results, image by image."""
    path = run.output_dir / "inference" / dataset / "coco_instances_results.json"
    found = {image_id: [] for image_id in image_ids}
    for detection in json.loads(path.read_text()):
        if detection["image_id"] in found:
            found[detection["image_id"]].append(detection)
    panels = []
    for detections in found.values():
        boxes = np.array([d["bbox"] for d in detections], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([to_class[d["category_id"]] for d in detections], int)
        scores = np.array([d["score"] for d in detections], float)
        panels.append({"boxes": boxes, "classes": classes, "scores": scores})
    return panels
