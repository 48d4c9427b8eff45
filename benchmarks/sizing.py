"""How many partitions, workers, gigabytes and megabits a number of cameras takes.

    python -m benchmarks.sizing --measure     # times decoding and models here, on one core
    python -m benchmarks.sizing               # the tables of docs/sizing.md, from what was measured

Writes ``docs/benchmarks/sizing.json`` as well. What a frame costs beside decoding and the model is taken from
``docs/benchmarks/pipeline.json`` where there is one.
"""

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

DOCS = Path(__file__).parent.parent / "docs"
COSTS, PIPELINE, PAGE = DOCS / "benchmarks/sizing.json", DOCS / "benchmarks/pipeline.json", DOCS / "sizing.md"
BEGIN, END = "<!-- plans -->", "<!-- /plans -->"

#: The plumbing of a frame where no benchmark says it: reading, one JSON document, producing, a share of a commit.
ASSUMED_PLUMBING_MS = 0.05
#: Bytes of a prediction with three classes, before compression.
PREDICTION_BYTES = 600
#: Audited frames before the first certificate of 1 % at 95 % (README, "What it costs").
FIRST_CERTIFICATE_AUDITS = 1_000

_ROUNDS = 7


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of one core for one frame: the least of several rounds, so that what else ran counts little."""

    machine: str
    decode_ms: dict[str, float]
    """By the JPEG's size: ``160x120``, ``1280x720``."""
    model_ms: dict[str, float]
    """By the name in torchvision; 224 x 224, float32, in batches of 16."""
    frame_bytes: dict[str, int]
    """Of the JPEGs that were decoded."""
    plumbing_ms: float = ASSUMED_PLUMBING_MS
    """What else a frame takes of the hot thread."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be served."""

    cameras: int
    per_s: float
    """Frames a second of each camera."""
    picture: str
    model: str
    saved: float = 0.0
    """Share of the model's time that open exits save; 0 before the first certificate, and whenever exits close."""
    taught: float = 0.3
    """Share of frames that no exit answers, or that are audited: they go to the trainer."""
    load: float = 0.6
    """How busy a worker may be on average: the rest is for peaks, rebalances and rolling updates."""
    decode_threads: int = 2
    replication: int = 3
    retention_h: float = 6.0
    """Of the frames topic."""
    block_s: float = 10.0


class SitePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What that takes."""

    frames_per_s: float
    cpu_ms_per_frame: float
    worker_per_s: float
    """What one worker does when it is never idle."""
    workers: int
    partitions: int
    cores: int
    in_mbit_s: float
    """Into the brokers from publishers, and once more out of them to the workers."""
    replication_mbit_s: float
    """Between brokers."""
    predictions_mbit_s: float
    distillation_mbit_s: float
    """From workers to the trainer if it were all sent; workers send less where the trainer cannot keep up."""
    frames_gb: float
    """On the brokers' disks, all replicas."""
    certificate_s: float
    """Until the first certificate's audits are in, learning not counted."""


def plan(site: Site, costs: Costs) -> SitePlan:
    """The formulas of docs/sizing.md.

    >>> costs = Costs(
    ...     machine="", decode_ms={"s": 1.0}, model_ms={"m": 9.0}, frame_bytes={"s": 10_000}, plumbing_ms=0.5
    ... )
    >>> found = plan(Site(cameras=1_000, per_s=1.0, picture="s", model="m", load=0.5, saved=0.5), costs)
    >>> found.worker_per_s, found.workers, found.partitions, found.cores
    (200.0, 10, 24, 12)
    """
    frames = site.cameras * site.per_s
    size, decode = costs.frame_bytes[site.picture], costs.decode_ms[site.picture]
    hot = costs.model_ms[site.model] * (1 - site.saved) + costs.plumbing_ms  # one after the other, in one thread
    worker_per_s = 1_000 / max(hot, decode / site.decode_threads)
    workers = math.ceil(frames / (worker_per_s * site.load))
    mbit = frames * 8 / 1e6
    # A frame of the trainer's is the picture as the model saw it; zstd takes little off a photograph.
    taught_bytes = 3 * 224 * 224 * site.taught
    # Of one camera's block of time one frame at most is tested, however many there are.
    independent = site.cameras * min(site.per_s, 1 / site.block_s)
    return SitePlan(
        frames_per_s=frames,
        cpu_ms_per_frame=hot + decode,
        worker_per_s=worker_per_s,
        workers=workers,
        partitions=12 * math.ceil(2 * workers / 12),
        cores=math.ceil(frames * (hot + decode) / 1_000 / site.load),
        in_mbit_s=mbit * size,
        replication_mbit_s=mbit * size * (site.replication - 1),
        predictions_mbit_s=mbit * PREDICTION_BYTES,
        distillation_mbit_s=mbit * taught_bytes,
        frames_gb=frames * size * 3_600 * site.retention_h * site.replication / 1e9,
        certificate_s=FIRST_CERTIFICATE_AUDITS / independent,
    )


SITES = (
    Site(cameras=1_000, per_s=1, picture="160x120", model="mobilenet_v3_large", saved=0.0, taught=1.0),
    Site(cameras=1_000, per_s=1, picture="1280x720", model="resnet18", saved=0.0, taught=1.0),
    Site(cameras=1_000, per_s=1, picture="1280x720", model="resnet18", saved=0.5),
    Site(cameras=1_000, per_s=5, picture="1280x720", model="resnet18", saved=0.5),
    Site(cameras=10_000, per_s=1, picture="1280x720", model="resnet18", saved=0.5),
    Site(cameras=1_000, per_s=1, picture="1280x720", model="resnet50", saved=0.0, taught=1.0),
    Site(cameras=1_000, per_s=1, picture="1280x720", model="resnet50", saved=0.5),
)


def render(costs: Costs, sites: Sequence[Site] = SITES) -> str:
    """The tables of docs/sizing.md."""
    measured = [
        "| one frame, one core | ms |",
        "|---|---|",
        *(f"| decode a {size} JPEG ({costs.frame_bytes[size] / 1000:.0f} kB), fit it to 224 × 224 | {ms:.1f} |"
          for size, ms in costs.decode_ms.items()),
        *(f"| {name}, 224 × 224, float32, batch 16 | {ms:.1f} |" for name, ms in costs.model_ms.items()),
        f"| plumbing | {costs.plumbing_ms:.2f} |",
    ]  # fmt: skip
    head = (
        "cameras × frames/s", "picture", "model", "exits save", "frames/s", "workers", "partitions", "cores",
        "frames in, Mbit/s", "between brokers, Mbit/s", "to the trainer, Mbit/s", "6 h of frames, 3 replicas, GB",
    )  # fmt: skip
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for site in sites:
        found = plan(site, costs)
        cells = (
            f"{site.cameras:,} × {site.per_s:g}", site.picture, site.model, f"{site.saved:.0%}",
            f"{found.frames_per_s:,.0f}", f"{found.workers:,}", f"{found.partitions:,}", f"{found.cores:,}",
            f"{found.in_mbit_s:,.0f}", f"{found.replication_mbit_s:,.0f}", f"{found.distillation_mbit_s:,.0f}",
            f"{found.frames_gb:,.0f}",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"Measured on {costs.machine}, one thread.", "", *measured, "", *rows])


def plumbing_ms(pipeline: Path = PIPELINE) -> float:
    """Of the worker with a do-nothing model and the largest frames, where that was measured."""
    if not pipeline.is_file():
        return ASSUMED_PLUMBING_MS
    rows = [
        row for row in json.loads(pipeline.read_text())
        if row["system"].startswith("Layercache") and row["model"] == "nothing"
    ]  # fmt: skip
    if not rows:
        return ASSUMED_PLUMBING_MS
    return float(max(rows, key=lambda row: row["frame_bytes"])["cpu_ms_per_frame"])


def page(text: str, tables: str) -> str:
    """``text`` with the tables between its marks."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def measure() -> Costs:
    """Times decoding and models on this machine, by the processor's clock."""
    import torch
    import torchvision

    from layercache.early_exit.model.preprocessing import Preprocessing
    from layercache.stream.frames.decoding import Limits, decode_frame

    torch.set_num_threads(1)
    fit = Preprocessing(size=(224, 224), mean=(0.5,) * 3, std=(0.2,) * 3, resize=256)
    limits = Limits(max_bytes=10**7, max_pixels=10**8)
    decode_ms, sizes, model_ms = {}, {}, {}
    for width, height, quality in ((160, 120, 75), (1280, 720, 60)):
        name, value = f"{width}x{height}", _photo(width, height, quality)
        sizes[name] = len(value)
        decode_ms[name] = _least_ms(lambda value=value: decode_frame(value, None, fit, limits), 20)  # type: ignore[misc]
    for name in ("mobilenet_v3_large", "resnet18", "resnet50"):
        model = torchvision.models.get_model(name).eval()
        pictures = torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            model_ms[name] = _least_ms(lambda model=model, pictures=pictures: model(pictures), 1) / 16  # type: ignore[misc]
    machine = f"{_processor()}, torch {torch.__version__.partition('+')[0]}"
    return Costs(machine=machine, decode_ms=decode_ms, model_ms=model_ms, frame_bytes=sizes)


def _photo(width: int, height: int, quality: int) -> bytes:
    """A JPEG with about the detail of a photograph: noise at an eighth of the resolution, enlarged."""
    import PIL.Image

    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC).save(
        stream, "JPEG", quality=quality
    )
    return stream.getvalue()


def _least_ms(call: Callable[[], object], times: int) -> float:
    rounds = []
    for _ in range(_ROUNDS):
        began = time.thread_time()
        for _ in range(times):
            call()
        rounds.append((time.thread_time() - began) * 1000 / times)
    return min(rounds)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "an unknown processor"


def main() -> None:
    """Measures where asked to, and brings docs/sizing.md up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="time decoding and models here first")
    asked = parser.parse_args().measure
    costs = measure() if asked else msgspec.json.decode(COSTS.read_bytes(), type=Costs)
    costs = msgspec.structs.replace(costs, plumbing_ms=plumbing_ms())
    COSTS.write_bytes(msgspec.json.format(msgspec.json.encode(costs)) + b"\n")
    PAGE.write_text(page(PAGE.read_text(), render(costs)))


if __name__ == "__main__":
    main()
