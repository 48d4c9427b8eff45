"""Takes in audits: counts each once and deals it to one use."""

from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.cache_training.certifying.audit_rates import StreamPace
from layercache.cache_training.certifying.dealing import (
    SHARES,
    AuditUse,
    Counted,
    blocks,
    common_rate,
    counted,
    deal,
    tunes_afterwards,
)
from layercache.cache_training.certifying.scenes import SceneWatch
from layercache.cache_training.certifying.seen_numbers import SeenNumbers
from layercache.cache_training.certifying.windows import Windows
from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames, content_hashes
from layercache.early_exit.blocks import counted_rate
from layercache.early_exit.policy import audit_draws, position_hashes
from layercache.schemas.distillation import DistillationBatch

_IDENTITY_SALT = b"layercache-identity-1"


@dataclass(frozen=True)
class DealtRecord:
    """What became of a record's N frames."""

    audit: npt.NDArray[np.bool_]
    """``[N]``: audits, counted now for the first time."""
    labels: npt.NDArray[np.int64]
    """``[N]``: the full model's labels."""


class AuditIntake:
    """Takes in distillation records: each frame once, for one use.

    A picture has one use, too, however often it comes: by what was learnt from it, copies would certify heads that know
    it by heart. Frames without a key are dealt by their picture. With keys, and because misses and lessons teach
    whatever comes, a picture can still come for one use after it has had another; then

    - a frame that heads would learn from, or be tuned on, is left out while its picture waits to certify,
    - an audit that would certify, but whose picture heads may know, is :attr:`~Frames.repeated`, and so are all frames
      of its block. Repeated frames certify nothing by themselves; they are tested in addition to those that do, since
      they are part of the stream, and what has not been learnt meanwhile may be the easier part.
    """

    def __init__(self, windows: Windows, block_s: float, block_frames: int) -> None:
        self.windows = windows
        self.seen = SeenNumbers()
        #: Of these positions, those that came as audits.
        self.seen_audits = SeenNumbers()
        #: Pictures that heads have learnt or were tuned on, or may yet; they have certified before, or never will.
        self.known = SeenNumbers()
        #: Blocks that have certified. A block may outlast an attempt; its later frames are near-copies of used ones.
        self.used_blocks = SeenNumbers()
        #: Names this memory of used frames for as long as it lasts, restarts included. An attempt spends no error but
        #: what attempts of the same memory passed on: others may have looked at frames that this one takes for new.
        self.lineage = _new_lineage()
        self.audits = 0
        self.repeated = 0
        #: Audits of pictures that had come before.
        self.repeated_pictures = 0
        #: Whether neighbouring blocks of a key show one scene: then they are not independent.
        self.scenes = SceneWatch(block_s)
        #: Whether any frame had a key: that is up to publishers, not to chance. Without keys each frame counts singly.
        self.keys_seen = False
        self._block_s, self._block_frames = block_s, block_frames

    def take(self, batch: DistillationBatch) -> DealtRecord:
        """Deals a record's frames, audits and misses."""
        frames, fresh = self._met(batch)
        windows, block, keyed = self.windows, frames.block, batch.key_hash != 0
        windows.bound(frames)
        audit = batch.audit.astype(np.bool_)
        miss = ~audit & fresh & _learnable(batch, block)
        # Also one that came as a miss before, since the worker that answered it died: leaving it out would select
        # by pictures. What heads may have learnt of it is known.
        audit[audit] = self.seen_audits.new(frames.position[audit])
        self.scenes.add(batch.key_hash[audit], batch.timestamp_ms[audit], batch.logits[audit])
        use = deal(block)
        known = self.known.known(frames.content)
        # Of a key that sends many frames only a fair choice is kept, though not for another use.
        counts = ~keyed | (frames.draw < counted_rate(self._block_frames))
        self.audits += int(audit.sum())
        self.repeated_pictures += int(
            (audit & (known | np.isin(frames.content, windows.certification.column("content")))).sum()
        )
        certifies = audit & (use == AuditUse.CERTIFICATION) & ~self.used_blocks.known(block)
        self._certify(frames, certifies, known, counts)
        self._keep(windows.tuning, frames, audit & (use == AuditUse.TUNING) & ~known, keyed)
        self._keep(windows.learning, frames, audit & (use == AuditUse.LEARNING), keyed)
        self._keep(windows.misses, frames, miss, keyed)
        return DealtRecord(audit, frames.labels)

    def take_lessons(self, batch: DistillationBatch) -> None:
        """Keeps a record's lessons to learn from. They are no audits and no misses, and have no other use."""
        lessons, fresh = self._met(batch)
        self.windows.make_room_for_lessons(lessons)
        self._keep(self.windows.lessons, lessons, fresh & _learnable(batch, lessons.block), batch.key_hash != 0)

    def _met(self, batch: DistillationBatch) -> tuple[Frames, npt.NDArray[np.bool_]]:
        """A record's N frames, and which have not been seen before, bool ``[N]``; then remembers them all."""
        position = position_hashes(batch.header.origin, batch.partition, batch.offset, _IDENTITY_SALT)
        fresh = self.seen.new(position)
        self.repeated += int((~fresh).sum())
        content = content_hashes(batch.inputs)
        block = blocks(batch, content, self._block_s)
        nothing = np.zeros(len(batch), np.bool_)
        draw = audit_draws(batch.header.topic, batch.partition, batch.offset)
        rate = np.full(len(batch), batch.header.audit_rate, np.float32)
        self.keys_seen |= bool(batch.key_hash.any())
        return (
            Frames(batch.inputs, batch.logits, block, position, content, batch.timestamp_ms, nothing, draw, rate),
            fresh,
        )

    def _certify(
        self,
        frames: Frames,
        rows: npt.NDArray[np.bool_],
        known: npt.NDArray[np.bool_],
        counts: npt.NDArray[np.bool_],
    ) -> None:
        """Lets the frames of ``rows`` that count wait to certify, each picture once.

        Where the picture of any frame of ``rows`` is known, its block is repeated, whether that frame counts or not.
        """
        window = self.windows.certification
        window.mark_repeated(frames.block[rows & known])
        spoilt = np.concatenate((frames.block[rows & known], window.column("block")[window.column("repeated")]))
        frames = frames.rows(rows & counts)
        first = np.zeros(len(frames), np.bool_)
        first[np.unique(frames.content, return_index=True)[1]] = True
        frames = replace(frames, repeated=np.isin(frames.block, spoilt))
        window.add(frames.rows(first & ~np.isin(frames.content, window.column("content"))))

    def _keep(
        self, window: FrameBuffer, frames: Frames, rows: npt.NDArray[np.bool_], keyed: npt.NDArray[np.bool_]
    ) -> None:
        """Keeps the frames of ``rows`` to learn from, or to tune on: their pictures are known from then on."""
        waits = rows & np.isin(frames.content, self.windows.certification.column("content"))
        # Heads will know near-copies of it, of its key's block, though it is left out itself.
        self.windows.mark_known(frames.content[waits & keyed])
        kept = frames.rows(rows & ~waits)
        self.known.new(kept.content)
        window.add(kept)

    def audit_rate(self) -> float:
        """The rate at which nearly all frames were audited of which audits wait to certify; at higher ones some."""
        return common_rate(self.windows.certification.column("rate"))

    def counted(self, frames: Frames, audit_rate: float) -> Counted:
        """Which of some frames that wait to certify, or did until now, enter a test: of those audited at this rate."""
        return counted(frames.block, frames.draw, audit_rate, self.block_frames or 1)

    def independent(self, audit_rate: float | None = None) -> int:
        """To how many frames that count singly those are worth that wait to certify, of pictures that are new to heads.

        At best: if each block is as wrong throughout as it is at all. By default at :meth:`audit_rate`.
        """
        window = self.windows.certification
        new = ~window.column("repeated")
        block, draw, rate = (window.column(name)[new] for name in ("block", "draw", "rate"))
        return counted(block, draw, audit_rate or common_rate(rate), self.block_frames or 1).worth

    def block_sizes(self) -> npt.NDArray[np.float64]:
        """About how many frames each block has that waits to certify, by its audits and their rate: ``[blocks]``."""
        window = self.windows.certification
        counts = np.unique(window.column("block"), return_counts=True)[1]
        sizes: npt.NDArray[np.float64] = counts / self._kept_rate(self.audit_rate())
        return sizes

    def pace(self) -> StreamPace:
        """What the audits that wait to certify tell of the stream, but for their answers."""
        span_s = self.windows.span_s()
        frames = len(self.windows.certification) / SHARES[AuditUse.CERTIFICATION] / self._kept_rate(self.audit_rate())
        return StreamPace(self.block_frames, self.block_sizes(), frames / span_s if span_s else 0.0)

    def _kept_rate(self, audit_rate: float) -> float:
        """The share of a key's frames that waits to certify, where so many are audited."""
        return min(audit_rate, counted_rate(self._block_frames))

    @property
    def block_frames(self) -> int | None:
        """How many frames of a key's block of time count at most; None while no frame has had a key."""
        return self._block_frames if self.keys_seen else None

    def use_up(self) -> Frames:
        """All frames that wait to certify. Neither they nor their blocks certify again: half tune, half teach.

        Raises :class:`LeakError` where heads have learnt from one of them that is not :attr:`~Frames.repeated`, or were
        tuned on it: it must not certify.
        """
        self.windows.mark_kept_pictures()
        frames = self.windows.certification.frames()
        if frames is None:
            raise ValueError("no frame waits to certify")
        self.windows.check_apart()
        self.windows.certification.clear()
        self.used_blocks.new(np.unique(frames.block))
        self.known.new(frames.content)
        freed = replace(frames, repeated=np.zeros(len(frames), np.bool_))
        tunes = tunes_afterwards(frames.block) & ~frames.repeated
        self.windows.tuning.add(freed.rows(tunes))
        self.windows.learning.add(freed.rows(~tunes))
        return frames

    def begin_lineage(self) -> None:
        """From now on this memory has another name: it lacks frames that the one of before had used."""
        self.lineage = _new_lineage()

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        tensors = {
            "seen": torch.from_numpy(self.seen.array().view(np.int64)),
            "seen_audits": torch.from_numpy(self.seen_audits.array().view(np.int64)),
            "known": torch.from_numpy(self.known.array().view(np.int64)),
            "used_blocks": torch.from_numpy(self.used_blocks.array().view(np.int64)),
            "keys_seen": torch.tensor([self.keys_seen]),
            "lineage": torch.tensor(list(bytes.fromhex(self.lineage)), dtype=torch.uint8),
        }
        for name, window in self.windows.all().items():
            frames = window.frames()
            if frames is not None:
                tensors |= frames.tensors(f"window.{name}")
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What :meth:`tensors` gave."""
        self.seen.restore(tensors["seen"].numpy().view(np.uint64))
        # An earlier trainer's checkpoint does not tell audits from others: what it has seen does not count again.
        self.seen_audits.restore(tensors.get("seen_audits", tensors["seen"]).numpy().view(np.uint64))
        self.used_blocks.restore(tensors["used_blocks"].numpy().view(np.uint64))
        self.keys_seen = bool(tensors.get("keys_seen", torch.tensor([False]))[0])
        if "lineage" in tensors:  # an earlier trainer's checkpoint has none
            self.lineage = bytes(tensors["lineage"].tolist()).hex()
        for name, window in self.windows.all().items():
            if f"window.{name}.inputs" in tensors:
                frames = Frames.from_tensors(f"window.{name}", tensors)
                if window is self.windows.lessons:
                    self.windows.make_room_for_lessons(frames)
                else:
                    self.windows.bound(frames)
                window.add(frames)
        if "known" in tensors:
            self.known.restore(tensors["known"].numpy().view(np.uint64))
        else:  # an earlier trainer dealt frames without a key by position: a picture may have had several uses
            for window in self.windows.all().values():
                if window is not self.windows.certification:
                    self.known.new(window.column("content"))
            waiting = self.windows.certification.column("content")
            self.windows.mark_known(waiting[self.known.known(waiting)])


def _new_lineage() -> str:
    return uuid4().hex[:16]


def _learnable(batch: DistillationBatch, block: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """bool ``[N]``: from which frames heads may learn that are no audits.

    One that shares its block with audits has their use: heads must not learn near-copies of what certifies.
    """
    learnable: npt.NDArray[np.bool_] = (batch.key_hash == 0) | (deal(block) == AuditUse.LEARNING)
    return learnable
