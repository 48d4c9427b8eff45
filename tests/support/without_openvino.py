"""A process in which OpenVINO is not installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from layercache.early_exit.compiled import graphs, openvino_runtime

_REMEMBERED = (openvino_runtime.openvino, openvino_runtime.missing, graphs._core)


@contextmanager
def without_openvino() -> Iterator[None]:
    """Importing it fails, and nothing remembers that it did not."""
    with mock.patch.dict(sys.modules, {"openvino": None}):
        _forget()
        yield
    _forget()


def _forget() -> None:
    for function in _REMEMBERED:
        function.cache_clear()
