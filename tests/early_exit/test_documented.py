"""Everything public in ``early_exit`` says what it is for, and what users call shows it by an example that runs."""

import doctest
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module

import pytest
from torch import nn

import layercache
from layercache import early_exit

#: Functions without an example, and why.
WITHOUT_EXAMPLE = {
    "compiled.allowed.allowed_precisions": "says what is installed",
    "compiled.allowed.refusal": "says what is installed",
    "compiled.graphs.convert": "OpenVINO may not be installed",
    "compiled.quantising.quantise": "NNCF may not be installed",
    "compiled.whole_models.answer_by": "OpenVINO may not be installed",
    "compiled.whole_models.convert_whole": "OpenVINO may not be installed",
    "cutting.layouts.layouts": "a step of liveness.profile, whose example shows what it finds",
    "heads.compiled_heads.compile_graph": "OpenVINO may not be installed",
    "heads.compiled_heads.load_path": "a step of loading.load_heads; OpenVINO may not be installed",
    "heads.compiling.compile_path": "OpenVINO may not be installed",
    "memory.keep_freed_memory": "changes malloc for the whole process",
    "model.metadata.of_timm": "timm may not be installed",
    "model.python_files.build": "a step of loading.load, whose example loads a user's file by it",
    "model.timm_models.build": "timm may not be installed",
    "model.torchvision_models.build": "a step of loading.load; its weights may have to be fetched",
    "runtimes.compared": "OpenVINO may not be installed",
    "model.weights.weights_file": "a step of loading.load, whose example finds a file by it",
}
#: What functions return; their examples show it.
HOLD_DATA = {"Answers", "CacheHeads", "Cut"}
#: What users make or call things on.
USED = {"Classifier", "Engine", "HeadStore", "Preprocessing", "TracedModel"}


def public(module_name: str) -> Iterator[tuple[str, object]]:
    """Name and object of what a module itself defines for others."""
    module = import_module(f"layercache.early_exit.{module_name}")
    for name, one in vars(module).items():
        own = (inspect.isclass(one) or inspect.isfunction(one)) and one.__module__ == module.__name__
        if own and not name.startswith("_"):
            yield f"{module_name}.{name}", one


def members(one: object) -> Iterator[tuple[str, object]]:
    """The methods and properties that a class itself defines for others; ``forward`` is described by its class."""
    if not isinstance(one, type):
        return
    for name, member in vars(one).items():
        hidden = name.startswith("_") or (issubclass(one, nn.Module) and name in ("forward", "extra_repr"))
        if not hidden and (inspect.isfunction(member) or isinstance(member, property)):
            yield name, member


def runs_examples(one: object) -> bool:
    documents = [one.__doc__ or "", *(member.__doc__ or "" for _, member in members(one))]
    examples = [example for document in documents for example in doctest.DocTestParser().get_examples(document)]
    return any(not example.options.get(doctest.SKIP) for example in examples)


MODULES = [
    module.name.removeprefix("layercache.early_exit.")
    for module in pkgutil.walk_packages(early_exit.__path__, "layercache.early_exit.")
]
FOUND = {name: one for module in MODULES for name, one in public(module)}
FUNCTIONS = [name for name, one in FOUND.items() if inspect.isfunction(one)]


def test_the_names_are_found() -> None:
    assert {"cutting.cuts.trace", "engine.Engine", "store.head_store.HeadStore", "policy.cascade"} <= FOUND.keys()
    assert {name for name, _ in members(FOUND["engine.Engine"])} == {
        "overloaded",
        "run",
        "score",
        "warm_up",
        "segment_ms",
    }


@pytest.mark.parametrize("name", FOUND)
def test_every_public_name_says_what_it_is_for(name: str) -> None:
    one = FOUND[name]
    documents = {name: one.__doc__} | {f"{name}.{part}": member.__doc__ for part, member in members(one)}
    for documented, text in documents.items():
        sentence = inspect.cleandoc(text or "").split("\n\n")[0]
        # a dataclass without a docstring gets its signature for one
        assert sentence and not sentence.startswith(f"{name.rpartition('.')[2]}("), f"{documented} has no docstring"
        assert sentence[-1] in ".:", f"{documented} begins with no sentence: {sentence}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example_that_runs(name: str) -> None:
    assert runs_examples(FOUND[name]) is (name not in WITHOUT_EXAMPLE)


def test_the_reasons_are_of_functions_that_there_are() -> None:
    assert WITHOUT_EXAMPLE.keys() <= set(FUNCTIONS)


@pytest.mark.parametrize("name", sorted(USED))
def test_every_class_that_users_import_has_an_example_that_runs(name: str) -> None:
    assert runs_examples(getattr(layercache, name))


def test_these_are_all_the_classes_that_users_import() -> None:
    offered = {name for name in layercache.__all__ if inspect.isclass(getattr(layercache, name))}
    ours = {name for name in offered if getattr(layercache, name).__module__.startswith("layercache.early_exit.")}
    errors = {name for name in ours if issubclass(getattr(layercache, name), Exception)}
    assert ours - HOLD_DATA - errors == USED
