"""Train an image classifier, alone or taught by another.

    pcka classify --config-file FILE [--config-file FILE ...] [KEY VALUE ...]
    pcka classify --config-file FILE --resume
    pcka classify --config-file FILE --eval-only student.weights FILE
    torchrun --nproc-per-node 4 -m pcka.classification.train --config-file FILE

From a checkout, ``python -m classification.train`` is the same command.

Files are merged in order, KEY VALUE pairs (``train.lr 0.1``) last; see
``pcka.classification.config``.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcka.classification.building import (
    build_distiller,
    build_network,
    build_run_data,
    check_teacher,
    prepare_teacher,
)
from pcka.classification.config import Config, load_config
from pcka.classification.data import Data, build_evaluation_data
from pcka.classification.data.batches import share_of, train_spans
from pcka.classification.distiller import Distiller
from pcka.classification.engine import Engine
from pcka.classification.evaluate import Accuracy, evaluate
from pcka.classification.first_batch import warn_of_loud_terms
from pcka.classification.processes import Process, join_processes
from pcka.classification.records import (
    CHECKPOINT,
    STUDENT,
    describe_run,
    read_summary,
    result_line,
)
from pcka.classification.run_folder import check_data, check_folder
from pcka.cli import exit_status
from pcka.errors import ConfigError
from pcka.run_lock import locked_folder

logger = logging.getLogger("classification")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = _parse(argv)
    stopped = "stopped; --resume continues this run"
    return exit_status("classification", lambda: start(args), stopped=stopped)


def start(args: argparse.Namespace) -> None:
    """Train or evaluate as the arguments say, in one process or as torchrun started them."""
    cfg = load_config(args.config_file, args.opts)
    cfg = replace(cfg, device=args.device or cfg.device)
    with join_processes(cfg.device) as process:
        _set_up_logging(process)
        if args.eval_only:
            evaluate_student(cfg, process)
        else:
            train(cfg, process, resume=args.resume)


def train(cfg: Config, process: Process, *, resume: bool = False) -> dict[str, Any]:
    """Carry out one run from its checks to its summary; a finished one is taken as it is.

    Raises:
        ConfigError: what the config names cannot be had; before any training.
        FloatingPointError: a loss or a prediction that is not finite.
    """
    folder = check_folder(cfg, resume=resume)
    process.wait()  # the first one will write to the folder, and all have to find it as it was
    # The first process writes for all of them.
    with locked_folder(folder) if process.is_main else nullcontext():
        if process.is_main:
            check_folder(cfg, resume=resume)  # another run may have begun and ended meanwhile
        return _train_in(folder, cfg, process, resume=resume)


def _train_in(folder: Path, cfg: Config, process: Process, *, resume: bool) -> dict[str, Any]:
    summary = read_summary(folder)
    if summary is not None:
        logger.info("%s is finished: %s", folder, result_line(summary))
        return summary
    data = build_run_data(cfg, process)
    if resume:
        check_data(folder, data.record)
    distiller = build_distiller(cfg, data, process)
    _check_last_batch(cfg, distiller, data, process)
    if distiller.teacher is not None:
        begins = not (resume and (folder / CHECKPOINT).is_file())
        accuracy = check_teacher(cfg, distiller.teacher, data, process) if begins else None
        prepare_teacher(cfg, distiller.teacher, data, process, accuracy)
        if begins and process.world_size == 1:
            warn_of_loud_terms(cfg, distiller, data, process)
    engine = Engine(cfg, data, distiller, process, folder, _hooks(cfg))
    if resume:
        engine.load_checkpoint()
    if process.is_main:
        describe_run(cfg, folder, process.device, data.record)
    logger.info(
        "%s: %d classes, %d training images, %d evaluated, %d steps%s",
        folder,
        len(data.classes),
        data.train.samples,
        data.val.samples,
        engine.steps,
        f", from step {engine.step}" if engine.step else "",
    )
    summary = engine.train()
    logger.info("%s: %s", folder, result_line(summary))
    return summary


def evaluate_student(cfg: Config, process: Process) -> Accuracy:
    """Measure ``student.weights``, or else the student of the run in ``output_dir``."""
    weights = cfg.student.weights or str(Path(cfg.output_dir) / STUDENT)
    if not Path(weights).expanduser().is_file():
        raise ConfigError(f"no weights to evaluate at {weights}: set student.weights")
    data = build_evaluation_data(
        cfg.data,
        batch_size=cfg.train.batch_size,
        device=process.device,
        rank=process.rank,
        world_size=process.world_size,
    )
    student = build_network("student", cfg.student.name, weights, data)
    accuracy = evaluate(student.to(process.device), data.val, process)
    logger.info("%s: %s", cfg.student.name, accuracy)
    return accuracy


def _check_last_batch(cfg: Config, distiller: Distiller, data: Data, process: Process) -> None:
    """The smallest batch of an epoch has to be large enough for the student and the terms."""
    size, samples, world_size = cfg.train.batch_size, data.train.samples, process.world_size
    share = share_of(train_spans(samples, size, world_size)[-1], process.rank, world_size)
    last = share.stop - share.start
    try:
        distiller.check_batch(last, data.image_size)
    except ValueError as error:
        raise ConfigError(
            f"train.batch_size {size} leaves the last batch of an epoch of {samples} images with "
            f"{last} for each process, which is too few: {error}. Take another train.batch_size"
        ) from error


def _hooks(cfg: Config) -> list[Callable[..., None]]:
    """Return the hooks that the config asks for: pictures during training.

    They are imported on request: training needs neither matplotlib nor the experiments.
    """
    if not cfg.train.picture_every:
        return []
    try:
        from pcka.experiments.classification.picture_hook import PictureHook
    except ImportError as error:
        raise ConfigError(
            f"train.picture_every {cfg.train.picture_every} draws by pcka.experiments, which "
            f"cannot be imported ({error}): set it to 0"
        ) from error
    return [PictureHook(cfg.train.picture_every)]


def _set_up_logging(process: Process) -> None:
    logging.basicConfig(
        level=logging.INFO if process.is_main else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m classification.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", action="append", required=True, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--eval-only", action="store_true", help="evaluate the student alone")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
