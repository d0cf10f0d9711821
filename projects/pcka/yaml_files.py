"""One YAML loader for configs, study files and saved runs: safe and strict.

Only plain data is read, a key may occur once in a mapping, and ``1e-4`` is a number.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pcka.errors import ConfigError

BASE_KEY = "_BASE_"
_MOST_VALUES = 10**6


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a repeated key and reads ``1e-4`` as a float.

    YAML 1.1, which PyYAML implements, requires ``1.0e-4`` and lets the last of equal keys win.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    words = f"the key {key.value!r} stands twice in one mapping,"
                    raise yaml.constructor.ConstructorError(None, None, words, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Parse YAML text into plain values.

    Raises:
        yaml.YAMLError: text that is not YAML, a repeated key or a tag.
    """
    content = yaml.load(text, Loader=Loader)  # Loader is a SafeLoader
    _count(content, {})
    return content


def read_yaml(path: str | Path, *, what: str = "config file", trusted: bool = False) -> Any:
    """Read a YAML file into plain values.

    Args:
        path: the file.
        what: the name of the file's kind in messages.
        trusted: allow Python tags; for files of an installed package, which are code already.

    Raises:
        ConfigError: a file that is missing or not text, or YAML that is not valid; the message
            names the file and, if there is one, the line.
    """
    path = Path(path)
    check_is_file(path, what=what)
    try:
        text = path.read_text(encoding="utf-8-sig")
        return yaml.unsafe_load(text) if trusted else parse_yaml(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} {path} is not UTF-8 text: save it as UTF-8 ({error})") from error
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{what} {path} is nested too deeply to be read") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{what} {path}{describe(error)}") from error


def check_is_file(path: Path, *, what: str = "config file") -> None:
    """Raise ConfigError unless ``path`` is a file."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist or is no regular file"
        raise ConfigError(f"{what} {str(path)!r} {found}: give the path of a YAML file")


def read_mapping(path: str | Path, *, what: str = "config file", trusted: bool = False) -> dict:
    """Read a YAML file that holds a mapping; an empty file is an empty mapping.

    Raises:
        ConfigError: see :func:`read_yaml`; also for a file that holds anything else.
    """
    content = read_yaml(path, what=what, trusted=trusted)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{what} {path} holds a {type(content).__name__}, but a mapping of keys is expected"
        )
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{what} {path}: keys are text, got {key!r}: quote it")
    return content


def read_with_bases(
    files: Sequence[str | Path], *, is_trusted: Callable[[Path], bool] = lambda path: False
) -> dict:
    """Merge YAML files in order, each after the files that its ``_BASE_`` names.

    Mappings merge key by key; everything else, lists included, replaces. A file that several
    others name as their base is merged once, where it first appears, so that files composed on
    the command line do not undo one another.

    Args:
        files: paths; ``~`` is the home folder, and a base is relative to the file that names it.
        is_trusted: whether a file may use Python tags.

    Raises:
        ConfigError: see :func:`read_mapping`; also for a circle of bases.
    """
    tree: dict = {}
    done: set[Path] = set()
    for file in files:
        _merge_file(tree, Path(file), done, (), is_trusted)
    return tree


def _merge_file(
    tree: dict,
    file: Path,
    done: set[Path],
    chain: tuple[Path, ...],
    is_trusted: Callable[[Path], bool],
) -> None:
    path = file.expanduser().resolve()
    if path in chain:
        circle = " -> ".join(str(p) for p in (*chain, path))
        raise ConfigError(f"{BASE_KEY} leads back to where it started: {circle}")
    if path in done:
        return
    what = f"the {BASE_KEY} of {chain[-1]}," if chain else "config file"
    content = read_mapping(path, what=what, trusted=is_trusted(path))
    bases = content.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) and base for base in bases):
        raise ConfigError(
            f"config file {path}: {BASE_KEY} is a path or a list of paths, got {bases!r}"
        )
    for base in bases:
        _merge_file(tree, path.parent / Path(base).expanduser(), done, (*chain, path), is_trusted)
    merge_into(tree, content)
    done.add(path)


def merge_into(tree: dict, other: Mapping) -> None:
    """Merge ``other`` into ``tree`` in place, mappings key by key."""
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            merge_into(tree[key], value)
        else:
            tree[key] = value


def describe(error: Exception) -> str:
    """Return why text is no YAML, in one line that goes on after the name of what was read."""
    if not isinstance(error, yaml.error.MarkedYAMLError):
        words = " ".join(str(error).split())
        if isinstance(error, LookupError | TypeError):  # of a tag such as !!bool
            words = f"a tag (!!type) does not fit its value: {words}"
        return f" is not valid YAML: {words}"
    mark = error.problem_mark or error.context_mark
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = ", ".join(" ".join(part.split()) for part in (error.context, error.problem) if part)
    if "tag:yaml.org,2002:python/" in problem:
        return f"{where}: asks to run Python code while it is read, which is refused: {problem}"
    if "could not determine a constructor for the tag" in problem:
        return f"{where}: uses a tag that plain YAML does not have: {problem}: remove the tag"
    return f"{where} is not valid YAML: {problem}"


def _count(value: Any, counts: dict[int, int]) -> int:
    """Return how many values there are within one, those of an alias as often as it stands.

    Args:
        value: the content that was read.
        counts: the sizes of the mappings and lists met so far, by id; 0 marks those that are not
            done.

    Raises:
        YAMLError: an alias to a mapping or list that contains it, or aliases of aliases that stand
            for more values than a config can have.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counts:
        counts[id(value)] = 0
        children = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count(child, counts) for child in children)
    elif not counts[id(value)]:
        raise yaml.YAMLError("an alias (*name) stands inside the very value that it repeats")
    if counts[id(value)] > _MOST_VALUES:
        raise yaml.YAMLError(f"its aliases (*name) stand for more than {_MOST_VALUES} values")
    return counts[id(value)]
