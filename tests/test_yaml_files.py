"""Files that are no YAML, or YAML of another shape: one line that names the file and the place."""

import pytest

from pcka.errors import ConfigError
from pcka.yaml_files import read_mapping

# Nine aliases of nine aliases, eight levels deep: 200 bytes that stand for 43 million values.
LAUGHS = "\n".join(
    [f"a: &a [{', '.join('x' * 9)}]"]
    + [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]"
        for old, new in zip("abcdefg", "bcdefgh", strict=True)
    ]
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a:\n\tb: 1\n", r"c\.yaml, line 2, column 1 is not valid YAML: .*cannot start any token"),
        ("a: [1, 2\n", r"line 2, column 1 is not valid YAML: while parsing a flow sequence"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1 is not valid YAML: expected a single document"),
        ("a: \x00", "unacceptable character #x0000"),
        ("a: *nope", "line 1, column 4 .*undefined alias 'nope'"),
        ("? [a, b]\n: 2", "unhashable key"),
        ("{a: 1, a: 2}", "the key 'a' stands twice"),
        ("a: !!bool x", "a tag .* does not fit its value: 'x'"),
        ("a: !!int x", "not valid YAML: invalid literal for int"),
        ("a: !!python/tuple [1]", "line 1, column 4: asks to run Python code"),
        ("a: !env x", "line 1, column 4: uses a tag that plain YAML does not have.*remove the tag"),
        ("a: &a [*a]", "inside the very value that it repeats"),
        (LAUGHS, r"aliases \(\*name\) stand for more than 1000000 values"),
        ("[" * 5000, "nested too deeply"),
        ("1: 2", "keys are text, got 1: quote it"),
        ("text", "holds a str"),
        (b"a: \xe9", "is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_broken_files(tmp_path, content, words):
    file = tmp_path / "c.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=words) as error:
        read_mapping(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_aliases_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text("a: &a {b: [1]}\nc: *a\nd: [*a, *a]\n")
    assert read_mapping(tmp_path / "c.yaml")["d"] == [{"b": [1]}] * 2


def test_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        read_mapping(tmp_path)
