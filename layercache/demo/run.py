"""The whole demo: stream, measure, race, report."""

import os
import platform
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from layercache.broker import EmbeddedBroker
from layercache.demo import chart, dashboard_process, report, settings, streaming
from layercache.demo.processes import Children, launcher
from layercache.demo.readings import Readings
from layercache.demo.versions import Versions
from layercache.demo.view import View
from layercache.early_exit.cutting.cuts import TracedModel, trace
from layercache.early_exit.engine import Engine
from layercache.early_exit.model.loading import load
from layercache.early_exit.store.head_store import HeadStore, open_store
from layercache.measuring import labelled_frames, race
from layercache.measuring.columns import collect, last_quarter
from layercache.measuring.labelled_frames import LabelledFrames
from layercache.measuring.summary import Machine, Summary, summarise
from layercache.measuring.tally import Tally
from layercache.schemas.settings import Settings
from layercache.stream.frames.decoding import Limits
from layercache.stream.kafka import topics

_SETTINGS_FILE = "demo.toml"
_RESULTS = ("summary.json", "summary.md", "chart.png")
_STATE = ("heads", "trainer-state", "logs")


class FolderInUse(FileExistsError):
    """The report's folder holds something else."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    frames: int
    rate: float
    out: Path
    seed: int
    assets: settings.Assets
    dashboard: bool = True
    """Shows the dashboard beside the stream."""
    browser: bool = False
    """Opens it in a browser."""


def run(options: Options, view: View) -> Summary:
    """Runs the demo and writes its report into ``options.out``; nothing of the report is written if it fails."""
    prepare(options.out)
    with view.step("loading model and frames"):
        chosen = settings.choose(options.assets, "", options.out, options.seed)
        traced = trace(load(settings.build(chosen).model))
        classifier = traced.classifier
        pictures = labelled_frames.read(
            options.assets.frames, options.frames, options.assets.label_pattern, classifier.classes
        )
    tally = Tally(len(pictures), window=min(500, max(1, len(pictures) // 10)))
    with EmbeddedBroker(launcher=launcher()) as broker:
        metrics_port = dashboard_process.metrics_port() if options.dashboard else None
        chosen = settings.choose(options.assets, broker.bootstrap_servers, options.out, options.seed, metrics_port)
        built = settings.build(chosen)
        store = _store(built, traced)
        plan = streaming.StreamPlan(built, options.out / _SETTINGS_FILE, options.assets, len(pictures), options.rate)
        plan.settings_file.write_text(settings.toml(chosen))
        topics.create(built)
        with (
            Children(options.out / "logs", settings.environment()) as children,
            Readings(built, pictures.places(), Versions(store)) as readings,
            _dashboard(options, children, plan.settings_file, view, metrics_port) as dashboard,
        ):
            settled = dashboard.settled if dashboard is not None else lambda: True
            streaming.run(plan, children, readings, tally, view, settled)
    return _report(options, built, traced, store, pictures, tally, view)


def prepare(folder: Path) -> None:
    """An empty folder for the report: an earlier report in it goes, heads and all; anything else stays.

    Raises :class:`FolderInUse` where it holds anything but an earlier report.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / _SETTINGS_FILE).is_file())):
        raise FolderInUse(f"{folder} is no earlier report and not empty; name another folder with --out")
    for name in _RESULTS:
        (folder / name).unlink(missing_ok=True)
    for name in _STATE:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "logs").mkdir(parents=True)


def _report(
    options: Options,
    built: Settings,
    traced: TracedModel,
    store: HeadStore,
    pictures: LabelledFrames,
    tally: Tally,
    view: View,
) -> Summary:
    torch.set_num_threads(_cpus())
    with view.step("running the full model over all frames") as done:
        full = labelled_frames.full_labels(Engine(traced), pictures, Limits.of(built.worker), done)
    answers = tally.answers()
    with view.step("racing exits against PyTorch and against the best plain runtime") as done:
        result = race.run(built, traced, store, pictures, answers[last_quarter(len(answers))], done)
    columns = collect(answers, tally.audits(), full, pictures.truth)
    summary = summarise(
        columns,
        answers,
        Versions(store).all(),
        result,
        _machine(),
        budget=built.promise.max_disagreement,
        confidence=built.promise.confidence,
        model=traced.classifier.name,
        classes=traced.classifier.classes,
        seed=options.seed,
    )
    chart.draw(columns, summary, options.out / "chart.png")
    (options.out / "summary.md").write_text(report.markdown(summary))
    summary.write(options.out / "summary.json")
    return summary


def _dashboard(
    options: Options, children: Children, settings_file: Path, view: View, metrics_port: int | None
) -> AbstractContextManager[dashboard_process.Dashboard | None]:
    if not options.dashboard:
        return nullcontext()
    return dashboard_process.Dashboard(children, settings_file, view.say, options.browser, metrics_port)


def _store(built: Settings, traced: TracedModel) -> HeadStore:
    return open_store(built.store, traced.classifier.name, traced.classifier.fingerprint)


def _machine() -> Machine:
    return Machine(
        cpus=_cpus(), platform=platform.platform(), python=platform.python_version(), torch=str(torch.__version__)
    )


def _cpus() -> int:
    """Those that this process may use, where the platform tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
