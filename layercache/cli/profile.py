"""``layercache profile``: what segments, heads and runtimes cost on this machine, by the size of the micro-batch."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layercache.cli import common
from layercache.cli.options import MODEL, RUNTIME, STORE, SettingOption, with_settings

if TYPE_CHECKING:
    from layercache.early_exit.cutting.cuts import TracedModel
    from layercache.early_exit.heads.cache_heads import CacheHeads
    from layercache.measuring.runtime_times import RuntimeTimes
    from layercache.schemas.settings import Settings

BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Measured:
    """Times of the pieces, in the order that a frame meets them; ``ms`` is by piece, then by frames in the batch."""

    model: str
    fingerprint: str
    heads_version: str | None
    threads: int
    ms: dict[str, dict[int, float]]

    @property
    def model_ms(self) -> dict[int, float]:
        """Time of the model alone, by number of frames: all segments, no heads."""
        segments = [times for piece, times in self.ms.items() if piece.startswith("to ")]
        return {batch: sum(times[batch] for times in segments) for batch in segments[0]}


@with_settings(
    *MODEL,
    *RUNTIME,
    STORE,
    SettingOption("worker.torch_threads", ("--threads",), "Threads of torch; by default what workers are set to."),
)
def command(
    settings: "Settings",
    batch: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Frames in a micro-batch; may be repeated. [1 to 64]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measures the model's segments at several batch sizes, and the heads that workers use, where there are any.

    Without heads the model is cut where the trainer would try some. Then it measures the whole model by each runtime
    that may run it here, and says which one workers choose, and why. Times are of the fastest of several runs; measure
    on a machine that is otherwise idle.

    \b
    Example:
      layercache profile --model my_model.py:build
      layercache profile --model my_model.py:build --store-url file:///srv/heads --batch 1 --batch 32 --json
    """
    import torch

    from layercache.early_exit.cutting import cuts
    from layercache.early_exit.memory import keep_freed_memory
    from layercache.early_exit.model import loading
    from layercache.early_exit.runtimes import with_reference

    keep_freed_memory()
    if settings.worker.torch_threads is not None:
        torch.set_num_threads(settings.worker.torch_threads)
    try:
        classifier = with_reference(loading.load(settings.model), settings.worker.max_batch)
        traced = cuts.trace(classifier, settings.trainer.max_cuts)
    except (loading.ModelError, cuts.CutError) as error:
        common.fail(f"error: {error}", common.WRONG_USAGE)
    measured = measure(traced, _live_heads(settings, traced), tuple(sorted(set(batch or BATCHES))))
    runtimes = _by_runtime(traced, tuple(sorted(set(batch or (1, settings.worker.max_batch)))))
    if as_json:
        typer.echo(json.dumps(_as_json(measured) | _runtimes_as_json(runtimes), indent=2))
    else:
        _print(measured)
        _print_runtimes(runtimes)


def measure(traced: "TracedModel", heads: "CacheHeads | None", batches: tuple[int, ...]) -> Measured:
    """Measures the model cut at the heads' exits, or at the proposed cuts; shows progress on a terminal."""
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from layercache.early_exit.cutting.costs import measure_times

    exits = heads.manifest.exits if heads else ()
    names = [exit_.cut for exit_ in exits] or [cut.name for cut in traced.proposed]
    pieces = [f"to {name}" for name in names] + ["to the end"]
    segments = dict(zip(pieces, traced.segments(names), strict=True))
    classifier = traced.classifier
    modules = {
        exit_.cut: module.to(classifier.device, classifier.dtype)
        for exit_, module in zip(exits, heads.modules if heads else (), strict=True)
    }
    for module in (*segments.values(), *modules.values()):
        module.to(memory_format=torch.channels_last)
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TextColumn("batch sizes"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(batches))
        ms = measure_times(segments, modules, classifier.example, batches, after_batch=lambda: progress.advance(task))
    version = heads.manifest.version if heads else None
    return Measured(classifier.name, classifier.fingerprint, version, torch.get_num_threads(), ms)


def _by_runtime(traced: "TracedModel", batches: tuple[int, ...]) -> "RuntimeTimes":
    """Says on a terminal that it may take a while."""
    from rich.console import Console

    from layercache.measuring.runtime_times import RuntimeTimes

    with Console(stderr=True).status("compiling the whole model"):
        return RuntimeTimes.measure(traced, batches)


def _live_heads(settings: "Settings", traced: "TracedModel") -> "CacheHeads | None":
    """The heads that workers use; None if there are none, or if every exit is closed."""
    from layercache.early_exit.heads.loading import load_heads
    from layercache.early_exit.store.head_store import open_store

    classifier = traced.classifier
    store = open_store(settings.store, classifier.name, classifier.fingerprint)
    version = store.live().version
    if version is None:
        return None
    manifest, tensors = store.load(version)
    return load_heads(manifest, tensors, traced)


def _as_json(measured: Measured) -> dict[str, Any]:
    total = measured.model_ms
    return {
        "model": measured.model,
        "fingerprint": measured.fingerprint,
        "heads_version": measured.heads_version,
        "threads": measured.threads,
        "pieces": [
            {"name": piece, "ms": times, "share": {batch: ms / total[batch] for batch, ms in times.items()}}
            for piece, times in measured.ms.items()
        ],
        "model_ms": total,
    }


def _runtimes_as_json(runtimes: "RuntimeTimes") -> dict[str, Any]:
    return {
        "full_model": {"runtime": runtimes.reference.runtime, "reason": runtimes.reference.reason},
        "compiled_exits": {"precisions": runtimes.exits.precisions, "reason": runtimes.exits.reason},
        "runtimes": [{"name": name, "ms": ms} for name, ms in runtimes.ms.items()],
        "runtimes_note": runtimes.note,
    }


def _print_runtimes(runtimes: "RuntimeTimes") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", box=None, header_style="bold")
    for batch in runtimes.ms[runtimes.chosen]:
        table.add_column(f"{batch}", justify="right")
    for name, ms in runtimes.ms.items():
        cells = [f"{spent / batch:.3g}" for batch, spent in ms.items()]
        table.add_row(name, *cells, style="bold" if name == runtimes.chosen else None)
    console = Console(highlight=False)
    console.print("\nMilliseconds per frame of the whole model, by runtime\n", style="bold")
    console.print(table)
    for sentence in runtimes.described:
        console.print(f"\n{sentence}", markup=False)
    if runtimes.note and runtimes.note not in "".join(runtimes.described):
        console.print(f"\nNot measured: {runtimes.note}.", markup=False)


def _print(measured: Measured) -> None:
    from rich.console import Console
    from rich.table import Table

    total = measured.model_ms
    small, large = min(total), max(total)
    table = Table("", box=None, header_style="bold")
    for batch in total:
        table.add_column(f"{batch}", justify="right")
    table.add_column(f"share at {large}", justify="right")
    if small != large:
        table.add_column(f"{large} against {small}", justify="right")
    for piece, times in [*measured.ms.items(), ("the model", total)]:
        per_frame = {batch: ms / batch for batch, ms in times.items()}
        style = "bold" if piece == "the model" else "dim" if piece.startswith("head ") else None
        cells = [f"{ms:.3g}" for ms in per_frame.values()] + [f"{times[large] / total[large]:.1%}"]
        if small != large:
            cells.append(f"{per_frame[large] / per_frame[small] - 1:+.0%}")
        table.add_row(piece, *cells, style=style)
    console = Console()
    console.print("Milliseconds per frame, by frames in a micro-batch\n", style="bold")
    console.print(table)
    heads = f"heads {measured.heads_version}" if measured.heads_version else "no heads"
    console.print(f"\n{measured.model}, {heads}, threads of torch: {measured.threads}. Shares are of the model's time.")
