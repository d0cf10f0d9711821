"""Configs: composed from files, checked at once, and the same when read back."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pcka.classification.config import Config, config_differences, load_config, save_config, to_dict
from pcka.classification.config_sections import DataConfig, ModelConfig, TeacherConfig
from pcka.core import TermSpec
from pcka.errors import ConfigError

BASES = Path(__file__).parents[2] / "configs" / "classification" / "base"
RUN = ["output_dir", "out", "student.name", "resnet8"]
TERM = {"name": "pcka", "features": ["layer1", "layer2"], "loss_args": {"patch_size": [2, 1]}}


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def distilled(tmp_path):
    """Write a file that sets a key of every section."""
    tree = {
        "output_dir": "out",
        "data": {"name": "cifar100", "mean": [0, 0.5, 1], "holdout": 0.1},
        "student": {"name": "resnet8x4"},
        "teacher": {"name": "resnet32x4", "weights": "t.pth", "min_accuracy": 70},
        "terms": [TERM],
        "train": {"clip_grad_norm": 5, "schedule": "cosine"},
    }
    return write(tmp_path / "distilled.yaml", tree)


def test_defaults_and_types(distilled):
    cfg = load_config([distilled])
    assert cfg.data.mean == (0.0, 0.5, 1.0) and cfg.data.std == (0.2675, 0.2565, 0.2761)
    assert cfg.data.image_size == 32 and cfg.data.flip is True
    assert cfg.teacher == TeacherConfig(name="resnet32x4", weights="t.pth", min_accuracy=70.0)
    assert cfg.terms == (TermSpec("pcka", ("layer1", "layer2"), loss_args={"patch_size": [2, 1]}),)
    assert type(cfg.train.clip_grad_norm) is float and cfg.train.milestones == (150, 180, 210)
    assert cfg.distils and not replace(cfg, terms=()).distils


def test_saved_config_reads_back_equal(distilled, tmp_path):
    cfg = load_config([distilled], ["train.lr", "1e-5", "data.root", "/ü/x y"])
    save_config(cfg, tmp_path / "saved.yaml")
    assert load_config([tmp_path / "saved.yaml"]) == cfg
    assert config_differences(cfg, load_config([tmp_path / "saved.yaml"])) == []


def test_bases_merge_deeply_and_lists_replace(tmp_path):
    write(
        tmp_path / "a.yaml", "train: {lr: 0.1, milestones: [1, 2], epochs: 9}\ndata: {workers: 1}"
    )
    write(tmp_path / "b.yaml", "train: {epochs: 8}")
    (tmp_path / "sub").mkdir()
    top = write(
        tmp_path / "sub" / "top.yaml",
        "_BASE_: [../a.yaml, ../b.yaml]\ntrain: {milestones: [3]}",
    )
    cfg = load_config([top], RUN)
    assert (cfg.train.lr, cfg.train.epochs, cfg.train.milestones) == (0.1, 8, (3,))
    assert cfg.data.workers == 1


def test_a_shared_base_does_not_undo_the_file_before(tmp_path):
    write(tmp_path / "base.yaml", "train: {lr: 0.05, momentum: 0.8}")
    pair = write(tmp_path / "pair.yaml", "_BASE_: base.yaml\ntrain: {lr: 0.01}")
    method = write(tmp_path / "method.yaml", "_BASE_: base.yaml\nce_weight: 0.1")
    cfg = load_config([pair, method], RUN)
    assert (cfg.train.lr, cfg.train.momentum, cfg.ce_weight) == (0.01, 0.8, 0.1)
    assert load_config([method, pair], RUN) == cfg


def test_null_takes_back_what_a_base_set(distilled):
    cfg = load_config([distilled], ["teacher", "null", "terms", "[]"])
    assert cfg.teacher is None and not cfg.distils


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "0.0001", "1.0e-4", "+1e-4"])
def test_numbers_with_an_exponent(tmp_path, number):
    file = write(tmp_path / "a.yaml", f"train: {{weight_decay: {number}}}")
    assert load_config([file], RUN).train.weight_decay == 1e-4
    assert load_config([], [*RUN, "train.weight_decay", number]).train.weight_decay == 1e-4


def test_pairs(distilled):
    opts = [
        "train.lr=0.3",
        "data.root",
        "a=b",
        "terms.pcka.weight",
        "2",
        "terms.0.loss_args.center",
    ]
    cfg = load_config([distilled], [*opts, "false"])
    assert cfg.train.lr == 0.3 and cfg.data.root == "a=b"
    assert cfg.terms[0].weight == 2.0
    assert cfg.terms[0].loss_args == {"patch_size": [2, 1], "center": False}
    assert load_config([], ["output_dir=out", "student.name=resnet8"]).student.name == "resnet8"


def test_differences(distilled):
    a = load_config([distilled])
    opts = ["seed", "2", "data.workers", "0", "terms.pcka.weight", "3", "train.milestones", "[7]"]
    b = load_config([distilled], [*opts, "terms.pcka.loss_args.center", "false"])
    changed = ["data.workers", "seed", "terms.pcka.loss_args.center", "terms.pcka.weight"]
    assert config_differences(a, b) == [*changed, "train.milestones"]
    assert config_differences(a, b, ignore=["data", "terms.pcka", "train.mile"]) == [
        "seed",
        "train.milestones",
    ]
    none = load_config([distilled], ["teacher", "null", "terms", "[]"])
    assert "teacher.name" in config_differences(a, none)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (
            ["train.learning_rate", "1"],
            r"train.learning_rate: unknown key, did you mean train.lr\?",
        ),
        (["lr", "1"], r"^lr: unknown key, did you mean train.lr\?"),
        (["learning_rate", "1"], r"did you mean train.lr\?"),
        (["train.wd", "1"], r"did you mean train.weight_decay\?"),
        (["train.gradient_every", "-1"], r"train.gradient_every is steps, or 0 for off, got -1"),
        (["train.gradient_every", "1", "train.compile", "true"], "set train.compile false"),
        (["train.picture_every", "1", "train.compile", "true"], "set train.compile false"),
        (["train.picture_every", "3", "train.eval_every", "2"], "a multiple of train.eval_every"),
        (["train.epoch", "1"], r"did you mean train.epochs\?"),
        (["data.batch_size", "1"], r"did you mean train.batch_size\?"),
        (["techer.name", "x"], r"techer: unknown key, did you mean teacher\?"),
        (["train.zzz", "1"], r"train.zzz: unknown key. Known here: epochs"),
        (["train.lr", "fast"], "train.lr is a finite number, got 'fast'"),
        (["train.lr", "true"], "train.lr is a finite number, got True"),
        (["train.lr", ".inf"], "train.lr is a finite number, got inf"),
        (["train.lr", "-1"], "train.lr is positive, got -1.0"),
        (["train.epochs", "2.5"], "train.epochs is a whole number, got 2.5"),
        (["train.batch_size", "0"], "train.batch_size is at least 1, got 0"),
        (["train.schedule", "step"], "train.schedule is one of multistep, cosine, got 'step'"),
        (["train.amp", "off"], "train.amp is one of none, bf16, fp16, got False"),
        (["train.milestones", "5"], "train.milestones is a list, each a whole number, got 5"),
        (["train.milestones", "[5, x]"], r"train.milestones\[1\] is a whole number, got 'x'"),
        (["train.epochs", "200"], r"train.milestones .* train.epochs = 200, got \[150, 180, 210\]"),
        (["train.milestones", "[180, 150]"], "train.milestones is rising epochs"),
        (["train.warmup_epochs", "240"], "train.warmup_epochs is in .0, train.epochs = 240"),
        (["train.momentum", "1"], r"train.momentum is in \[0, 1\)"),
        (["train.momentum", "0", "train.nesterov", "true"], "nesterov needs train.momentum"),
        (["train.clip_grad_norm", "None"], "a finite number or null, got 'None'"),
        (["train.nesterov", "1"], "train.nesterov is true or false, got 1"),
        (["train", "3"], "train is a mapping with epochs"),
        (
            ["train.lr.x", "3", "train.lr", "3", "train.lr.y", "1"],
            "train.lr is 3 and holds no keys",
        ),
        (["data.name", "cifar"], "data.name is one of digits, cifar10, .*, got 'cifar'"),
        (["data.root", "2024"], "data.root is text, got 2024: quote it"),
        (["data.holdout", "1"], r"data.holdout is in \[0, 1\), got 1.0"),
        (["data.mean", "[0.5]"], "data.mean is a list of 3, each a finite number or null"),
        (["data.mean", "[125, 120, 110]"], "data.mean is three numbers in"),
        (["data.std", "[0, 1, 1]"], "data.std is three numbers in"),
        (["data.image_size", "224"], "data.image_size is 32 for digits, got 224"),
        (
            ["data.name", "folder", "data.image_size", str(2**70)],
            "data.image_size is from 1 to 65536",
        ),
        (["seed", "-1"], "seed is in"),
        (["device", "gpu"], "device is auto, or a device of torch"),
        (["student", "resnet8"], "student is a mapping with name, weights, got 'resnet8'"),
        (["student", "{weights: x}"], "student.name is missing"),
        (["teacher.weights", "x"], "teacher.name is missing"),
        (["teacher", "{name: x, mean: [0, 0, 0]}"], "come together"),
        (["ce_weight", "0"], "nothing to train with"),
        (["train.lr"], "train.lr comes without a value"),
        (["train.lr", "[1"], "not valid YAML"),
        (["train.lr", "!!bool x"], "train.lr: '!!bool x' is not valid YAML"),
        (["train.lr", "1e308"], "train.lr is beyond the range of float32, got 1e"),
        (["train.weight_decay", "9" * 400], "train.weight_decay is beyond the range of float32"),
        (["terms", "[{name: a, features: [x], los: b}]"], r"terms\[0\].los: .* terms\[0\].loss\?"),
        (["terms", "[{name: a, features: [x], loss: B}]"], r"terms\[0\]: .* unknown loss 'B'"),
        (["terms", "[{name: a, features: [x], weight: -1}]"], r"terms\[0\]: .*not negative"),
        (["terms", "[{name: a, features: [x]}]"], "terms need a teacher"),
        (["terms.kd.weight", "1"], "terms"),
    ],
)
def test_wrong_pairs(opts, words):
    with pytest.raises(ConfigError, match=words):
        load_config([], [*RUN, *opts])


def test_unknown_term_on_the_command_line(distilled):
    with pytest.raises(ConfigError, match=r"terms has no entry 'kd'. Known: pcka"):
        load_config([distilled], ["terms.kd.weight", "1"])


def test_two_terms_of_one_name(distilled):
    with pytest.raises(ConfigError, match="terms is a list of different names"):
        load_config([distilled], ["terms", str([TERM, TERM])])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("train: [", "top.yaml, line 1, column 9 is not valid YAML"),
        ("data:", "data is a mapping with name.*, got None"),
        ("- 1", "holds a list, but a mapping of keys is expected"),
        ("_BASE_: nowhere.yaml", "the _BASE_ of .*top.yaml, .*nowhere.yaml.* does not exist"),
        ("_BASE_: {a: 1}", "_BASE_ is a path or a list of paths"),
        ("_BASE_: loop.yaml", "top.yaml -> .*loop.yaml -> .*top.yaml"),
        ("_BASE_: top.yaml", "leads back"),
    ],
)
def test_wrong_files(tmp_path, content, words):
    write(tmp_path / "loop.yaml", "_BASE_: top.yaml")
    with pytest.raises(ConfigError, match=words):
        load_config([write(tmp_path / "top.yaml", content)], RUN)


def test_missing_file_and_missing_keys():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.* does not exist"):
        load_config(["nowhere.yaml"])
    with pytest.raises(ConfigError, match="output_dir is missing"):
        load_config([])


def test_a_config_cannot_run_code(tmp_path):
    mark = tmp_path / "ran"
    file = write(tmp_path / "a.yaml", f'seed: !!python/object/apply:os.mkdir ["{mark}"]\n')
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config([file], RUN)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "imagenet"])
def test_bases_that_ship(name):
    cfg = load_config([BASES / f"{name}.yaml"], RUN)
    assert cfg.data.name == name
    # The values that the file spells out for its reader are also the defaults.
    assert cfg.data == replace(DataConfig(name=name), root=cfg.data.root, workers=cfg.data.workers)


def test_built_in_python():
    cfg = Config(output_dir="out", student=ModelConfig(name="resnet8"))
    assert to_dict(cfg)["data"]["mean"] == [0.3053] * 3
