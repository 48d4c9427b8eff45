"""Layercache: cheaper image classification over Kafka, by early exits that learn while they serve."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemas.settings import Settings as Settings
    from schemas.settings import load as load_settings

_PUBLIC = {
    "Settings": ("schemas.settings", "Settings"),
    "load_settings": ("schemas.settings", "load"),
}

__all__ = ["Settings", "__version__", "load_settings"]


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: ``import layercache`` alone loads neither torch nor Kafka (PEP 562)."""
    if name == "__version__":
        try:
            return version("layercache")
        except PackageNotFoundError:
            return "unknown (not installed)"
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'layercache' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
