"""Which folder may import which: DESIGN's table of rooms, read off the source files themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "schemas": set[str](),
    "early_exit": {"schemas"},
    "stream": {"schemas", "early_exit"},
    "cache_training": {"schemas", "early_exit"},
    "layercache": {"schemas", "early_exit", "stream", "cache_training"},
}
KAFKA = {"confluent_kafka", "faust", "aiokafka", "mode"}
MAY_NOT_IMPORT = {
    "schemas": KAFKA | {"torch", "torchvision"},
    "early_exit": KAFKA,
    "stream": {"faust", "aiokafka", "mode"},
    "cache_training": set[str](),
    "layercache": set[str](),
}


def imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and top-level name of everything imported anywhere in a file of ``package``, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, package if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and _names_import(node.func) and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value.partition(".")[0]


def _names_import(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name in {"import_module", "__import__"}


def breaches(room: str, source: str, where: str) -> list[str]:
    """What ``source``, a file of ``room``, imports though it may not, one readable line each."""
    forbidden = (set(MAY_IMPORT) | {"tests", "examples", "benchmarks"}) - MAY_IMPORT[room] - {room}
    forbidden |= MAY_NOT_IMPORT[room]
    return [
        f"{where}:{line}: {room} may not import {name}"
        for line, name in imported(ast.parse(source), room)
        if name in forbidden
    ]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_the_design_allows(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{ROOT / room} has no files: the test would pass by testing nothing"
    found = [line for file in files for line in breaches(room, file.read_text(), str(file.relative_to(ROOT)))]
    assert found == []


@pytest.mark.parametrize("folder", ["examples"])
def test_examples_stand_on_their_own(folder: str) -> None:
    """Users import ``layercache`` alone, and so do the files that we show."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        inside = {name for _, name in imported(ast.parse(file.read_text()), folder)} & set(MAY_IMPORT)
        assert inside <= {"layercache"}, f"{file} imports {inside}"


@pytest.mark.parametrize(
    ("room", "source", "breach"),
    [
        ("schemas", "import early_exit", "schemas may not import early_exit"),
        ("schemas", "import torch.nn", "schemas may not import torch"),
        ("early_exit", "from stream.service import run", "early_exit may not import stream"),
        ("early_exit", "def f():\n    import confluent_kafka", "early_exit may not import confluent_kafka"),
        ("stream", "from cache_training import app", "stream may not import cache_training"),
        ("stream", "import importlib\nimportlib.import_module('layercache.cli')", "stream may not import layercache"),
        ("stream", "if TYPE_CHECKING:\n    import faust", "stream may not import faust"),
        ("cache_training", "import stream.clients as clients", "cache_training may not import stream"),
        ("layercache", "from tests.support import ports", "layercache may not import tests"),
    ],
)
def test_the_check_finds_a_breach(room: str, source: str, breach: str) -> None:
    assert [line.partition(": ")[2] for line in breaches(room, source, "file.py")] == [breach]


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("schemas", "import msgspec\nfrom schemas.frame import x"),
        ("early_exit", "import torch\nfrom schemas.manifest import Manifest\nfrom . import heads"),
        ("stream", "import confluent_kafka\nfrom early_exit.engine import Engine"),
        ("cache_training", "import faust\nimport early_exit.heads"),
        ("layercache", "import stream, cache_training"),
    ],
)
def test_the_check_lets_the_design_pass(room: str, source: str) -> None:
    assert breaches(room, source, "file.py") == []
