"""Fixtures: a study of a kind of runs that train in an instant."""

import pytest
import yaml

from pcka.experiments.study import kinds


@pytest.fixture
def fake_kind(monkeypatch):
    """Register the kind ``fake`` in this process."""
    monkeypatch.setitem(kinds.KINDS, "fake", "fake_kind")


@pytest.fixture
def content(tmp_path):
    """Return a study file with a base, one named setting and a grid that is tuned."""
    (tmp_path / "base.yaml").write_text("{}")
    (tmp_path / "taught.yaml").write_text("{taught: true, terms: [{name: kd, size: 1}]}")
    taught = str(tmp_path / "taught.yaml")
    return {
        "TASK": "fake",
        "TITLE": "Made up",
        "OUTPUT_DIR": str(tmp_path / "out"),
        "TEACHER": {"CONFIG_FILE": str(tmp_path / "base.yaml")},
        "STUDENTS": [
            {"NAME": "alone", "CONFIG_FILE": str(tmp_path / "base.yaml")},
            {"NAME": "fixed", "CONFIG_FILE": taught, "OPTS": ["kind", "a"]},
            {
                "NAME": "grid",
                "CONFIG_FILE": taught,
                "AXES": {"kind": {"KEY": "kind", "VALUES": ["a", "b"]}},
                "TUNE": {"KEY": "weight", "VALUES": [1, 3, 10]},
            },
        ],
        "SEEDS": [1, 2, 3],
        "TUNING": {"SEEDS": [101], "OPTS": ["images", "tune"]},
    }


@pytest.fixture
def write(tmp_path):
    """Return ``write(content)``, which returns the path of the file."""

    def write(content):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write
