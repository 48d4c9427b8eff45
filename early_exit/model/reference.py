"""The reference: the model as its owner gave it, and what runs it as a whole."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

#: Logits, float32 ``[N, classes]``, of pictures, uint8 ``[N, C, h, w]``.
AnswerPictures = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reference:
    """What answers audits, and whatever nothing cheaper is sure of."""

    runtime: Literal["torch", "openvino"]
    reason: str
    """Why this one, for people."""
    make_runner: Callable[[], AnswerPictures] | None = None
    """Makes what answers pictures, for one thread at a time; None where the model's own layers do, by PyTorch."""

    @property
    def described(self) -> str:
        """What runs the model, and why: for a line of the log."""
        name = "PyTorch" if self.runtime == "torch" else "OpenVINO"
        return f"the full model runs by {name}: {self.reason}"


#: Of a model that was not loaded to be served.
UNDECIDED = Reference("torch", "no other runtime was looked for")
