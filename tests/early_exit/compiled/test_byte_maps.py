"""Values as bytes: the nearest of 256, and what lies outside takes the first or the last."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from layercache.early_exit.compiled.byte_maps import ByteRange

FLOATS = st.floats(-1e4, 1e4, width=32)


@given(arrays(np.float32, st.integers(1, 50), elements=FLOATS), FLOATS)
def test_the_nearest_byte_stands_for_a_value(values: np.ndarray, other: float) -> None:
    found = ByteRange.of(values)
    decoded = found.low + found.encode(values) * found.step
    assert np.abs(decoded - values).max() <= (0.5 + 1e-3) * found.step
    outside = found.encode(np.array([found.low - abs(other), found.high + abs(other)], np.float32))
    assert outside.tolist() == [0, 255]


def test_a_map_that_is_the_same_everywhere_has_a_range() -> None:
    assert ByteRange.of(np.zeros(3, np.float32)).encode(np.zeros(2, np.float32)).tolist() == [0, 0]
