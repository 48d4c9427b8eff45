"""Finished phases on disk, so that a run which is cut off goes on where it was."""

import hashlib
from pathlib import Path

import msgspec

from tests.faults.harness.plan import Phase
from tests.faults.harness.verdict import Outcome

_ROOT = Path(__file__).parents[3]
#: A phase counts for the code that it ran on, and for no other: the product's rooms, and the harness.
_CODE = (
    "layercache",
    "schemas",
    "early_exit",
    "stream",
    "cache_training",
    "testbed",
    "tests/faults/harness",
    "tests/support",
)


class _Kept(msgspec.Struct):
    code: str
    outcome: Outcome


class Keeper:
    """A folder with a file for each phase that is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._code = code_hash()

    def forget(self) -> None:
        """Begins anew."""
        for file in self._folder.glob("*.json"):
            file.unlink()

    def keep(self, outcome: Outcome) -> None:
        """Remembers the phase."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._file(outcome.phase)
        new = file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(_Kept(self._code, outcome)))
        new.replace(file)

    def find(self, phase: Phase) -> Outcome | None:
        """That phase as it ended, if it ran just so on the code as it is now."""
        file = self._file(phase)
        if not file.exists():
            return None
        kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
        return kept.outcome if kept.code == self._code and kept.outcome.phase == phase else None

    def _file(self, phase: Phase) -> Path:
        return self._folder / f"{phase.file_name}.json"


def code_hash(root: Path = _ROOT) -> str:
    """Of everything that a run's outcome depends on; documents do not count."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for file in sorted(path for path in (root / folder).rglob("*") if path.suffix in (".py", ".c")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
