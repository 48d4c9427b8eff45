"""Names that examples in docstrings may use, and which tests are unit tests.

``traced`` is the demo's classifier, see :mod:`layercache.early_exit`; ``heads`` has one exit, at ``layer2``, which has
learnt nothing and answers every frame.

A unit test needs no broker, no other process and no browser. It is one (``-m unit``) unless its place, its fixtures or
its marks say otherwise. A guard raises if a unit test starts a process.
"""

import gc
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent

#: Tests beside other processes, of documents and of benchmarks; and of simulations, large or compiled models,
#: trainings, plots and whole programs, which take seconds.
_NO_UNITS = frozenset(
    _ROOT / path
    for path in (
        "docs", "tests/docs", "tests/benchmarks", "tests/faults", "tests/fuzz", "tests/integration", "tests/mutants",
        "tests/simulation",
        "layercache/api/training.py", "layercache/cache_training/trainer.py", "tests/cache_training/test_overload.py",
        "tests/cache_training/test_compiled_versions.py",
        "tests/cache_training/test_trainer.py", "tests/cache_training/certifying/test_certifier.py",
        "tests/cache_training/certifying/test_promise.py", "tests/cache_training/learning/test_candidates.py",
        "tests/early_exit/compiled", "tests/early_exit/cutting/test_cuts.py",
        "tests/early_exit/cutting/test_layouts.py",
        "tests/early_exit/heads/test_skims.py", "tests/early_exit/model/test_timm_models.py",
        "tests/early_exit/model/test_torchvision.py", "tests/early_exit/test_drift.py",
        "tests/layercache/api/test_training.py", "tests/layercache/cli/test_doctor.py",
        "tests/stream/worker/answering/test_heads_compiled.py",
        "tests/layercache/cli/test_profile.py", "tests/layercache/cli/test_report.py",
        "tests/layercache/demo/test_report.py", "tests/layercache/measuring/test_race.py",
        "tests/layercache/report/test_page.py", "tests/layercache/report/test_rehearsal.py",
    )
)  # fmt: skip
_LONGEST = tuple(_ROOT / "tests/integration" / name for name in ("test_demo.py", "test_drift.py"))
_NO_UNITS_FIXTURES = frozenset({"broker", "embedded_broker", "apache_kafka", "browser", "stack"})
_NO_UNITS_MARKS = frozenset({"process", "patient", "docker", "slow", "faults"})
#: Python's names for starting a process (https://docs.python.org/3/library/audit_events.html).
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"})


@cache
def _names() -> dict[str, object]:
    from layercache.early_exit.cutting import cuts
    from layercache.early_exit.heads.families import build_head
    from layercache.early_exit.heads.loading import load_heads, tensor_names
    from layercache.early_exit.model import loading  # torch takes seconds, and most runs need no examples
    from layercache.schemas.manifest import Exit, HeadSpec, Manifest
    from layercache.schemas.settings import Model

    traced = cuts.trace(loading.load(Model(spec=f"{_ROOT}/examples/fashion_mnist.py:build")))
    spec = HeadSpec(family="pooled", features=traced.cut("layer2").shape, classes=10)
    exit_ = Exit(cut="layer2", head=spec, temperature=1.0, threshold=0.0, flops_share=0.48, time_share=0.5)
    manifest = Manifest(
        version="v1", model=traced.classifier.fingerprint, model_name="fashion-mnist", created="2026-01-01T00:00:00Z",
        reason="first", predecessor=None, exits=(exit_,), audit_rate=0.1, certificate=None, expected=None,
    )  # fmt: skip
    return {"traced": traced, "heads": load_heads(manifest, tensor_names("layer2", build_head(spec)), traced)}


@pytest.fixture(autouse=True)
def names_of_examples(request: pytest.FixtureRequest) -> None:
    """Gives the names to examples only, and runs these in the repository's root, so that their paths are short."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(_ROOT)
        request.getfixturevalue("doctest_namespace").update(_names())


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Takes all modules and tests out of the collector's sight: to pass over them costs it a sixth of a second a time.

    The worker does so, too (:mod:`layercache.stream.worker.garbage`), and collects when it takes up heads.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Otherwise extensions that look for leaks at the end report all their objects."""
    gc.unfreeze()


def _is_unit(item: pytest.Item) -> bool:
    if isinstance(item, pytest.DoctestItem) and any("EmbeddedBroker" in one.source for one in item.dtest.examples):
        return False
    return not (
        not _NO_UNITS.isdisjoint((item.path, *item.path.parents))
        or _NO_UNITS_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        or any(item.get_closest_marker(name) for name in _NO_UNITS_MARKS)
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Does not even import what holds no unit tests where these alone are wanted."""
    return True if config.option.markexpr == "unit" and collection_path in _NO_UNITS else None


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks unit tests, and puts the longest files first: a process that came to them last would be waited for."""
    items.sort(key=lambda item: item.path not in _LONGEST)
    for item in items:
        if _is_unit(item):
            item.add_marker(pytest.mark.unit)


class _Guard:
    """Refuses to start processes while a unit test runs. Audit hooks stay for ever, so there is one for all tests."""

    def __init__(self) -> None:
        self.unit = ""
        sys.addaudithook(self._look)

    def _look(self, event: str, _: tuple[object, ...]) -> None:
        if self.unit and event in _STARTS:
            raise RuntimeError(f"{event} in a unit test, {self.unit}: mark it with pytest.mark.process")


_GUARD = _Guard()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Guards unit tests, their fixtures included."""
    _GUARD.unit = item.nodeid if item.get_closest_marker("unit") else ""
    try:
        return (yield)
    finally:
        _GUARD.unit = ""
