"""TOML, YAML and JSON on the pages is what it says; settings are settings that there are."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from layercache.early_exit.model import metadata
from layercache.schemas import settings
from tests.docs.pages import Found, blocks, named, pages
from tests.docs.shell import stack

SECTIONS = settings.Settings.model_fields.keys()


@pytest.fixture(autouse=True)
def every_secret_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of secrets that the pages name are those of the reader."""
    monkeypatch.setattr(settings, "read_secret", lambda path: "a secret of more than thirty-two characters")


def found(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.where) for page in pages() for block in blocks(page, *languages)]


@pytest.mark.parametrize("block", found("toml"))
def test_toml_is_settings_or_what_a_model_needs(block: Found, tmp_path: Path) -> None:
    document = tomllib.loads(block.text)
    file = tmp_path / "block.toml"
    file.write_text(block.text)
    if document.keys() <= SECTIONS:
        loaded = settings.load(file)
        assert loaded.model_fields_set >= document.keys()
    else:
        read = metadata.read(file)
        assert read.preprocessing is not None
        assert len(read.classes or ()) == len(document["classes"])


def test_there_are_settings_on_the_pages_to_check() -> None:
    assert sum(tomllib.loads(block.text).keys() <= SECTIONS for page in pages() for block in blocks(page, "toml")) > 5


def test_yaml_is_whole_and_knows_the_stacks_services() -> None:
    for page in pages():
        for block in blocks(page, "yaml", "yml"):
            document = yaml.safe_load(block.text)
            assert document, block.where
            if isinstance(document, dict) and "services" in document:
                assert document["services"].keys() <= stack()["services"].keys(), block.where


def test_json_is_whole() -> None:
    texts = [block.text for page in pages() for block in blocks(page, "json")]
    assert texts
    assert all(map(json.loads, texts))


def test_every_block_says_its_language() -> None:
    """A fence without a language is plain text: a picture, a line of a log. Misspelt ones would go unchecked."""
    known = {"", "sh", "bash", "console", "python", "toml", "yaml", "json", "math", "promql", "text", "nginx"}
    for page in pages():
        for line in page.read_text().splitlines():
            if line.startswith("```") and line.strip("`"):
                assert line.strip("`").split()[0] in known, f"{named(page)}: {line}"
