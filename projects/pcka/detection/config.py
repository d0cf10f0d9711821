"""Configuration keys of distillation, and a config read from a file and KEY VALUE pairs."""

import copy
import os

from detectron2.config import CfgNode, get_cfg

from pcka.errors import ConfigError

from .config_files import SafeCfgNode, explain

META_ARCHITECTURE = "DistilledDetector"


def add_pcka_config(cfg: CfgNode) -> None:
    """Add the keys of this project to a detectron2 config, with values that distil nothing."""
    cfg.MODEL.PCKA = pcka = CfgNode()
    # The detector that is trained and evaluated: any registered detectron2 meta-architecture
    # with a `backbone`. The rest of MODEL describes it as usual; MODEL.WEIGHTS initialises it.
    pcka.STUDENT_META_ARCHITECTURE = "GeneralizedRCNN"
    # Factor on the weights of all terms, for sweeps. 0 trains plain detectron2, without a teacher.
    pcka.LOSS_WEIGHT = 1.0

    pcka.TEACHER = CfgNode()
    # A standard detectron2 config, YAML or LazyConfig (.py): a path, or a name of the model zoo.
    pcka.TEACHER.CONFIG_FILE = ""
    # "" takes the zoo's weights for a zoo name, else MODEL.WEIGHTS of that config, which in a
    # LazyConfig is train.init_checkpoint.
    pcka.TEACHER.WEIGHTS = ""
    # KEY VALUE pairs merged into the teacher's config last; for a LazyConfig, strings key=value.
    pcka.TEACHER.OPTS = []
    # Box AP, in percent, that the whole teacher has to reach before the first step; 0 is off.
    pcka.TEACHER.MIN_AP = 0.0
    # Number of images it is measured on, the first of DATASETS.TEST[0].
    pcka.TEACHER.MIN_AP_IMAGES = 100

    # Iterations between two comparisons of the terms' gradients with the detector's own, at the
    # features that the terms read (gradient/* in metrics.json); 0 for none.
    pcka.GRADIENT_PERIOD = 0
    # Leave the padding of a batch of images of different sizes out of the losses of maps.
    pcka.MASK_PADDING = False
    # List of terms; keys and defaults of an entry: see `config_terms.term_template`.
    pcka.TERMS = []

    # Iterations between two writings of the pictures of tools/pictures.py, over the first images of
    # DATASETS.TEST[0], to TensorBoard; 0 for none.
    pcka.PICTURE_PERIOD = 0

    # Type of mixed precision (SOLVER.AMP.ENABLED): float16, as in detectron2, or bfloat16.
    cfg.SOLVER.AMP.DTYPE = "float16"

    # The network of build_timm_fpn_backbone and its kin. MODEL.RESNETS.NORM and OUT_FEATURES and
    # MODEL.BACKBONE.FREEZE_AT hold for it as for a ResNet.
    cfg.MODEL.TIMM = CfgNode()
    # A name of timm.list_models(), or NAME.TAG for the statistics of certain weights.
    cfg.MODEL.TIMM.NAME = ""
    # Whether INPUT.FORMAT, MODEL.PIXEL_MEAN and PIXEL_STD have to be those that timm's weights of
    # this name expect. False is for weights that were trained with others.
    cfg.MODEL.TIMM.CHECK_PIXELS = True

    cfg.MODEL.FCOS = fcos = CfgNode()
    fcos.NUM_CLASSES = 80
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Number of convolutions in each of the two towers, and their norm.
    fcos.NUM_CONVS = 4
    fcos.NORM = "GN"
    # Probability of an object that the untrained classifier predicts.
    fcos.PRIOR_PROB = 0.01
    # Radius around the centre of a box in which cells are positive, in strides of the level.
    fcos.CENTER_SAMPLING_RADIUS = 1.5
    fcos.FOCAL_LOSS_ALPHA = 0.25
    fcos.FOCAL_LOSS_GAMMA = 2.0
    # The score is the square root of class probability times centreness.
    fcos.SCORE_THRESH_TEST = 0.2
    fcos.TOPK_CANDIDATES_TEST = 1000
    fcos.NMS_THRESH_TEST = 0.6

    # The user's own data: a list of {NAME, JSON, IMAGES}, each registered as a COCO data set.
    cfg.DATASETS.COCO_JSON = []
    # Folders as a labelling tool exported them, a list of {NAME, PATH}. The splits become the data
    # sets NAME_train, NAME_valid and NAME_test. Optional: FORMAT, for a folder that fits several
    # (see `data.formats.known`); VALID_FRACTION (0.2) and SEED (0) of the validation set that is
    # taken from training where the folder has none.
    cfg.DATASETS.FOLDERS = []
    # Folder that relative JSON, IMAGES and PATH paths start from.
    cfg.DATASETS.COCO_ROOT = ""


def load_config(config_file: str = "", opts: list | None = None) -> CfgNode:
    """Read a full config from a YAML file and KEY VALUE pairs.

    Unlike ``CfgNode.merge_from_file`` this never runs code that a file contains. Only files that
    ship inside detectron2, which is code already, may use Python tags.

    Args:
        config_file: path of a detectron2 YAML config; "" takes the defaults. ``~`` is the home
            folder, here and in the paths that the config names.
        opts: ``[KEY, VALUE, ...]``, merged last. An entry of a list is addressed by its NAME or
            its number: ``MODEL.PCKA.TERMS.pcka.LOSS_ARGS.grouping batch``.

    Raises:
        ConfigError: no such file, bad YAML, a Python tag, an unknown key or a wrong type.
    """
    if config_file.endswith(".py"):
        raise ConfigError(
            f"{config_file} is a LazyConfig, which can be a teacher (MODEL.PCKA.TEACHER."
            "CONFIG_FILE); students are configured by YAML files, FCOS as well (MODEL.FCOS)"
        )
    cfg = get_cfg()
    add_pcka_config(cfg)
    cfg = SafeCfgNode(cfg)
    try:
        if config_file:
            cfg.merge_from_file(config_file)
    except ConfigError:
        raise
    except (KeyError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise ConfigError(f"{config_file}: {explain(error, cfg)}") from error
    try:
        cfg.merge_from_list(copy.deepcopy(list(opts or [])))  # keys may lead into its lists
    except ConfigError:
        raise
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"KEY VALUE pairs: {explain(error, cfg)}") from error
    teacher = cfg.MODEL.PCKA.TEACHER
    for node, key in (
        (cfg, "OUTPUT_DIR"),
        (cfg.MODEL, "WEIGHTS"),
        (cfg.DATASETS, "COCO_ROOT"),
        (teacher, "CONFIG_FILE"),
        (teacher, "WEIGHTS"),
    ):
        node[key] = os.path.expanduser(node[key])
    return cfg


def student_config(cfg: CfgNode) -> CfgNode:
    """Return the student alone, as a config that unmodified detectron2 reads and builds.

    It still names what this project registers: FCOS and networks of timm with
    their keys, and the backbones.
    """
    plain = CfgNode(cfg)
    pcka = plain.MODEL.pop("PCKA")
    if plain.MODEL.META_ARCHITECTURE == META_ARCHITECTURE:
        plain.MODEL.META_ARCHITECTURE = pcka.STUDENT_META_ARCHITECTURE
    if plain.MODEL.META_ARCHITECTURE != "FCOS":
        plain.MODEL.pop("FCOS")
    if "timm" not in plain.MODEL.BACKBONE.NAME:
        plain.MODEL.pop("TIMM")
    for key in ("COCO_JSON", "COCO_ROOT", "FOLDERS"):
        plain.DATASETS.pop(key)
    plain.SOLVER.AMP.pop("DTYPE")
    return plain


def config_differences(a: CfgNode, b: CfgNode, prefix: str = "") -> list[str]:
    """Return the full names of keys whose values differ; tuples and lists count as equal."""
    names = []
    for key in sorted(set(a) | set(b)):
        left, right = a.get(key), b.get(key)
        if isinstance(left, CfgNode) and isinstance(right, CfgNode):
            names += config_differences(left, right, f"{prefix}{key}.")
        elif _plain(left) != _plain(right):
            names.append(prefix + key)
    return names


def _plain(value):
    # YAML has no tuples: saved tuples are read as lists.
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
