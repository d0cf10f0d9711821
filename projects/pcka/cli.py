"""The command ``pcka``, with a subcommand for each program, and the exit statuses of all programs.

Every program is a function ``main(argv) -> exit status``: 0 for success, 1 for a run that failed,
2 for wrong use (one line on stderr names the mistake and the remedy), 130 for Ctrl-C.
"""

import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from pcka import __version__
from pcka.errors import ConfigError, RunError, nearest

# Name -> the place of its function, and one line of help. Imported only when called, because most
# imports take seconds.
COMMANDS = {
    "init": ("pcka.detection.init.command", "write a config that trains on a folder of data"),
    "train": ("pcka.detection.train", "train or evaluate a detector, with or without a teacher"),
    "classify": ("pcka.classification.train", "train or evaluate an image classifier"),
    "study": ("pcka.experiments.study.command", "train settings over seeds and compare them"),
    "report": ("pcka.experiments.pages.command", "gather finished runs on one HTML page"),
    "pictures": ("pcka.experiments.pictures", "draw what a finished student took over"),
    "predict": ("pcka.deploy.predict", "predict on new images by a finished student"),
    "export": ("pcka.deploy.export", "export a finished student to ONNX or TorchScript"),
    "import-weights": ("pcka.detection.importers.command", "convert weights of other frameworks"),
}
# Names the process that this one ends with; the scheduler of studies sets it.
PARENT = "PCKA_PARENT"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``pcka COMMAND ARGUMENTS``; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"pcka {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        hint = f", did you mean {close!r}?" if close else "."
        print(f"pcka: unknown command {name!r}{hint} Known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name][0]).main(rest)


def exit_status(program: str, body: Callable[[], object], *, stopped: str = "stopped") -> int:
    """Run a program's body and turn the errors that users cause into one line and a status.

    Args:
        program: the name before the message.
        body: the body of the program.
        stopped: the message after Ctrl-C.
    """
    end_with_parent()
    try:
        body()
    except ConfigError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except (RunError, FloatingPointError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # The system's errors, such as a full disk, a read-only folder or a file in the place of a
        # folder. Errors without a number are bugs of this package and keep their traceback.
        if error.errno is None:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"{program}: error: {error.strerror}{where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: {stopped}", file=sys.stderr)
        return 130
    return 0


def end_with_parent() -> None:
    """End this process when the one named by ``PCKA_PARENT`` ends in any way (Linux).

    Otherwise a study that is killed would leave its runs behind, and the next one would start more.
    """
    parent = os.environ.pop(PARENT, "")
    if parent:
        end_with(int(parent))


def end_with(parent: int) -> None:
    """End this process when its parent, the process of this number, ends (Linux)."""
    if sys.platform != "linux":
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != parent:  # the parent ended before this line
        os.kill(os.getpid(), signal.SIGTERM)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: pcka COMMAND ARGUMENTS   (pcka COMMAND --help)", "", "commands:", *lines]
    )


if __name__ == "__main__":
    sys.exit(main())
