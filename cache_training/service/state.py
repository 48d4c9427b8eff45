"""Checkpoints of the trainer on a local disk: whole or not there, whatever moment the power goes."""

import json
import logging
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)

_TENSORS, _FACTS = "state.safetensors", "state.json"


class Checkpoints:
    """The latest checkpoint of one model in ``folder``: ``checkpoint-<n>/``, which appears by one rename."""

    def __init__(self, folder: Path) -> None:
        """Raises ``OSError`` where the folder cannot be made or written to."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.tmp"):
            shutil.rmtree(leftover)
        self._number = max((number for number, _ in self._all()), default=0)

    def _all(self) -> list[tuple[int, Path]]:
        names = [(path.name.removeprefix("checkpoint-"), path) for path in self.folder.glob("checkpoint-*")]
        return sorted(((int(number), path) for number, path in names if number.isdigit()), reverse=True)

    def save(self, tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
        """Writes a checkpoint and removes the one before; on ``OSError`` (a full disk) the one before stays."""
        number = self._number + 1
        target = self.folder / f"checkpoint-{number}"
        temporary = self.folder / f"checkpoint-{number}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / _TENSORS)
            (temporary / _FACTS).write_text(json.dumps(facts))
            for path in (temporary / _TENSORS, temporary / _FACTS, temporary):
                _sync(path)
            temporary.rename(target)
        except SafetensorError as error:  # its wrapping of "no space left on device"
            raise OSError(f"cannot write {temporary}: {error}") from error
        _sync(self.folder)
        self._number = number
        for older, path in self._all():
            if older < number:
                shutil.rmtree(path, ignore_errors=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, object]] | None:
        """The latest readable checkpoint; damaged ones are named in the log and passed over."""
        for _, path in self._all():
            try:
                return load_file(path / _TENSORS), json.loads((path / _FACTS).read_text())
            except (OSError, SafetensorError, ValueError) as error:
                log.warning("checkpoint %s cannot be read (%s); trying the one before", path, error)
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
