"""What ``demo-report/summary.json`` holds, and how it is computed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from layercache.measuring.columns import Bools, Columns, last_quarter
from layercache.measuring.tally import Answer
from layercache.schemas.manifest import Certificate, Exit, Manifest

_WORST_CLASSES = 10


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Shares over all frames of a part of the stream, audited ones included."""

    frames: int
    hit_rate: float
    """Frames that left at an exit."""
    flops_saved: float
    """FLOPs not spent, heads counted, of what the plain model would have spent; below 0 where more were spent, as by
    audits of a version that runs the model in int8 as well."""
    time_saved: float
    """The same for time, by what the trainer's machine took for each exit."""
    disagreement: float
    """Frames whose answer was not the full model's."""
    accuracy: float
    """Frames whose answer was what the picture shows."""
    full_accuracy: float
    """The same of the full model."""
    audited: float
    """Frames that ran the full path to watch the exits."""
    unaudited_disagreement: float | None
    """Disagreement among the frames that no audit kept from leaving early; None where all were audited."""
    exits: dict[str, float]
    """Frames by the exit that answered them, ``full`` included."""


class Quarter(Shares, frozen=True, kw_only=True):
    """The last quarter of the stream."""

    speedup: float
    """Frames per second with the final heads over frames per second of the model by PyTorch, every exit closed: the
    race's result, as the next."""
    speedup_plain: float
    """The same over frames per second of the best plain runtime."""
    plain_runtime: str
    """Its name."""
    plain_disagreement: float
    """Frames to which it gives another label than the model; no certificate bounds that."""


class Audits(msgspec.Struct, frozen=True, kw_only=True):
    """What the audits saw while exits were open."""

    frames: int
    disagreements: int


class OfClass(msgspec.Struct, frozen=True, kw_only=True):
    """The frames to which the full model gives one class."""

    name: str
    frames: int
    """In the last quarter, as the next."""
    disagreement: float
    audits: int
    """Of open exits in the whole stream, as the next: what worker and trainer could see."""
    audit_disagreements: int


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round of the race: the same frames with the heads, with every exit closed, and by the best plain runtime."""

    with_exits_fps: float
    closed_fps: float
    plain_fps: float
    ratio: float
    """Over every exit closed."""
    ratio_plain: float
    """Over the best plain runtime."""


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """The best plain runtime: the quickest way to run the whole model here, without exits and without a certificate."""

    name: str
    """``PyTorch``, or OpenVINO's with its precision."""
    disagreement: float
    """Frames of the race to which it gives another label than the model."""
    heats_fps: dict[str, float]
    """Frames per second by runtime, from which it was chosen; empty where PyTorch had no rival."""
    note: str
    """Why a runtime could not be tried; empty where all were."""


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's whole path (decode, engine, encode) in turns: with the final heads, with every exit closed, which is
    the model by PyTorch, and by the best plain runtime."""

    frames: int
    max_batch: int
    torch_threads: int
    heads_version: str | None
    audit_rate: float
    rounds: tuple[Round, ...]
    with_exits_fps: float
    """Median over the rounds, as the next four."""
    closed_fps: float
    plain_fps: float
    speedup: float
    speedup_plain: float
    plain: Plain


class OpenExit(msgspec.Struct, frozen=True, kw_only=True):
    """An exit of a version."""

    cut: str
    family: str
    threshold: float
    flops_share: float
    time_share: float


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of heads that was published during the stream."""

    version: str
    reason: str
    at_frame: int | None
    """The first frame that it answered; None where it was replaced before it answered one."""
    audit_rate: float
    exits: tuple[OpenExit, ...]
    certificate: Certificate | None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the demo ran."""

    cpus: int
    platform: str
    python: str
    torch: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's report; every share is over all frames, audited ones included."""

    frames: int
    seconds: float
    """From the first frame published to the last one answered."""
    frames_per_second: float
    first_version_frame: int | None
    """The first frame, from 0, that a version with open exits answered; None where there was none."""
    budget: float
    """The disagreement that was allowed (``max_disagreement``)."""
    confidence: float
    hit_rate: float
    flops_saved: float
    time_saved: float
    disagreement: float
    accuracy: float
    full_accuracy: float
    whole: Shares
    last_quarter: Quarter
    audits: Audits
    classes: tuple[OfClass, ...]
    """Those of the last quarter in which the answers differ most, worst first, ten at most."""
    versions: tuple[Version, ...]
    race: Race
    machine: Machine
    model: str
    seed: int

    def write(self, path: Path) -> None:
        """As indented JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def shares(columns: Columns, rows: slice, exits: Sequence[str]) -> Shares:
    """Shares of ``rows``; ``exits`` names every row of ``columns``."""
    answered = len(columns.labels[rows])
    free = ~columns.audited[rows]
    counts = Counter(exits[rows])
    return Shares(
        frames=answered,
        hit_rate=_share(columns.hits[rows]),
        flops_saved=float(1 - columns.flops_share[rows].mean()),
        time_saved=float(1 - columns.time_share[rows].mean()),
        disagreement=_share(columns.differs[rows]),
        accuracy=_share((columns.labels == columns.truth)[rows]),
        full_accuracy=_share((columns.full == columns.truth)[rows]),
        audited=_share(columns.audited[rows]),
        unaudited_disagreement=_share(columns.differs[rows][free]) if free.any() else None,
        exits={name: count / answered for name, count in counts.most_common()},
    )


def by_class(columns: Columns, rows: slice, classes: Sequence[str]) -> tuple[OfClass, ...]:
    """The classes of ``rows``, worst first; ``classes`` names the model's labels."""
    found = []
    for label in np.unique(columns.full[rows]).tolist():
        of_class = columns.full == label
        audited = of_class & columns.audit_drawn
        found.append(
            OfClass(
                name=classes[label],
                frames=int(of_class[rows].sum()),
                disagreement=_share(columns.differs[rows][of_class[rows]]),
                audits=int(audited.sum()),
                audit_disagreements=int((audited & columns.audit_disagrees).sum()),
            )
        )
    return tuple(sorted(found, key=lambda one: (-one.disagreement, one.name))[:_WORST_CLASSES])


def summarise(
    columns: Columns,
    answers: Sequence[Answer],
    manifests: Mapping[str, Manifest],
    race: Race,
    machine: Machine,
    *,
    budget: float,
    confidence: float,
    model: str,
    seed: int,
    classes: Sequence[str],
) -> Summary:
    """The report of a whole stream; ``answers`` are the rows of ``columns``, ``manifests`` every version published."""
    exits = [answer.exit for answer in answers]
    whole = shares(columns, slice(0, len(columns)), exits)
    quarter = shares(columns, last_quarter(len(columns)), exits)
    versions = tuple(_version(manifest, answers) for manifest in _by_age(manifests))
    seconds = (max(a.predicted_ms for a in answers) - min(a.frame_ms for a in answers)) / 1000
    return Summary(
        frames=len(columns),
        seconds=seconds,
        frames_per_second=len(columns) / seconds if seconds > 0 else 0.0,
        first_version_frame=min(
            (version.at_frame for version in versions if version.exits and version.at_frame is not None), default=None
        ),
        budget=budget,
        confidence=confidence,
        hit_rate=whole.hit_rate,
        flops_saved=whole.flops_saved,
        time_saved=whole.time_saved,
        disagreement=whole.disagreement,
        accuracy=whole.accuracy,
        full_accuracy=whole.full_accuracy,
        whole=whole,
        last_quarter=Quarter(
            **msgspec.structs.asdict(quarter),
            speedup=race.speedup,
            speedup_plain=race.speedup_plain,
            plain_runtime=race.plain.name,
            plain_disagreement=race.plain.disagreement,
        ),
        audits=Audits(
            frames=int(columns.audit_drawn.sum()),
            disagreements=int((columns.audit_drawn & columns.audit_disagrees).sum()),
        ),
        classes=by_class(columns, last_quarter(len(columns)), classes),
        versions=versions,
        race=race,
        machine=machine,
        model=model,
        seed=seed,
    )


def _by_age(manifests: Mapping[str, Manifest]) -> list[Manifest]:
    return sorted(manifests.values(), key=lambda manifest: (manifest.created, manifest.version))


def _version(manifest: Manifest, answers: Sequence[Answer]) -> Version:
    frames = (answer.frame for answer in answers if answer.version == manifest.version)
    return Version(
        version=manifest.version,
        reason=manifest.reason,
        at_frame=min(frames, default=None),
        audit_rate=manifest.audit_rate,
        exits=tuple(_open_exit(exit_) for exit_ in manifest.exits),
        certificate=manifest.certificate,
    )


def _open_exit(exit_: Exit) -> OpenExit:
    return OpenExit(
        cut=exit_.cut,
        family=exit_.family,
        threshold=exit_.threshold,
        flops_share=exit_.flops_share,
        time_share=exit_.time_share,
    )


def _share(rows: Bools) -> float:
    return float(np.mean(rows))
