"""Loads weights from files."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from layercache.early_exit.model.metadata import Metadata
from layercache.schemas import settings as settings_schema

#: Prefixes of parameters that only training uses; a file may lack them.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_COUNTERS = "num_batches_tracked"


class ModelError(ValueError):
    """The model cannot be built as the settings say; the message says what is wrong and what to do."""


def weights_file(settings: settings_schema.Model, known: Metadata, entries: tuple[str, ...]) -> Path | None:
    """The weights file that the settings name, else the metadata's; ``entries`` are other names that settings may hold.

    None where neither names a file. Raises :class:`ModelError` for a file that is not there.
    """
    if settings.weights is None:
        if known.weights is not None and not known.weights.is_file():
            raise ModelError(f"no weights at {known.weights}, which the metadata file names")
        return known.weights
    path = Path(settings.weights)
    if not path.is_file():
        names = f", nor one of {', '.join((*entries, 'DEFAULT'))}" if entries else ""
        raise ModelError(f"weights {settings.weights!r} of {settings.spec} are no file{names}")
    return path


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads a .safetensors or .pt state dict into ``module``, cast to the parameters' dtypes.

    The state dict may lie under ``state_dict`` or ``model`` in a checkpoint, and every name may start with ``module.``,
    as data-parallel training writes it. Parameters that only training uses (auxiliary classifiers, the counters of
    batch norms) may be missing. Raises :class:`ModelError`.

    >>> from examples.fashion_mnist import build
    >>> module = build()
    >>> load_weights(module, Path("examples/fashion_mnist.safetensors"))
    """
    try:
        state: Any = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torn files fail in many ways
        raise ModelError(f"cannot read the weights {path}: {error}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no state dict: expected names and tensors; save model.state_dict()")
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    own = module.state_dict()
    needed = [name for name in own if not name.startswith(_AUXILIARY) and not name.endswith(_COUNTERS)]
    missing = [name for name in needed if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or shapes:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        problems = "; ".join(f"{what}: {_first(names)}" for what, names in found.items() if names)
        raise ModelError(
            f"the weights {path} do not fit the model: {problems}. Are they another model's, or is the number of "
            "classes another (list `classes` in the metadata TOML)?"
        )
    module.load_state_dict(dict(state), strict=False)


def _first(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def has_weights(model: settings_schema.Model) -> bool:
    """Whether the model has trained weights: a file's model may, torchvision's and timm's only if weights are named.

    >>> from layercache.schemas.settings import Model
    >>> has_weights(Model(spec="torchvision:resnet18")), has_weights(Model(spec="mine.py:build"))
    (False, True)
    """
    if model.weights or not model.spec.startswith(("torchvision:", "timm:")):
        return True
    return model.metadata is not None and "weights" in tomllib.loads(model.metadata.read_text("utf-8"))
