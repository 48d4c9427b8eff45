"""The live version's disagreements by class and by key: 1 % overall may all fall into one class, or one camera."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: At most this many keys are counted; beyond that, keys with the fewest disagreements and audits are dropped.
_MOST_KEYS = 10_000
_KEYS = "tally.keys"
_CLASSES = "tally.classes"


@dataclass(frozen=True)
class DisagreementCount:
    """Audits of one class or key, and on how many of them the exits disagree with the full model."""

    name: int
    """The class's label, or the key's hash (:func:`layercache.schemas.distillation.key_hash`)."""
    audits: int
    disagreements: int

    @property
    def share(self) -> float:
        """Disagreements as a share of the audits."""
        return self.disagreements / max(1, self.audits)


class DisagreementTally:
    """Audits and disagreements of the live version by the full model's class and by key.

    >>> tally = DisagreementTally(classes=3)
    >>> tally.add(np.array([0, 0, 2]), np.array([7, 7, 0]), np.array([False, True, False]))
    >>> tally.worst_classes()
    [DisagreementCount(name=0, audits=2, disagreements=1)]
    >>> tally.worst_keys()
    [DisagreementCount(name=7, audits=2, disagreements=1)]
    """

    def __init__(self, classes: int) -> None:
        #: int64 ``[2, classes]``: audits, and disagreements among them.
        self.by_class = np.zeros((2, classes), np.int64)
        #: Key hash to audits and disagreements; frames without a key are not in it.
        self.by_key: dict[int, tuple[int, int]] = {}

    def add(self, labels: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], wrong: npt.NDArray[np.bool_]) -> None:
        """Counts N audits: the full model's labels, hashes of keys (0: none), and whether the exits disagreed."""
        classes = self.by_class.shape[1]
        self.by_class += (np.bincount(labels, minlength=classes), np.bincount(labels[wrong], minlength=classes))
        for key, disagreed in zip(keys.tolist(), wrong.tolist(), strict=True):
            if key:
                audits, disagreements = self.by_key.get(key, (0, 0))
                self.by_key[key] = audits + 1, disagreements + disagreed
        if len(self.by_key) > _MOST_KEYS:
            ranked = sorted(self.by_key.items(), key=lambda entry: (entry[1][1], entry[1][0]), reverse=True)
            self.by_key = dict(ranked[: _MOST_KEYS // 2])

    def worst_classes(self, n: int = 3) -> list[DisagreementCount]:
        """Up to n classes with disagreements, most first."""
        audits, disagreements = self.by_class
        worst = np.argsort(-disagreements, kind="stable")[:n].tolist()
        return [DisagreementCount(c, int(audits[c]), int(disagreements[c])) for c in worst if disagreements[c]]

    def worst_keys(self, n: int = 3) -> list[DisagreementCount]:
        """Up to n keys with disagreements, most first."""
        worst = sorted(self.by_key.items(), key=lambda entry: entry[1][1], reverse=True)[:n]
        return [
            DisagreementCount(key, audits, disagreements) for key, (audits, disagreements) in worst if disagreements
        ]

    def clear(self) -> None:
        """Starts anew, for another version."""
        self.by_class[:] = 0
        self.by_key.clear()

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        keys = np.array([(key, *counts) for key, counts in self.by_key.items()], np.int64).reshape(-1, 3)
        return {_CLASSES: torch.from_numpy(self.by_class.copy()), _KEYS: torch.from_numpy(keys)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What :meth:`tensors` gave."""
        self.by_class[:] = tensors[_CLASSES].numpy()
        self.by_key = {key: (audits, wrong) for key, audits, wrong in tensors[_KEYS].tolist()}
