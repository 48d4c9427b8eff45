"""What people expect of a project that they are to trust: that these files are there, and that they are right."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from pre_commit.clientlib import load_config

from tests.docs.pages import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def hooks() -> dict[str, dict[str, Any]]:
    """Pre-commit's hooks by name, each with the revision of its repository; checked by pre-commit itself."""
    config = load_config(str(ROOT / ".pre-commit-config.yaml"))
    return {hook["id"]: hook | {"rev": repo.get("rev")} for repo in config["repos"] for hook in repo["hooks"]}


def test_the_version_is_semantic_and_has_one_source() -> None:
    version = PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert importlib.metadata.version("layercache") == version, "it was another when it was installed: pip install -e ."
    assert CITATION["version"] == version


def test_the_changelog_has_unreleased_changes_on_top_and_releases_in_order() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    releases = [re.fullmatch(r"\[?(\d+\.\d+\.\d+)\]? - (\d{4}-\d\d-\d\d)", heading) for heading in headings[1:]]
    assert all(releases), f"a release is headed `## 1.2.3 - 2026-12-31`; found {headings[1:]}"
    found = [(Version(release[1]), date.fromisoformat(release[2])) for release in releases if release]
    assert found == sorted(found, reverse=True)
    # Between releases the version is that of the latest one, or of the first one to come.
    assert not found or found[0][0] == Version(PROJECT["version"])


def test_the_changelog_says_what_kind_a_change_is() -> None:
    kinds = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_ruff_is_the_same_at_a_commit_and_in_make_check() -> None:
    (ruff,) = [one for one in map(Requirement, PROJECT["optional-dependencies"]["dev"]) if one.name == "ruff"]
    assert hooks()["ruff-check"]["rev"] == f"v{str(ruff.specifier).removeprefix('==')}"
    assert importlib.metadata.version("ruff") in ruff.specifier


def test_mypy_runs_at_a_commit_as_make_types_runs_it() -> None:
    assert "$(BIN)/mypy --strict" in (ROOT / "Makefile").read_text()
    assert hooks()["mypy"]["entry"] == ".venv/bin/mypy --strict"
    assert not hooks()["mypy"]["pass_filenames"], "of some files alone it would see less"


def test_the_citation_is_complete_and_names_the_paper() -> None:
    """The fields that CFF 1.2.0 asks for, of the software and of a reference."""
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION.keys() >= {"message", "title", "authors", "license", "type"}
    assert CITATION["license"] == PROJECT["license"]
    paper = CITATION["preferred-citation"]
    assert paper.keys() >= {"type", "title", "authors", "year"}
    assert paper["title"] == "Improving the Performance of DNN-based Software Services using Automated Layer Caching"
    assert [author["family-names"] for author in paper["authors"]] == ["Abedi", "Ioannou", "Jamshidi", "Hemmati"]
    assert any("2209.08625" in identifier["value"] for identifier in paper["identifiers"])
    assert paper["url"] in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_an_issue_form_is_one(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert form.keys() >= {"name", "description", "body"}
    inputs = [part for part in form["body"] if part["type"] != "markdown"]
    ids = [part["id"] for part in inputs]
    assert len(set(ids)) == len(ids)
    assert {part["type"] for part in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert all(part["attributes"]["label"] for part in inputs)


def test_vulnerabilities_have_a_private_way() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert "do not open a public issue" in text
    assert "Report a vulnerability" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_complete_commands_and_options(shell: str) -> None:
    """The script that ``--show-completion`` prints calls the command back; this asks as it does."""
    environment = os.environ | {
        "_LAYERCACHE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "layercache heads ro",
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": "layercache heads ro",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = [sys.executable, "-m", "layercache"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT, env=environment, timeout=60)
    assert "rollback" in done.stdout
    assert "publish" not in done.stdout
