"""A record of the ``distillation`` topic: the full-path frames of one micro-batch, or its lessons, as safetensors.

=============  ========  ==================  =====================================================================
tensor         dtype     shape               meaning
=============  ========  ==================  =====================================================================
inputs         uint8     [N, C, H, W]        resized and cropped, before normalising
logits         float32   [N, classes]        the full model's; [N, 0] in a record of lessons
audit          uint8     [N]                 1 where the frame was drawn as an audit, 0 for a miss or a lesson
live_exit      int32     [N]                 audits: index of the exit that would have answered; -1: none would
live_label     int32     [N]                 audits: the exits' answer; the full model's label if no exit would answer
partition      int32     [N]                 of the frame
offset         int64     [N]                 of the frame
timestamp_ms   int64     [N]                 of the frame's record
key_hash       int64     [N]                 hash of the frame's key; 0 where it had none
overload_label int32     [N]                 audits: ``live_label`` under the thresholds for overload; only where the
                                             heads have such. A worker sends both, whichever it answers by.
=============  ========  ==================  =====================================================================

*Lessons* are frames that no head was sure of and that the model's own compiled end answered. They are there to learn
from and for nothing else, and the trainer asks the full model for their answers. A record holds lessons alone, or none:
lessons have no logits, no ``exits`` and no audits. A reader that knows of none finds another number of classes than its
model has, and leaves the record out, as it leaves out another model's.

Metadata (safetensors holds text only): ``header``, the JSON of :class:`DistillationHeader`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from hashlib import blake2b

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

Array = npt.NDArray[np.generic]


class DistillationError(ValueError):
    """A record that is not a valid distillation record; the message says why."""


class DistillationHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The values that hold for a whole record."""

    format: int = 1
    model: str
    """Fingerprint of the model that answered, or, of lessons, that the worker serves."""
    topic: str
    """The topic that the frames came from."""
    topic_id: str = ""
    """The topic's id (KIP-516), which changes when it is deleted and created again; empty if unknown to the worker."""
    worker: str
    heads_version: str | None
    audit_rate: float
    miss_share: float = 1.0
    """Share of the misses that are sent: below 1 while the trainer or a broker cannot keep up. All audits are sent.
    Of lessons: the share of such frames that is sent."""
    frame_ids: tuple[str, ...]
    exits: tuple[str, ...] = ()
    """The cuts of the live exits, in the order that ``live_exit`` counts."""
    segment_ms: Mapping[str, Mapping[int, float]] = {}
    """The worker's own times: segment or head name, to batch size, to milliseconds per micro-batch."""

    @property
    def origin(self) -> str:
        """The topic that positions refer to, unique also among topics of the same name.

        >>> header = DistillationHeader(
        ...     model="m", topic="frames", worker="w", heads_version=None, audit_rate=1.0, frame_ids=()
        ... )
        >>> header.origin, msgspec.structs.replace(header, topic_id="Qn3ZrYrQTIuKnk9Ax4ntsA").origin
        ('frames', 'frames/Qn3ZrYrQTIuKnk9Ax4ntsA')
        """
        return f"{self.topic}/{self.topic_id}" if self.topic_id else self.topic


@dataclass(frozen=True)
class DistillationBatch:
    """One record, decoded; the arrays are those of the module's table."""

    header: DistillationHeader
    inputs: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    audit: npt.NDArray[np.uint8]
    live_exit: npt.NDArray[np.int32]
    live_label: npt.NDArray[np.int32]
    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    timestamp_ms: npt.NDArray[np.int64]
    key_hash: npt.NDArray[np.int64]
    overload_label: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def of_lessons(self) -> bool:
        """True where the frames are lessons: without the full model's answers, to learn from and for nothing else."""
        return bool(self.logits.shape[1] == 0)

    def rows(self, start: int, stop: int) -> "DistillationBatch":
        """A record of the frames from ``start`` to before ``stop``."""
        arrays = {name: array[start:stop] for name, array in self._arrays().items()}
        header = msgspec.structs.replace(self.header, frame_ids=self.header.frame_ids[start:stop])
        return replace(self, header=header, **arrays)  # type: ignore[arg-type]  # as they were

    def encode(self) -> bytes:
        """As safetensors."""
        arrays = {name: np.ascontiguousarray(array) for name, array in self._arrays().items()}
        return save(arrays, {"header": msgspec.json.encode(self.header).decode()})

    def _arrays(self) -> dict[str, Array]:
        """The arrays that are present, by name."""
        arrays = ((name, getattr(self, name)) for name in _LAYOUT)
        return {name: array for name, array in arrays if array is not None}

    def encode_within(self, max_bytes: int) -> Iterator[bytes]:
        """Encodes records of at most ``max_bytes`` each, halving as often as needed; a single frame is never split.

        A single frame over the limit is left out: one picture that no record holds must not stop the stream.
        """
        record = self.encode()
        if len(record) <= max_bytes:
            yield record
        elif len(self) > 1:
            middle = len(self) // 2
            yield from self.rows(0, middle).encode_within(max_bytes)
            yield from self.rows(middle, len(self)).encode_within(max_bytes)


#: dtype and number of dimensions of every tensor
_LAYOUT: dict[str, tuple[type[np.generic], int]] = {
    "inputs": (np.uint8, 4),
    "logits": (np.float32, 2),
    "audit": (np.uint8, 1),
    "live_exit": (np.int32, 1),
    "live_label": (np.int32, 1),
    "partition": (np.int32, 1),
    "offset": (np.int64, 1),
    "timestamp_ms": (np.int64, 1),
    "key_hash": (np.int64, 1),
    "overload_label": (np.int32, 1),
}
#: Tensors that a record may lack.
_OPTIONAL = {"overload_label"}
_CODES: dict[str, type[np.generic]] = {"U8": np.uint8, "F32": np.float32, "I32": np.int32, "I64": np.int64}

assert set(_LAYOUT) == {field.name for field in fields(DistillationBatch)} - {"header"}


def decode(record: bytes) -> DistillationBatch:
    """Reads a record.

    Raises :class:`DistillationError` if it is truncated or lacks a tensor, if its shapes do not fit each other, if an
    audit names an exit or a class that does not exist, or if a logit is not finite.
    """
    try:
        tensors = dict(deserialize(record))
        length = int.from_bytes(record[:8], "little")
        text = msgspec.json.decode(record[8 : 8 + length])["__metadata__"]["header"]
        header = msgspec.json.decode(text, type=DistillationHeader)
    except (SafetensorError, msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise DistillationError(f"not a distillation record: {error}") from error
    if header.format != 1:
        raise DistillationError(f"distillation record of format {header.format}, this version reads format 1")
    arrays: dict[str, Array] = {}
    for name, (dtype, dimensions) in _LAYOUT.items():
        if name not in tensors and name in _OPTIONAL:
            continue
        if name not in tensors:
            raise DistillationError(f"distillation record without the tensor {name!r}")
        view = tensors[name]
        if _CODES.get(view["dtype"]) is not dtype or len(view["shape"]) != dimensions:
            raise DistillationError(f"tensor {name!r} is {view['dtype']} {view['shape']}")
        arrays[name] = np.frombuffer(view["data"], dtype).reshape(view["shape"])
    lengths = {name: len(array) for name, array in arrays.items()} | {"frame_ids": len(header.frame_ids)}
    if len(set(lengths.values())) != 1:
        raise DistillationError(f"tensors of different lengths: {lengths}")
    batch = DistillationBatch(header=header, **arrays)  # type: ignore[arg-type]  # dtypes were checked above
    if not np.isfinite(batch.logits).all():
        raise DistillationError("tensor 'logits' is not finite: heads that learnt it would be lost")
    _check_indices(batch)
    return batch


def _check_indices(batch: DistillationBatch) -> None:
    """Readers look things up by these: one that points nowhere must not stop them on some later record."""
    audits = batch.audit == 1
    bounds = {
        "audit": (batch.audit, 0, 1),
        "live_exit": (batch.live_exit[audits], -1, len(batch.header.exits) - 1),
        "live_label": (batch.live_label[audits], 0, batch.logits.shape[1] - 1),
    }
    if batch.overload_label is not None:
        bounds["overload_label"] = (batch.overload_label[audits], 0, batch.logits.shape[1] - 1)
    for name, (values, lowest, highest) in bounds.items():
        wrong = values[(values < lowest) | (values > highest)]
        if len(wrong):
            raise DistillationError(f"tensor {name!r} holds {wrong[0]}, outside {lowest} to {highest}")


def key_hash(key: bytes | None) -> int:
    """The hash under which a frame's key travels: int64, 0 only for a frame without a key."""
    if key is None:
        return 0
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little", signed=True) or 1
