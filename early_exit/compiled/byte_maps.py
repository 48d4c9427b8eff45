"""Maps that go from one piece of an int8 path to the next in 8 bits: a quarter of float32's memory traffic."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layercache.early_exit.compiled.openvino_runtime import openvino

_LEVELS = 256


@dataclass(frozen=True)
class ByteRange:
    """What the bytes from 0 to 255 stand for: values from ``low`` to ``high``, evenly."""

    low: float
    high: float

    @classmethod
    def of(cls, values: npt.NDArray[np.generic]) -> "ByteRange":
        """From the least of some float values to the largest."""
        low, high = float(values.min()), float(values.max())
        return cls(low, high if high > low else low + 1.0)

    @property
    def step(self) -> float:
        """From one byte's value to the next."""
        return (self.high - self.low) / (_LEVELS - 1)

    def encode(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        """The nearest bytes to float values; those outside take the first or the last one.

        >>> ByteRange(0.0, 51.0).encode(np.array([-1.0, 0.0, 0.19, 51.0, 60.0], np.float32)).tolist()
        [0, 0, 1, 255, 255]
        """
        places = np.rint((values.astype(np.float32) - self.low) / self.step)
        found: npt.NDArray[np.uint8] = np.clip(places, 0, _LEVELS - 1).astype(np.uint8)
        return found

    def give(self, model: Any) -> None:
        """Lets an ``openvino.Model`` give its first output in bytes: OpenVINO makes that one with what comes before."""
        ops = openvino().opset13
        low, high, first, last = (ops.constant(np.float32(one)) for one in (self.low, self.high, 0.0, _LEVELS - 1))
        result = model.get_results()[0]
        rounded = ops.fake_quantize(result.input_value(0), low, high, first, last, _LEVELS)
        result.input(0).replace_source_output(ops.convert(rounded, "u8").output(0))
        model.validate_nodes_and_infer_types()

    def take(self, model: Any) -> Any:
        """An ``openvino.Model`` like ``model``, which took float32, that takes bytes instead."""
        tool = openvino()
        steps = tool.preprocess.PrePostProcessor(model)
        steps.input().tensor().set_element_type(tool.Type.u8)
        values = steps.input().preprocess().convert_element_type(tool.Type.f32)
        values.mean(-self.low / self.step).scale(1 / self.step)
        return steps.build()
