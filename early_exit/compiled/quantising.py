"""The int8 graph of a model, by post-training quantisation on frames of the stream, without labels."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import rich

from layercache.early_exit.compiled.openvino_runtime import CompileError, nncf

#: More frames than this make no better ranges (NNCF's own default).
MOST_FRAMES = 300


def quantise(model: Any, frames: npt.NDArray[np.generic], is_transformer: bool = False) -> Any:
    """An ``openvino.Model`` like ``model`` with int8 weights and maps; ranges are those of ``frames``, ``[N, ...]``.

    The frames, of which up to 300 are used, must never certify what this returns. Takes seconds to minutes. Raises
    :class:`CompileError`.
    """
    tool = nncf()
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function also sets handlers that others have put there
    rows = [frames[index : index + 1] for index in range(min(len(frames), MOST_FRAMES))]
    try:
        with _without_progress_bars():
            return tool.quantize(
                model,
                tool.Dataset(rows),
                subset_size=len(rows),
                model_type=tool.ModelType.TRANSFORMER if is_transformer else None,
            )
    except Exception as error:
        raise CompileError(f"cannot be quantised: {error}") from error


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """NNCF draws bars on rich's global console."""
    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before
