"""Every command on a page is one that there is, with the options that there are."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import blocks, inline_code, named, pages
from tests.docs.shell import Wrong, check, check_layercache, commands


@pytest.mark.parametrize("page", pages(), ids=named)
def test_commands_in_blocks_are_there(page: Path) -> None:
    wrong = []
    for block in blocks(page, "sh", "bash", "console", "shell"):
        for words in commands(block.text):
            try:
                check(words)
            except Wrong as error:
                wrong.append(f"{block.where}: {' '.join(words)}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", pages(), ids=named)
def test_commands_in_sentences_are_there(page: Path) -> None:
    wrong = []
    for code in inline_code(page):
        text = " ".join(code.text.split())
        try:
            if re.fullmatch(r"layercache( [a-z]+)+( \S+)*", text) and "|" not in text:
                arguments = [word for word in text.split()[1:] if word != "…"]
                check_layercache(arguments, whole=False)
            elif re.fullmatch(r"make [a-z-]+( \w+=\S.*)?", text):
                check(text.split(" ")[:2])
            elif text.startswith(("docker compose ", "python -m ")):
                check(next(commands(text)))
        except Wrong as error:
            wrong.append(f"{code.where}: {text}: {error}")
    assert wrong == []


def test_the_pages_have_commands_to_check() -> None:
    found = [words for page in pages() for block in blocks(page, "sh") for words in commands(block.text)]
    assert sum(words[0] == "layercache" for words in found) > 30
    assert sum(words[0] == "make" for words in found) > 5
    assert sum(words[:2] == ["docker", "compose"] for words in found) > 5


def test_a_script_is_taken_apart_into_its_commands() -> None:
    script = "A=1 make demo && cd x   # not this; nor this\nlayercache cuts \\\n  --proposed | jq -r '.a | .b'\n"
    assert list(commands(script)) == [
        ["make", "demo"],
        ["cd", "x"],
        ["layercache", "cuts", "--proposed"],
        ["jq", "-r", ".a | .b"],
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("layercache wroker", "wroker"),
        ("layercache worker --max-bach 8", "--max-bach"),
        ("layercache worker --mode fast", "fast"),
        ("layercache publish", "source"),
        ("make tests", "make has no tests"),
        ("make test PYTEST_ARG=x", "make has no PYTEST_ARG"),
        ("docker compose up wroker", "no service wroker"),
        ("docker compose --profile dmeo up", "no profile dmeo"),
        ("docker compose up --scale wroker=2", "no service wroker"),
        ("docker compose exec worker layercache heads lst", "lst"),
        ("python -m benchmarks.promises", "no module benchmarks.promises"),
        ("pip install -e '.[demmo]'", "no extra demmo"),
        ("lyercache worker", "lyercache"),
    ],
)
def test_a_mistake_is_found(command: str, said: str) -> None:
    with pytest.raises(Wrong, match=re.escape(said)):
        check(next(commands(command)))
