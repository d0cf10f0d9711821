"""One training step of a detector: alone, its teacher's backbone alone, and distilling.

    python benchmarks/step.py                                     # R101-FPN > R50-FPN, 320x544
    python benchmarks/step.py --config-file FILE --size 800 1344 --batch 2 KEY VALUE ...

Prints medians, the ratio distillation / (student + teacher), and what distilling takes in memory
beside the teacher's weights. Random weights and images; learning rate 0, so that every step does
the same work. On a GPU it runs unchanged; `--amp bfloat16` trains as SOLVER.AMP does.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from timing import argument_parser, describe, medians, peak_bytes, prepare

from pcka.core import DistillTerms
from pcka.detection import FrozenTeacher, load_config, student_config
from pcka.detection.config_terms import term_specs
from pcka.detection.modeling.distilled_detector import DistilledDetector
from pcka.detection.modeling.features import feature_shapes
from pcka.detection.modeling.teacher_source import teacher_config

CONFIG = Path(__file__).parents[1] / "configs" / "pcka_faster_rcnn.yaml"
OBJECTS = 8  # per image
MB = 1 << 20


def build(cfg):
    """The detector that distils, with random weights on both sides."""
    plain, theirs = student_config(cfg), teacher_config(cfg)
    student = build_model(plain)
    teacher = FrozenTeacher(
        build_model(theirs),
        input_format=theirs.INPUT.FORMAT,
        student_format=plain.INPUT.FORMAT,
    )
    terms = DistillTerms(term_specs(cfg), feature_shapes(student), teacher.feature_shapes)
    model = DistilledDetector(student=student, teacher=teacher, distill=terms)
    return model.to(student.device).train()


def inputs(batch, size, classes):
    """A batch as a mapper makes it: uint8 images and boxes, on the CPU."""
    height, width = size
    g = torch.Generator().manual_seed(0)
    found = []
    for _ in range(batch):
        corners = torch.rand(OBJECTS, 2, 2, generator=g).sort(1).values
        objects = Instances((height, width))
        objects.gt_boxes = Boxes(corners.flatten(1) * torch.tensor([width, height] * 2))
        objects.gt_classes = torch.randint(0, classes, (OBJECTS,), generator=g)
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=g)
        found.append({"image": image, "instances": objects, "height": height, "width": width})
    return found


def measure(cfg, size, batch, amp, rounds):
    """Return medians in seconds and peak bytes of the three calls, by name."""
    torch.manual_seed(0)
    model = build(cfg)
    device = model.student.device
    images = inputs(batch, size, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    autocast = torch.autocast(device.type, getattr(torch, amp)) if amp else nullcontext()

    def step(detector):
        torch.manual_seed(0)  # the same proposals are drawn
        with autocast:
            losses = detector(images)
        sum(losses.values()).backward()
        if detector is model:
            model.finish_step()
        optimizer.step()
        optimizer.zero_grad()  # last: a step's memory then is its own

    def teacher():
        with autocast:
            return model.teacher(images, device)

    calls = {
        "student": lambda: step(model.student),
        "teacher's backbone": teacher,
        "distillation": lambda: step(model),
    }
    with EventStorage():
        for call in calls.values():
            call()
        memory = {name: peak_bytes(call, device) for name, call in calls.items()}
        times = medians(calls, device, rounds)
    read = {pair.teacher for pair in model.distill.pairings.values()}
    features = sum(f.numel() * f.element_size() for n, f in teacher().items() if n in read)
    weights = sum(p.numel() * p.element_size() for p in model.teacher.model.parameters())
    return times, memory | {"features": features, "weights": weights}


def ratio(times):
    """Return how long distilling takes, in times of the student and the teacher's backbone."""
    return times["distillation"] / (times["student"] + times["teacher's backbone"])


def main():
    parser = argument_parser(__doc__.splitlines()[0], rounds=7)
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--size", type=int, nargs=2, default=[320, 544], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--amp", choices=["float16", "bfloat16"])
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    args = parser.parse_intermixed_args()
    device = prepare(args)
    cfg = load_config(args.config_file, ["MODEL.DEVICE", str(device), *args.opts])
    times, memory = measure(cfg, args.size, args.batch, args.amp, args.rounds)
    height, width = args.size
    print(f"{describe(device)}; {Path(args.config_file).name} {' '.join(args.opts)}")
    how = f"B={args.batch}, {height}x{width} pixels, {args.amp or 'float32'}"
    print(f"{how}, medians of {args.rounds}")
    print("\n| | milliseconds | peak MB |\n|---|---|---|")
    for name in times:
        print(f"| {name} | {1e3 * times[name]:.0f} | {memory[name] / MB:.0f} |")
    print(f"\ndistillation over student + teacher: {ratio(times):.3f}")
    extra = memory["distillation"] - memory["student"]
    print(
        f"memory of the distillation step over the student's: {extra / MB:.0f} MB; the teacher's "
        f"features that the terms read: {memory['features'] / MB:.0f} MB, its weights: "
        f"{memory['weights'] / MB:.0f} MB"
    )


if __name__ == "__main__":
    main()
