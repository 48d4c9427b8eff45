"""Where OpenVINO and NNCF come from. Both are an extra, ``fast``; their telemetry is off."""

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any

#: How to get them.
INSTALL = "pip install 'layercache[fast]'"


class CompileError(RuntimeError):
    """A model, or a piece of one, cannot be compiled here; the message says why and what to do."""


@cache
def openvino() -> Any:
    """The package ``openvino``. Raises :class:`CompileError` where it is not installed, or does not load."""
    return _imported("openvino")


@cache
def nncf() -> Any:
    """The package ``nncf``, which only trainers need. Raises :class:`CompileError`."""
    openvino()
    return _imported("nncf")


@cache
def missing() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    try:
        openvino()
    except CompileError as error:
        return str(error)
    return None


def first_line(error: Exception) -> str:
    """What OpenVINO or torch says of an error, without where in their sources it was found.

    >>> first_line(RuntimeError("Exception from src/core/model.cpp:104:\\nno such input"))
    'no such input'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Exception from ")), type(error).__name__)[:300]


def _imported(name: str) -> ModuleType:
    # Both packages send telemetry by `openvino_telemetry` unless that cannot be imported; None stands for "not there".
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CompileError(f"{name} is not installed ({error}): {INSTALL}") from error
    except Exception as error:  # a native library that does not load says so in many ways
        raise CompileError(f"{name} does not load here: {error}") from error
