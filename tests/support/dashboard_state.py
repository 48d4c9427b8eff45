"""A dashboard's state with everything in it, the same for the same seed."""

import io

import numpy as np
import PIL.Image

from layercache.dashboard import heads_state, state
from layercache.schemas.manifest import Certificate, ClassResult
from layercache.stream.kafka.offsets import PartitionLag
from tests.support.pictures import COLOURS, coloured

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
EXITS = ("layer1", "layer2", "layer3")
_SHARES = (0.2, 0.27, 0.27, 0.29)
START_MS = 1_767_225_600_000
_SECOND = 1_000


def sample(seed: int = 0, at_ms: int = START_MS + 900 * _SECOND) -> state.Snapshot:
    """A stream that has gone well for a quarter of an hour, with one of every trouble in it."""
    rng = np.random.default_rng(seed)
    return state.Snapshot(
        at_ms=at_ms,
        model="eb575f920e07" + "ab" * 26,
        model_name="fashion-mnist",
        brokers="localhost:9092",
        frames_topic="frames",
        now=state.Now(
            frames=3_290, frames_per_s=54.8, hit_rate=0.741, flops_saved=0.482, time_saved=0.396,
            latency_p50_ms=112.0, latency_p99_ms=318.0,
        ),
        frames=tuple(frame(rng, index, at_ms) for index in range(24)),
        flow=_flow(),
        recent=_series(rng, 5.0, 180, at_ms),
        day=_series(rng, 300.0, 288, at_ms),
        disagreement=state.Disagreement(
            budget=0.01, confidence=0.95, audits=1_204, disagreements=5, tested=1_180, tested_disagreements=5,
            upper_bound=0.00889, certificate=_certificate(0.01, 0.0081), source="topic",
        ),
        overload=state.Disagreement(
            budget=0.03, confidence=0.95, audits=1_204, disagreements=19, tested=1_180, tested_disagreements=19,
            upper_bound=0.0236, certificate=_certificate(0.03, 0.0264), source="topic",
        ),
        classes=tuple(
            state.ClassDisagreement(
                name=CLASSES[index],
                audits=110 + 7 * index,
                disagreements=count,
                upper_bound=0.03 + count / 80,
            )
            for index, count in ((6, 3), (0, 1), (4, 1), (2, 0), (3, 0), (1, 0))
        ),
        heads=_heads(at_ms),
        alarms=(
            heads_state.Alarm(
                kind="exits-closed", where="worker-2:9100", at_ms=at_ms - 20 * _SECOND, active=True,
                message="worker-2:9100 keeps its exits closed: its audits say that they exceed their budget",
            ),
            heads_state.Alarm(
                kind="unsafe", where="20260101T000500-0003", at_ms=at_ms - 600 * _SECOND, active=False,
                message="the exits of 20260101T000312-0002 exceeded their budget: the trainer closed them all",
            ),
        ),
        lags=(
            _lag("workers", "layercache", "frames", (12, 0, 31, 4), seconds=0.9),
            _lag("trainer", "layercache-trainer", "distillation", (3,), seconds=None),
        ),
        dead_letters=_dead_letters(at_ms),
        workers=(_worker("worker-1:9100", closed=False), _worker("worker-2:9100", closed=True)),
        metrics=True,
        problems=(
            state.Problem(
                where="metrics", message="no metrics from trainer:9101: connection refused; is it running, and is "
                "--metrics right?", since_ms=at_ms - 42 * _SECOND,
            ),
        ),
        notes=("412 predictions of another model (81c0a4d2f6b3) on predictions are left out",),
    )  # fmt: skip


def frame(rng: np.random.Generator, index: int, at_ms: int) -> state.Frame:
    """Number ``index``, 0 the newest."""
    label = int(rng.integers(len(CLASSES)))
    exit_ = str(rng.choice([*EXITS, state.END], p=(0.25, 0.3, 0.2, 0.25)))
    has_picture = index % 8 != 7
    return state.Frame(
        id=f"{17_000 - index:05d}-{CLASSES[label].replace(' ', '-')}.webp",
        key=f"gate-{index % 3}" if index % 5 else None,
        partition=index % 4,
        offset=4_250 - index // 4,
        at_ms=at_ms - index * 18,
        class_name=CLASSES[label],
        confidence=float(rng.uniform(0.55, 1.0)),
        exit=exit_,
        audited=exit_ == state.END and index % 6 == 0,
        overload=index == 3,
        version="20260101T001200-0005",
        latency_ms=float(rng.uniform(40, 300)),
        picture=picture(list(COLOURS)[index % 3], index) if has_picture else None,
        no_picture="" if has_picture else "the picture lies elsewhere (ce_dataref); the dashboard does not fetch it",
    )


def picture(colour: str, noise: int = 0) -> state.Picture:
    """A PNG of 56 x 56 pixels."""
    stream = io.BytesIO()
    PIL.Image.fromarray(coloured(colour, 56, 56, noise)).save(stream, "PNG")
    return state.Picture(data=stream.getvalue(), content_type="image/png", width=56, height=56)


def _flow() -> state.Flow:
    left = (500, 620, 362, 518)
    segments = []
    for cut, share, gone in zip((*EXITS, state.END), _SHARES, left, strict=True):
        segments.append(state.Segment(cut=cut, time_share=share, left=gone, open=True))
    return state.Flow(segments=tuple(segments), frames=sum(left))


def _series(rng: np.random.Generator, width_s: float, count: int, at_ms: int) -> state.Series:
    points = []
    for index in range(count):
        progress, is_quiet = index / count, 40 <= index < 44
        audits = 0 if is_quiet else int(rng.integers(0, 14))
        points.append(
            state.Point(
                at_ms=at_ms - int((count - index) * width_s * _SECOND),
                frames=0 if is_quiet else int(rng.normal(55, 2) * width_s),
                frames_per_s=0.0 if is_quiet else float(rng.normal(55, 2)),
                hit_rate=None if is_quiet else float(np.clip(0.8 * progress**0.5 + rng.normal(0, 0.02), 0, 1)),
                flops_saved=None if is_quiet else float(np.clip(0.52 * progress**0.5 + rng.normal(0, 0.02), 0, 1)),
                time_saved=None if is_quiet else float(np.clip(0.43 * progress**0.5 + rng.normal(0, 0.02), 0, 1)),
                latency_p50_ms=None if is_quiet else float(rng.normal(110, 8)),
                latency_p99_ms=None if is_quiet else float(rng.normal(300, 30)),
                audits=audits,
                disagreements=int(rng.binomial(audits, 0.006)),
            )
        )
    return state.Series(width_s=width_s, points=tuple(points))


def _certificate(budget: float, bound: float) -> Certificate:
    return Certificate(
        max_disagreement=budget, confidence=0.95, attempt=4, error=0.0025, frames=2_412, disagreements=9,
        p_value=0.0011, upper_bound=bound,
        worst_classes=(ClassResult(label=6, name="shirt", frames=231, disagreements=4, upper_bound=0.052),),
    )  # fmt: skip


def _heads(at_ms: int) -> heads_state.Heads:
    def version(number: int, minute: int, reason: str, exits: int, changes: heads_state.Changes) -> heads_state.Version:
        is_open = exits > 0
        return heads_state.Version(
            version=_name(number, minute),
            created_ms=START_MS + minute * 60 * _SECOND,
            reason=reason,  # type: ignore[arg-type]  # one of the literals, below
            predecessor=None if number == 1 else _name(number - 1, _MINUTES[number - 2]),
            exits=EXITS[:exits],
            hit_rate=0.35 + 0.08 * number if is_open else None,
            flops_saved=0.2 + 0.055 * number if is_open else None,
            time_saved=0.15 + 0.05 * number if is_open else None,
            upper_bound=0.0081 if is_open else None,
            changes=changes,
            live=number == 5,
            latest=number == 5,
            pinned=False,
        )

    versions = (
        version(
            5, _MINUTES[4], "better", 3,
            heads_state.Changes(
                opened=("layer3",), overload="added",
                moved=(heads_state.Moved(cut="layer2", before=0.9312, after=0.8874),),
                summary="opens layer3; layer2 from 0.9312 to 0.8874; adds thresholds for overload",
            ),
        ),
        version(4, _MINUTES[3], "first", 2, heads_state.Changes(opened=EXITS[:2], summary="opens layer1, layer2")),
        version(3, _MINUTES[2], "unsafe", 0, heads_state.Changes(closed=EXITS[:2], summary="closes layer1, layer2")),
        version(2, _MINUTES[1], "better", 2, heads_state.Changes(opened=("layer1",), summary="opens layer1")),
        version(1, _MINUTES[0], "first", 1, heads_state.Changes(opened=("layer2",), summary="opens layer2")),
    )  # fmt: skip
    return heads_state.Heads(
        store="s3://heads/fashion-mnist-eb575f920e07",
        versions=versions,
        live=versions[0].version,
        latest=versions[0].version,
        attempts=4,
        sentence=f"workers use {versions[0].version}",
    )


_MINUTES = (1, 3, 5, 9, 12)


def _name(number: int, minute: int) -> str:
    return f"20260101T00{minute:02d}00-{number:04d}"


def _lag(who: str, group: str, topic: str, lags: tuple[int, ...], seconds: float | None) -> state.GroupLag:
    return state.GroupLag(
        who=who,  # type: ignore[arg-type]  # one of the literals, above
        group=group,
        topic=topic,
        partitions=tuple(
            PartitionLag(partition=number, committed=4_251 - lag, end=4_251, lag=lag) for number, lag in enumerate(lags)
        ),
        seconds=seconds,
    )


def _dead_letters(at_ms: int) -> state.DeadLetters:
    latest = (
        state.DeadLetter(
            id="gate-1-00931.png", key="gate-1", partition=1, offset=931, at_ms=at_ms - 30 * _SECOND,
            reason="wrong-content-type", message="content-type says image/jpeg, the bytes are image/png",
            picture=picture("green", 5),
        ),
        state.DeadLetter(
            id="frames-0-117", key=None, partition=0, offset=117, at_ms=at_ms - 400 * _SECOND, reason="empty",
            message="the frame has no bytes", no_picture="the frame has no bytes",
        ),
        state.DeadLetter(
            id="<img src=x onerror=alert(1)>", key="<b>key</b>", partition=2, offset=44, at_ms=at_ms - 500 * _SECOND,
            reason="corrupt", message="image/png that does not decode: <script>alert(1)</script>",
            no_picture="it does not decode",
        ),
    )  # fmt: skip
    return state.DeadLetters(latest=latest, by_reason={"corrupt": 3, "wrong-content-type": 1, "empty": 1})


def _worker(target: str, closed: bool) -> state.Worker:
    return state.Worker(
        target=target,
        version="20260101T001200-0005",
        frames=24_113,
        exits_closed=closed,
        overload=not closed,
        overload_closed=False,
        lag_seconds=0.9,
        distillation_share=1.0,
        store_errors=0,
        heads_refused=0,
    )
