"""detectron2's mapper, which names the image that it cannot read."""

from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.data import DatasetMapper

from pcka.errors import RunError


class DataError(RunError):
    """An image or annotation that was found to be damaged while a run was at work."""

    def __init__(self, message: str):
        # A worker process of the loader hands on the message with a traceback around it.
        last = message.strip().splitlines()[-1]
        super().__init__(last.removeprefix(f"{DataError.__module__}.DataError: "))


@contextmanager
def naming(file_name: str) -> Iterator[None]:
    """Turn an error of the context into a DataError that names the image."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no further words"
        raise DataError(
            f"cannot use the image {file_name}: {type(error).__name__}: {reason}"
        ) from error


class NamingMapper(DatasetMapper):
    """``DatasetMapper`` whose errors name the image."""

    def __call__(self, dataset_dict: dict) -> dict:
        with naming(str(dataset_dict.get("file_name"))):
            return super().__call__(dataset_dict)
