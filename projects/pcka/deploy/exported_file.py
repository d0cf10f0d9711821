"""Files that run without this project: TorchScript and ONNX, written by tracing, and run."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from pcka import __version__
from pcka.errors import ConfigError, nearest

from .comparison import CutOff

FORMATS = {"onnx": ".onnx", "torchscript": ".ts"}
# The tracing exporter of torch, and operators that onnxruntime and converters know for long.
OPSET = 17
_NEEDED = {"onnx": ("onnx", "onnxruntime"), "torchscript": ()}


@dataclass(frozen=True)
class Traceable:
    """A network of one tensor that can be traced.

    Attributes:
        name: the name of the network, for messages.
        module: takes a tensor; returns a tensor, or a tuple of them.
        example: the tensor that is traced.
        outputs: a name for each output.
        dynamic: by input or output, the names of its axes that may have any size in an ONNX file.
        input: the name of the input.
        cut_off: where a detector drops detections.
    """

    name: str
    module: nn.Module
    example: Tensor
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]]
    input: str = "image"
    cut_off: CutOff | None = None


def check_format(name: str) -> None:
    """Raise ConfigError for an unknown format, or one whose packages are not installed."""
    if name not in FORMATS:
        close = nearest(name, FORMATS)
        hint = f", did you mean {close}?" if close else "."
        raise ConfigError(f"unknown --format {name!r}{hint} Known: {', '.join(FORMATS)}")
    absent = [package for package in _NEEDED[name] if util.find_spec(package) is None]
    if absent:
        raise ConfigError(
            f"--format {name} needs {' and '.join(absent)}: pip install '.[export]', or export to "
            "--format torchscript"
        )


def write_traced(traceable: Traceable, path: Path, file_format: str) -> None:
    """Trace a network, whose parameters become constants, and write it.

    Raises:
        ConfigError: a network that cannot be traced or has no such format; names it.
    """
    # Without gradients the results of a TorchScript file are plain tensors.
    module = traceable.module.eval().requires_grad_(False)
    try:
        with _plain_attention(), torch.no_grad(), warnings.catch_warnings():
            # The tracer warns wherever a size is read; the file is compared with the network.
            warnings.simplefilter("ignore")
            if file_format == "torchscript":
                traced = torch.jit.trace(module, (traceable.example,), check_trace=False)
                torch.jit.save(traced, str(path))
                return
            torch.onnx.export(
                module,
                (traceable.example,),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[traceable.input],
                output_names=list(traceable.outputs),
                dynamic_axes={key: dict(axes) for key, axes in traceable.dynamic.items()},
            )
    except (OSError, MemoryError):
        raise
    except Exception as error:  # tracing fails in as many ways as networks can be written
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{traceable.name} cannot be exported to {file_format}: {reason:.300}"
        ) from error


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute attention by plain operators: ONNX lacks the fused one of torch."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def as_function(module: nn.Module) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return a module as a function of its input that gives a tuple, without gradients."""

    @torch.no_grad()
    def run(x: Tensor) -> tuple[Tensor, ...]:
        found = module(x)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return run


def load_traced(path: Path, file_format: str) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Return an exported file as a function of its input, on the CPU."""
    if file_format == "torchscript":
        return as_function(torch.jit.load(str(path), map_location="cpu"))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings concern shapes that are known only when it runs
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: tuple(map(torch.from_numpy, session.run(None, {name: x.numpy()})))


def versions() -> dict[str, str]:
    """Return the versions of the packages that took part, as far as they are installed."""
    found = {
        "pcka": __version__,
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
    }
    # Distributions of detectron2 have several names.
    detectron2 = sys.modules.get("detectron2")
    if detectron2 is not None:
        found["detectron2"] = str(detectron2.__version__)
    for package in ("onnx", "onnxruntime"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
