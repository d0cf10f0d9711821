"""The students that ``pcka init`` knows by short names."""

from dataclasses import dataclass

from pcka.errors import ConfigError, unknown_key

_TWO_STAGE, _ONE_STAGE = ("p2", "p3", "p4", "p5", "p6"), ("p3", "p4", "p5", "p6", "p7")


@dataclass(frozen=True)
class Student:
    """A detector.

    Attributes:
        architecture: the meta-architecture.
        backbone: the name of its builder.
        depth: the depth of the ResNet.
        anchor_levels: the levels of the FPN that the heads read.
        levels: those that a term reads.
        masks: whether it learns masks.
        rate: the learning rate at a batch of 16.
    """

    architecture: str
    backbone: str
    depth: int
    anchor_levels: tuple[str, ...]
    levels: tuple[str, ...]
    masks: bool
    rate: float

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the ResNet that the FPN reads."""
        return ("res2", "res3", "res4", "res5")[0 if self.levels[0] == "p2" else 1 :]


def _two_stage(depth: int, masks: bool = False) -> Student:
    return Student(
        "GeneralizedRCNN",
        "build_resnet_fpn_backbone",
        depth,
        _TWO_STAGE,
        _TWO_STAGE[:4],
        masks,
        0.02,
    )


def _one_stage(architecture: str, kind: str, depth: int) -> Student:
    backbone = f"build_{kind}_resnet_fpn_backbone"
    return Student(architecture, backbone, depth, _ONE_STAGE, _ONE_STAGE[:3], False, 0.01)


STUDENTS = {
    **{f"faster_rcnn_r{depth}": _two_stage(depth) for depth in (18, 34, 50, 101)},
    **{f"mask_rcnn_r{depth}": _two_stage(depth, masks=True) for depth in (50, 101)},
    **{
        f"retinanet_r{depth}": _one_stage("RetinaNet", "retinanet", depth)
        for depth in (18, 34, 50, 101)
    },
    **{f"fcos_r{depth}": _one_stage("FCOS", "fcos", depth) for depth in (18, 34, 50, 101)},
}
# The teacher to train where none is given: the next deeper ResNet.
DEEPER = {18: 50, 34: 101, 50: 101, 101: 101}


def student_of(name: str) -> Student:
    """Return the student of a short name; raise ConfigError for another."""
    if name not in STUDENTS:
        raise ConfigError(f"--student: {unknown_key(name, STUDENTS)}")
    return STUDENTS[name]
