"""Study files: grids, and the messages for mistakes before any run."""

import pytest

from pcka.errors import ConfigError
from pcka.experiments.study.study_file import load_study

pytestmark = pytest.mark.usefixtures("fake_kind")


def load(path, *opts):
    return load_study(str(path), opts=list(opts))


def test_a_grid(content, write, tmp_path):
    grid = content["STUDENTS"][2]
    grid["AXES"] = {
        "size": {"KEY": "terms.kd.size", "VALUES": [[4, 2], "small"]},
        "method": {"VALUES": {"plain": [], "both": ["kind", "b", "terms.kd.new", True]}},
    }
    grid["TUNE"] = {"KEY": ["weight", "seconds"], "VALUES": [0.5, 1e-5]}
    study = load(write(content), "steps", "5")
    names = [setting.name for setting in study.settings]
    assert names[2:] == [
        "grid, size=[4, 2], method=plain",
        "grid, size=[4, 2], method=both",
        "grid, size=small, method=plain",
        "grid, size=small, method=both",
    ]
    both = study.settings[3]
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
    folders = [run.output_dir for s in study.settings for c in s.candidates for run in c.report]
    assert len(set(folders)) == len(folders)


GRID, AXIS = ("STUDENTS", 2), ("STUDENTS", 2, "AXES", "kind")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("STUDENT",), [], "unknown key 'STUDENT', did you mean 'STUDENTS'"),
        (("TASK",), "detecton", "TASK: unknown key 'detecton', did you mean 'detection'"),
        (("TEACHER",), 3, "TEACHER is a mapping"),
        (("STUDENTS",), None, "STUDENTS is missing"),
        (("STUDENTS", 0, "NAME"), "", r"STUDENTS\[0\] needs a NAME"),
        (("STUDENTS", 0, "TUNE"), {}, r"STUDENTS\[0\]: unknown key 'TUNE'"),
        (("STUDENTS", 0, "CONFIG_FILE"), None, r"STUDENTS\[0\]: CONFIG_FILE is missing"),
        (("STUDENTS", 0, "CONFIG_FILE"), [3], "CONFIG_FILE is a path or a list of paths"),
        (("STUDENTS",), {"NAME": "x"}, "STUDENTS is a list"),
        (("STUDENTS", 1, "NAME"), "teacher", "'the teacher' would share"),
        (("STUDENTS", 1, "NAME"), "grid, kind=a", r"STUDENTS\[2\]: 'grid, kind=a' and .* share"),
        (("STUDENTS", 1, "NAME"), "Alone", r"STUDENTS\[1\]: 'Alone' and 'alone' would share"),
        (("STUDENTS", 1, "NAME"), "a" * 300, "too long"),
        (("STUDENTS", 1, "OPTS"), "kind a", r"STUDENTS\[1\]: OPTS is a list"),
        (("STUDENTS", 1, "OPTS"), ["kind", None], "quote an empty value"),
        (("STUDENTS", 1, "OPTS"), ["knd", "a"], r"STUDENTS\[1\].*'knd', did you mean 'kind'"),
        ((*AXIS, "KEY"), "wieght", r"STUDENTS\[2\] \(grid, kind=a\): .*did you mean 'weight'"),
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
        (("PICTURE",), {"IMAGES": 3}, "STUDENTS is missing"),
        (("PICTURE",), {"STUDENTS": ["alone"], "IMAGES": "two"}, "IMAGES is a number"),
        (("PICTURE",), {"STUDENTS": ["alon"]}, "did you mean 'alone'"),
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
    with pytest.raises(ConfigError, match="'SEEDS' stands twice"):
        load(path)
    with pytest.raises(ConfigError, match=r"study file .*nowhere\.yaml.* does not exist"):
        load(path.with_name("nowhere.yaml"))


def test_the_older_form_of_a_file(content, write):
    wanted = load(write(content))
    first, *others = content.pop("STUDENTS")
    content |= {"BASE": first, "SETTINGS": others}
    found = load(write(content))
    assert found.settings == wanted.settings
    content["STUDENTS"] = []
    with pytest.raises(ConfigError, match="BASE is missing"):
        load(write({key: value for key, value in content.items() if key != "BASE"}))


def test_seeds_of_the_command_line(content, write):
    study = load_study(str(write(content)), seeds=[5, 6])
    assert [run.seed for run in study.base.report] == study.seeds == [5, 6]
    content.pop("SEEDS")
    assert load(write(content)).seeds == [1]
