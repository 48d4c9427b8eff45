"""The public Python API: ``import layercache``."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import layercache

SOURCE = Path(layercache.__file__)


def declared_for_type_checkers() -> dict[str, tuple[str | None, str]]:
    """Public name to module and name there, as the ``if TYPE_CHECKING`` block imports them."""
    (block,) = [node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If)]
    return {
        alias.asname or alias.name: (line.module, alias.name)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }


def test_type_checkers_see_the_names_that_there_are() -> None:
    assert {*declared_for_type_checkers(), "__version__"} == set(layercache.__all__) == set(dir(layercache))


@pytest.mark.parametrize("name", sorted(declared_for_type_checkers()))
def test_each_name_is_what_type_checkers_take_it_for(name: str) -> None:
    module, attribute = declared_for_type_checkers()[name]
    assert module is not None
    assert getattr(layercache, name) is getattr(importlib.import_module(module), attribute)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'layercache' has no attribute 'unheard_of'"):
        layercache.unheard_of  # noqa: B018


@pytest.mark.process
def test_the_package_alone_loads_neither_torch_nor_kafka() -> None:
    program = "import sys, layercache; print({'torch', 'confluent_kafka', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
