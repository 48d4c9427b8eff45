"""Columns are put together from their parts in order."""

from dataclasses import dataclass

import numpy as np
import pytest

from layercache.measuring.columns import Bools, Integers, joined


@dataclass(frozen=True)
class Seen:
    """Some frames."""

    labels: Integers
    sure: Bools


def test_parts_follow_one_another() -> None:
    parts = [Seen(np.array([1, 2]), np.array([True, False])), Seen(np.array([3]), np.array([True]))]
    found = joined(parts)
    assert isinstance(found, Seen)
    assert (found.labels.tolist(), found.sure.tolist()) == ([1, 2, 3], [True, False, True])


def test_of_no_parts_there_are_no_columns() -> None:
    with pytest.raises(ValueError, match="no frames to put together"):
        joined(list[Seen]())
