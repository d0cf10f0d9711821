"""Ablation files: grids, and the words for what is wrong, before any run."""

import pytest

from pcka.errors import ConfigError
from pcka.experiments.ablation_file import load_ablation

pytestmark = pytest.mark.usefixtures("fake_task")


def load(path, *opts):
    return load_ablation(str(path), opts=list(opts))


def test_a_grid(content, write, tmp_path):
    grid = content["SETTINGS"][1]
    grid["AXES"] = {
        "size": {"KEY": "terms.kd.size", "VALUES": [[4, 2], "small"]},
        "method": {"VALUES": {"plain": [], "both": ["kind", "b", "terms.kd.new", True]}},
    }
    grid["TUNE"] = {"KEY": ["weight", "seconds"], "VALUES": [0.5, 1e-5]}
    ablation = load(write(content), "steps", "5")
    names = [setting.name for setting in ablation.settings]
    assert names[2:] == [
        "grid, size=[4, 2], method=plain",
        "grid, size=[4, 2], method=both",
        "grid, size=small, method=plain",
        "grid, size=small, method=both",
    ]
    both = ablation.settings[3]
    assert both.axes == {"size": "[4, 2]", "method": "both"} and both.tune == "weight and seconds"
    first, second = both.candidates
    [tuning] = second.tuning
    assert (first.value, second.value, len(second.report)) == ("0.5", "1e-05", 3)
    assert tuning.config["terms"] == [{"name": "kd", "size": [4, 2], "new": True}]
    assert tuning.config["kind"] == "b" and tuning.config["images"] == "tune"
    assert first.report[0].config["weight"] == first.report[0].config["seconds"] == 0.5
    assert first.report[0].config["images"] == "val" and first.report[0].config["steps"] == 5
    teacher = str(tmp_path / "out" / "teacher" / "weights")
    assert first.report[0].config["teacher"] == teacher
    folders = [run.output_dir for s in ablation.settings for c in s.candidates for run in c.report]
    assert len(set(folders)) == len(folders)


GRID, AXIS = ("SETTINGS", 1), ("SETTINGS", 1, "AXES", "kind")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("SETINGS",), [], "unknown key 'SETINGS', did you mean 'SETTINGS'"),
        (("TASK",), "detecton", "TASK: unknown key 'detecton', did you mean 'detection'"),
        (("BASE",), None, "BASE is missing"),
        (("BASE", "NAME"), "", "BASE needs a NAME"),
        (("BASE", "TUNE"), {}, "BASE: unknown key 'TUNE'"),
        (("BASE", "CONFIG_FILE"), None, "BASE: CONFIG_FILE is missing"),
        (("BASE", "CONFIG_FILE"), [3], "BASE: CONFIG_FILE is a path or a list of paths"),
        (("SETTINGS",), {"NAME": "x"}, "SETTINGS is a list"),
        (("SETTINGS", 0, "NAME"), "grid, kind=a", r"SETTINGS\[1\]: 'grid, kind=a' and .* share"),
        (("SETTINGS", 0, "NAME"), "Alone", r"SETTINGS\[0\]: 'Alone' and 'alone' would share"),
        (("SETTINGS", 0, "NAME"), "a" * 300, "too long"),
        (("SETTINGS", 0, "OPTS"), "kind a", r"SETTINGS\[0\]: OPTS is a list"),
        (("SETTINGS", 0, "OPTS"), ["kind", None], "quote an empty value"),
        (("SETTINGS", 0, "OPTS"), ["knd", "a"], r"SETTINGS\[0\].*'knd', did you mean 'kind'"),
        ((*AXIS, "KEY"), "wieght", r"SETTINGS\[1\] \(grid, kind=a\): .*did you mean 'weight'"),
        ((*AXIS, "KEY"), None, "AXES: kind: KEY is a key of the config"),
        ((*AXIS, "KEY"), "terms.kt.size", "no entry 'kt', did you mean 'kd'"),
        ((*AXIS, "VALUE"), [1], "AXES: kind: unknown key 'VALUE', did you mean 'VALUES'"),
        ((*AXIS, "VALUES"), [], "AXES: kind: VALUES is missing or empty"),
        ((*AXIS, "VALUES"), "a", "VALUES is a list, or a mapping"),
        ((*AXIS, "VALUES"), ["a", "b", "a"], "kind: VALUES: 'a' and 'a' would share"),
        ((*AXIS, "VALUES"), {"x": ["kind", "a"]}, "drop KEY"),
        ((*AXIS, "KEY"), "seed", "sets seed, which SEEDS sets as well"),
        ((*AXIS, "KEY"), "teacher", "sets teacher, which TEACHER sets as well"),
        ((*GRID, "AXES", "more"), {"KEY": "kind", "VALUES": ["b"]}, "which AXES: kind sets"),
        ((*GRID, "AXES"), {"k": {"VALUES": {"x": ["kind"]}}}, "of pairs"),
        ((*GRID, "AXES"), ["kind"], "AXES is a mapping"),
        ((*GRID, "AXES"), {"seed": {}}, "AXES: seed is a column of runs.csv"),
        ((*GRID, "TUNE"), {"KEY": "weight", "VALUES": []}, "TUNE: VALUES is missing or empty"),
        (("TUNING",), None, "TUNE needs TUNING"),
        (("TUNING", "SEEDS"), [3, 101], r"SEEDS \[3\] are reported as well"),
        (("TUNING", "OPTS"), [], "tuned and reported on val: set other images"),
        (("SEEDS",), [1, 1], "SEEDS is a list of different whole numbers"),
        (("SEEDS",), "1, 2", "SEEDS is a list of different whole numbers"),
    ],
)
def test_what_is_wrong(content, write, place, value, words):
    node = content
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = value
    with pytest.raises(ConfigError, match=words):
        load(write(content))


def test_an_axis_is_not_set_beside_it(content, write):
    with pytest.raises(ConfigError, match="TUNE sets weight, which the command line sets as well"):
        load(write(content), "weight", "3")


def test_a_key_that_is_there_twice(content, write):
    path = write(content)
    path.write_text(path.read_text() + "SEEDS: [7]\n")
    with pytest.raises(ConfigError, match="'SEEDS' is there twice"):
        load(path)
    with pytest.raises(ConfigError, match="cannot read the ablation"):
        load(path.with_name("nowhere.yaml"))
