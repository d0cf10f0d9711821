"""Configuration keys of distillation, and the safe way to read a config file."""

import os
from importlib import resources

import yaml
from detectron2.config import CfgNode, get_cfg

from ..core import LOSSES, TermSpec
from ..errors import ConfigError, unknown_key

META_ARCHITECTURE = "DistilledDetector"


def add_pcka_config(cfg: CfgNode) -> None:
    """Add the keys of this project to a detectron2 config, with values that distil nothing."""
    cfg.MODEL.PCKA = pcka = CfgNode()
    # The detector that is trained and evaluated: any registered detectron2 meta-architecture
    # with a `backbone`. The rest of MODEL describes it as usual; MODEL.WEIGHTS initialises it.
    pcka.STUDENT_META_ARCHITECTURE = "GeneralizedRCNN"
    # Scales every term: the handle for sweeps. 0 trains as plain detectron2, without a teacher.
    pcka.LOSS_WEIGHT = 1.0

    pcka.TEACHER = CfgNode()
    # A standard detectron2 config, YAML or LazyConfig (.py): a path, or a name of the model zoo.
    pcka.TEACHER.CONFIG_FILE = ""
    # "" takes the zoo's weights for a zoo name, else MODEL.WEIGHTS of that config (of a LazyConfig,
    # train.init_checkpoint).
    pcka.TEACHER.WEIGHTS = ""
    # KEY VALUE pairs merged into the teacher's config last; for a LazyConfig, strings key=value.
    pcka.TEACHER.OPTS = []
    # Box AP, in percent, that the whole teacher has to reach before the first step; 0 is off.
    pcka.TEACHER.MIN_AP = 0.0
    # It is measured on so many images, the first of DATASETS.TEST[0].
    pcka.TEACHER.MIN_AP_IMAGES = 100

    # List of terms; keys and defaults of an entry: see `term_template`.
    pcka.TERMS = []

    # Every so many iterations the pictures of tools/pictures.py, over the first images of
    # DATASETS.TEST[0], go to TensorBoard; 0: never.
    pcka.PICTURE_PERIOD = 0

    # Of mixed precision (SOLVER.AMP.ENABLED): float16, detectron2's, or bfloat16.
    cfg.SOLVER.AMP.DTYPE = "float16"

    cfg.MODEL.FCOS = fcos = CfgNode()
    fcos.NUM_CLASSES = 80
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Convolutions of each of the two towers, and their norm.
    fcos.NUM_CONVS = 4
    fcos.NORM = "GN"
    # Probability of an object that the classifier starts from.
    fcos.PRIOR_PROB = 0.01
    # Cells around the centre of a box that count as positive, in strides of the level.
    fcos.CENTER_SAMPLING_RADIUS = 1.5
    fcos.FOCAL_LOSS_ALPHA = 0.25
    fcos.FOCAL_LOSS_GAMMA = 2.0
    # The score is the square root of class probability times centreness.
    fcos.SCORE_THRESH_TEST = 0.2
    fcos.TOPK_CANDIDATES_TEST = 1000
    fcos.NMS_THRESH_TEST = 0.6

    # The user's own data: a list of {NAME, JSON, IMAGES}, each registered as a COCO data set.
    cfg.DATASETS.COCO_JSON = []
    # Folder that relative JSON and IMAGES start from.
    cfg.DATASETS.COCO_ROOT = ""


def term_template() -> CfgNode:
    """Keys of one entry of MODEL.PCKA.TERMS with their defaults."""
    term = CfgNode()
    term.NAME = "pcka"
    # Student features: FPN levels (p2...) or stages of its bottom-up network (res2...).
    term.FEATURES = []
    # Their counterparts, if named differently; empty: by equal name, else by equal stride.
    term.TEACHER_FEATURES = []
    term.LOSS = "PatchCKA"
    # Arguments of the loss; a list gives one value per feature.
    term.LOSS_ARGS = CfgNode(new_allowed=True)
    term.WEIGHT = 1.0
    # identity, or conv1x1 to bring the student's width to the teacher's.
    term.ADAPTER = "identity"
    return term


def term_specs(cfg: CfgNode) -> list[TermSpec]:
    """MODEL.PCKA.TERMS as terms that are not off, LOSS_WEIGHT multiplied in.

    Raises:
        ConfigError: an unknown key, or a value that a term does not take.
    """
    scale = cfg.MODEL.PCKA.LOSS_WEIGHT
    if not scale >= 0:
        raise ConfigError(f"MODEL.PCKA.LOSS_WEIGHT is a number >= 0, got {scale}")
    specs = []
    for index, entry in enumerate(cfg.MODEL.PCKA.TERMS or []):
        where = f"MODEL.PCKA.TERMS[{index}]"
        if not isinstance(entry, dict):
            raise ConfigError(f"{where} is a mapping such as {{NAME: pcka, ...}}, got {entry!r}")
        template = term_template()
        for key in entry:
            if key not in template:
                raise ConfigError(f"{where}: {unknown_key(key, template)}")
        try:
            entry = CfgNode(entry)
            _widen(template, entry)
            template.merge_from_other_cfg(entry)
            spec = TermSpec(
                name=template.NAME,
                features=tuple(template.FEATURES),
                teacher_features=tuple(template.TEACHER_FEATURES),
                loss=template.LOSS,
                loss_args=dict(template.LOSS_ARGS),
                weight=template.WEIGHT * scale,
                adapter=template.ADAPTER,
            )
            if LOSSES[spec.loss].inputs == "logits":
                raise spec.error(f"{spec.loss} relates logits; the features of a detector are maps")
            for position in range(len(spec.features)):
                spec.build_loss(position)
            specs.append(spec)
        except (ValueError, AssertionError) as error:
            raise ConfigError(f"{where}: {error}") from error
    return [spec for spec in specs if spec.weight > 0]


def distils(cfg: CfgNode) -> bool:
    """Whether this config has any term that is on; otherwise it is plain detectron2."""
    return cfg.MODEL.META_ARCHITECTURE == META_ARCHITECTURE and bool(term_specs(cfg))


def load_config(config_file: str = "", opts: list | None = None) -> CfgNode:
    """A full config from a YAML file and KEY VALUE pairs.

    Unlike ``CfgNode.merge_from_file`` this never runs code that a file contains; only files that
    ship inside detectron2, which are code already, may use its Python tags.

    Args:
        config_file: path of a detectron2 YAML config; "" for the defaults.
        opts: ``[KEY, VALUE, ...]``, merged last.

    Raises:
        ConfigError: no such file, bad YAML, a Python tag, an unknown key or a wrong type.
    """
    cfg = get_cfg()
    add_pcka_config(cfg)
    cfg = _SafeCfgNode(cfg)
    try:
        if config_file:
            if not os.path.isfile(config_file):
                raise ConfigError(f"config file {config_file!r} does not exist")
            cfg.merge_from_file(config_file)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{config_file} asks to run Python code while it is read, which is refused: "
            f"{error.problem} {error.problem_mark}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{config_file} is not valid YAML: {error}") from error
    except (KeyError, ValueError, AssertionError, TypeError, OSError) as error:
        raise ConfigError(f"{config_file}: {_explain(error, cfg)}") from error
    try:
        cfg.merge_from_list(list(opts or []))
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"command line: {_explain(error, cfg)}") from error
    return cfg


def student_config(cfg: CfgNode) -> CfgNode:
    """The student alone, as a config that unmodified detectron2 reads and builds.

    What this project registers stays in it by name: FCOS with its keys, and the backbones.
    """
    plain = CfgNode(cfg)
    pcka = plain.MODEL.pop("PCKA")
    if plain.MODEL.META_ARCHITECTURE == META_ARCHITECTURE:
        plain.MODEL.META_ARCHITECTURE = pcka.STUDENT_META_ARCHITECTURE
    if plain.MODEL.META_ARCHITECTURE != "FCOS":
        plain.MODEL.pop("FCOS")
    for key in ("COCO_JSON", "COCO_ROOT"):
        plain.DATASETS.pop(key)
    plain.SOLVER.AMP.pop("DTYPE")
    return plain


def config_differences(a: CfgNode, b: CfgNode, prefix: str = "") -> list[str]:
    """Full names of the keys whose values differ; tuples and lists count as equal."""
    names = []
    for key in sorted(set(a) | set(b)):
        left, right = a.get(key), b.get(key)
        if isinstance(left, CfgNode) and isinstance(right, CfgNode):
            names += config_differences(left, right, f"{prefix}{key}.")
        elif _plain(left) != _plain(right):
            names.append(prefix + key)
    return names


class _SafeCfgNode(CfgNode):
    """Reads YAML without running code, file by file along ``_BASE_``."""

    @classmethod
    def load_yaml_with_base(cls, filename, allow_unsafe=False):
        inside = str(resources.files("detectron2")) + os.sep
        trusted = os.path.realpath(filename).startswith(os.path.realpath(inside) + os.sep)
        return super().load_yaml_with_base(filename, allow_unsafe=trusted)

    def merge_from_other_cfg(self, cfg_other):
        _widen(self, cfg_other)
        return super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list):
        pairs = zip(cfg_list[0::2], cfg_list[1::2], strict=False)
        values = {key: self._decode_cfg_value(value) for key, value in pairs}
        for key, value in values.items():
            if type(value) is int and type(lookup(self, key)) is float:
                values[key] = float(value)
        tail = [] if len(cfg_list) % 2 == 0 else cfg_list[-1:]
        return super().merge_from_list([x for pair in values.items() for x in pair] + list(tail))


def _widen(node: CfgNode, other: CfgNode) -> None:
    """Whole numbers where ``node`` holds a float become floats: yacs would refuse them."""
    for key, value in other.items():
        if isinstance(value, CfgNode) and isinstance(node.get(key), CfgNode):
            _widen(node[key], value)
        elif type(value) is int and type(node.get(key)) is float:
            other[key] = float(value)


def _plain(value):
    # YAML has no tuples: they come back as lists.
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def lookup(node: CfgNode, path: str):
    """The value under a full name such as ``MODEL.DEVICE``; None if there is none."""
    for part in path.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return node


def _explain(error: Exception, cfg: CfgNode) -> str:
    """yacs' message, with the known keys of the node where a key is unknown."""
    message = str(error.args[0] if error.args else error)
    marker = "Non-existent key: "
    if marker not in message and "Non-existent config key: " not in message:
        return message
    path = message.rsplit(": ", 1)[-1].strip()
    node = cfg
    for part in path.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            break
        node = node[part]
    known = [k for k in node] if isinstance(node, CfgNode) else []
    return f"in {path}: {unknown_key(part, known)}"
