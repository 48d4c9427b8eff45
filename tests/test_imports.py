"""Which room may import which, read off the source files: no arrow points up, none makes a circle, rooms included.

The repository's rooms are folders at its top; they are installed within ``layercache``, where links lead to them. Where
a file stands decides its name, so ``stream/kafka/topics.py`` is ``layercache.stream.kafka.topics`` and nothing else:
from the repository's root the same file could be imported as ``stream.kafka.topics`` too, as a second copy.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: What is installed within ``layercache`` and stands at the top of the repository.
LINKED = ("schemas", "early_exit", "stream", "cache_training")

#: The floors, from the ground up. A room imports what stands on lower floors, and, beside that, what `BESIDE` allows.
FLOORS = (
    ("layercache.schemas",),
    (
        "layercache.early_exit.machine",
        "layercache.early_exit.memory",
        "layercache.early_exit.policy",
        "layercache.early_exit.drift",
        "layercache.early_exit.blocks",
        "layercache.early_exit.model",
        "layercache.early_exit.store",
    ),
    ("layercache.early_exit.cutting", "layercache.early_exit.compiled"),
    ("layercache.early_exit.heads",),
    ("layercache.early_exit",),
    ("layercache.stream.kafka",),
    ("layercache.cache_training.learning", "layercache.stream.frames"),
    ("layercache.cache_training.certifying", "layercache.stream.references"),
    ("layercache.cache_training.trainer", "layercache.stream.publishing"),
    ("layercache.stream", "layercache.cache_training"),
    ("layercache.broker", "layercache.stopping", "layercache.presenting", "layercache.measuring"),
    ("layercache.api", "layercache.dashboard", "layercache.demo", "layercache.doctor", "layercache.report"),
    ("layercache",),
    ("testbed",),
    ("benchmarks", "examples"),
)
OUTSIDE = ("tests", "docs")
KAFKA = {"confluent_kafka", "faust", "aiokafka", "mode"}
#: Libraries that a room does without, so that it works where they are not wanted.
WITHOUT = {
    "layercache.schemas": KAFKA | {"torch", "torchvision"},
    "layercache.early_exit": KAFKA,
    "layercache.stream": {"faust", "aiokafka", "mode"},
}


def modules() -> dict[str, Path]:
    """Every module of ours but the tests, by the one name it has."""
    found = {}
    for top in (*LINKED, "layercache", "testbed", "benchmarks", "examples"):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if top == "layercache" and parts[1] in LINKED:
                continue  # behind a link
            name = ".".join(("layercache", *parts) if top in LINKED else parts)
            found[name.removesuffix(".__init__")] = file
    return found


def imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported anywhere in a file of ``package``, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _names_import(node.func) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def _names_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name in {"import_module", "__import__"}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def floor_of(name: str) -> tuple[int, str]:
    """The floor and the room of a module: the narrowest that is listed."""
    return max(
        ((floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms if within(name, room)),
        key=lambda found: len(found[1]),
        default=(-1, ""),
    )


def breaches(name: str, source: str, package: str | None = None) -> list[str]:
    """What ``source``, the module ``name``, imports though it may not, one readable line each."""
    floor, room = floor_of(name)
    found = []
    for line, other in imported(ast.parse(source), package or name.rpartition(".")[0]):
        if other == "layercache":
            continue  # for its version: what it names else, it imports when asked
        top = other.partition(".")[0]
        above, other_room = floor_of(other)
        if top in LINKED:
            found.append(f"{name}:{line}: {other} has one name, layercache.{other}")
        elif top in OUTSIDE or above > floor or (above == floor and other_room != room):
            found.append(f"{name}:{line}: {room} may not import {other}")
        elif any(top in libraries for place, libraries in WITHOUT.items() if within(name, place)):
            found.append(f"{name}:{line}: {room} does without {top}")
    return found


def circles(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle for each folder whose files and rooms import each other in a circle; empty where there is none.

    >>> circles({"a.b.x": ["a.c.y"], "a.c.z": ["a.b.w"]})
    ['a: b -> c -> b']
    >>> circles({"a.b.x": ["a.c.y"], "a.c.y": ["a.d"]})
    []
    """
    inside: dict[str, dict[str, set[str]]] = {}
    for name, others in arrows.items():
        for other in others:
            mine, theirs = name.split("."), other.split(".")
            depth = next((i for i, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), None)
            if depth is not None:
                inside.setdefault(".".join(mine[:depth]), {}).setdefault(mine[depth], set()).add(theirs[depth])
    found = []
    for folder, graph in sorted(inside.items()):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = list(reversed(error.args[1]))
            start = circle.index(min(circle))
            found.append(f"{folder}: {' -> '.join([*circle[start:-1], *circle[:start], circle[start]])}")
    return found


def test_every_room_imports_only_what_stands_below_it() -> None:
    own = modules()
    assert len(own) > 200, "most modules were not found: the test would pass by testing nothing"
    found = []
    for name, file in own.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        found += breaches(name, file.read_text(), package)
    assert found == []


def test_every_floor_is_inhabited() -> None:
    own = modules()
    rooms = [room for rooms in FLOORS for room in rooms]
    assert [room for room in rooms if not any(within(name, room) for name in own)] == []


def test_no_imports_go_in_a_circle() -> None:
    own = modules()
    arrows: dict[str, set[str]] = {}
    for name, file in own.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for _, other in imported(ast.parse(file.read_text()), package):
            target = other if other in own else other.rpartition(".")[0]
            if target in own and not within(name, target):
                arrows.setdefault(name, set()).add(target)
    assert circles(arrows) == []


def test_nothing_uses_the_names_that_the_rooms_have_at_the_root() -> None:
    """A module that is imported under two names exists twice: two classes of errors, two sets of metrics."""
    found = []
    for file in sorted(ROOT.glob("tests/**/*.py")) + sorted(ROOT.glob("docs/**/*.py")) + [ROOT / "conftest.py"]:
        for line, other in imported(ast.parse(file.read_text()), "tests"):
            if other.partition(".")[0] in LINKED:
                found.append(f"{file.relative_to(ROOT)}:{line}: {other}")
    assert found == []


#: `__init__` files whose docstring is for the users of one name, not for readers of the room.
FRONT_DOORS = {"layercache", "benchmarks", "examples"}


def told_modules(docstring: str) -> set[str]:
    """What a room's docstring names as its own; another room's modules it names in full.

    >>> sorted(told_modules("First :mod:`b`, then :mod:`a`, unlike :mod:`layercache.stream`."))
    ['a', 'b']
    """
    return {name for name in re.findall(r":mod:`(\w+)`", docstring)} - {"layercache"}


def test_every_room_opens_with_a_docstring_that_names_all_its_modules_and_no_others() -> None:
    own = modules()
    rooms = {name: file for name, file in own.items() if file.name == "__init__.py" and name not in FRONT_DOORS}
    assert len(rooms) > 30, "most rooms were not found: the test would pass by testing nothing"
    found = []
    for room, file in rooms.items():
        inside = {name.removeprefix(f"{room}.") for name in own if name.startswith(f"{room}.")}
        here = {name for name in inside if "." not in name} - {"__main__", "conftest"}
        told = told_modules(ast.get_docstring(ast.parse(file.read_text())) or "")
        found += [f"{room} does not name {name}" for name in sorted(here - told)]
        found += [f"{room} has no {name}" for name in sorted(told - here)]
    assert found == []


@pytest.mark.parametrize("room", LINKED)
def test_links_are_relative_and_lead_to_the_room(room: str) -> None:
    link = ROOT / "layercache" / room
    assert link.is_symlink(), f"{link} must be a link: git config core.symlinks true, then check it out again"
    assert str(link.readlink()) == f"../{room}"


def test_examples_stand_on_their_own() -> None:
    """Users import ``layercache`` alone, and so do the files that we show."""
    files = sorted((ROOT / "examples").rglob("*.py"))
    assert files
    for file in files:
        for _, other in imported(ast.parse(file.read_text()), "examples"):
            assert other.count(".") <= 1 or not other.startswith("layercache."), f"{file} imports {other}"


@pytest.mark.parametrize(
    ("name", "source", "breach"),
    [
        ("layercache.schemas.x", "import layercache.early_exit", "may not import layercache.early_exit"),
        ("layercache.schemas.x", "import torch.nn", "does without torch"),
        ("layercache.early_exit.engine", "from layercache.stream.worker import service", "may not import"),
        ("layercache.early_exit.model.x", "from layercache.early_exit.cutting import cuts", "may not import"),
        ("layercache.early_exit.engine", "def f():\n    import confluent_kafka", "does without confluent_kafka"),
        ("layercache.stream.worker.loop", "from layercache.cache_training.service import app", "may not import"),
        ("layercache.stream.watching", "import importlib\nimportlib.import_module('layercache.cli')", "may not import"),
        ("layercache.stream.frames.x", "if TYPE_CHECKING:\n    import faust", "does without faust"),
        ("layercache.stream.kafka.x", "from ..worker import loop", "may not import layercache.stream.worker.loop"),
        ("layercache.cache_training.service.app", "import layercache.stream.watching", "may not import"),
        ("layercache.dashboard.x", "from layercache.demo import run", "may not import layercache.demo.run"),
        ("layercache.cli.main", "from tests.support import ports", "may not import tests.support.ports"),
        ("benchmarks.plumbing", "from tests.support import ports", "may not import tests.support.ports"),
        ("layercache.cli.main", "from stream.kafka import topics", "has one name, layercache.stream.kafka.topics"),
    ],
)
def test_the_check_finds_a_breach(name: str, source: str, breach: str) -> None:
    (found,) = breaches(name, source)
    assert breach in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("layercache.schemas.x", "import msgspec\nfrom layercache.schemas.frame import x"),
        (
            "layercache.early_exit.engine",
            "import torch\nfrom layercache.schemas.x import M\nfrom . import heads",
        ),
        ("layercache.stream.worker.loop", "import confluent_kafka\nfrom layercache.early_exit.engine import Engine"),
        ("layercache.cache_training.service.app", "import faust\nimport layercache.stream.kafka.clients"),
        ("layercache.cli.main", "import layercache.stream.watching, layercache.cache_training.trainer"),
        ("testbed.worker_process", "from layercache.schemas.settings import Settings"),
    ],
)
def test_the_check_lets_the_design_pass(name: str, source: str) -> None:
    assert breaches(name, source) == []
