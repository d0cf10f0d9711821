"""What ``tools/compare.py`` and ``tools/ablate.py`` share."""

import os
import shlex
import signal
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager

from pcka.errors import ConfigError


def argument_parser(description: str, file_help: str) -> ArgumentParser:
    """A file, ``--jobs``, ``--output`` and KEY VALUE pairs, for ``parse_intermixed_args``."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("file", help=file_help)
    parser.add_argument("--jobs", type=_positive, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", default="", help="folder, instead of the file's OUTPUT_DIR")
    parser.add_argument("opts", nargs="*", help="config overrides for every run")
    return parser


@contextmanager
def stopping() -> Iterator[None]:
    """End with a message, not a traceback; a SIGTERM takes the trainings along, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (ConfigError, RuntimeError) as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on from here")


def command() -> str:
    """This process's command, to be typed again."""
    tool = f"tools/{os.path.basename(sys.argv[0])}"
    return " ".join([tool, *map(_shell_word, sys.argv[1:])])


def _shell_word(text: str) -> str:
    """Quoted for a shell, readably: "('name',)" rather than '('"'"'name...'."""
    readable = "'" in text and not set(text) & set('"$`\\!')
    return f'"{text}"' if readable else shlex.quote(text)


def _positive(text: str) -> int:
    return max(1, int(text))
