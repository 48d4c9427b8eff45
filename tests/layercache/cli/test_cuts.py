"""``layercache cuts`` lists places with their costs, for people and for scripts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from layercache.cli.main import app
from tests.support.tiny_model import TinyModel

runner = CliRunner()


def options(model: TinyModel) -> list[str]:
    return ["--model", model.settings.spec, "--weights", str(model.settings.weights)]


def test_lists_every_cut_for_people(tiny_model: TinyModel) -> None:
    result = runner.invoke(app, ["cuts", *options(tiny_model)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    first = next(line.split() for line in lines if "first " in line)
    assert first[:4] == ["*", "first", "8×16×16", "chw"]
    assert first[4] == "42.8%"
    assert "GFLOPs" in lines[-1]
    assert any("flatten" in line for line in lines)


def test_lists_the_proposed_ones_alone(tiny_model: TinyModel) -> None:
    result = runner.invoke(app, ["cuts", *options(tiny_model), "--proposed"])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if "×" in line or "flatten" in line]
    assert [row[:2] for row in rows] == [["*", "first"], ["*", "second"]]
    assert "cuts, 2 of them proposed" in result.output


def test_gives_scripts_the_same_as_json(tiny_model: TinyModel) -> None:
    result = runner.invoke(app, ["cuts", *options(tiny_model), "--json"])
    assert result.exit_code == 0, result.output
    table = json.loads(result.stdout)
    assert table["model"] == "tiny"
    assert table["flops"] == 258096
    cuts = {cut["name"]: cut for cut in table["cuts"]}
    assert cuts["second"]["shape"] == [8, 8, 8]
    assert cuts["second"]["layout"] == "chw"
    assert [name for name, cut in cuts.items() if cut["proposed"]] == ["first", "second"]
    assert all(0 < cut["time_share"] < 1 for cut in cuts.values())


def test_proposes_as_many_as_the_settings_allow(tiny_model: TinyModel, tmp_path: Path) -> None:
    config = tmp_path / "layercache.toml"
    config.write_text(f'[model]\nspec = "{tiny_model.settings.spec}"\n[trainer]\nmax_cuts = 1\n')
    result = runner.invoke(app, ["cuts", "--config", str(config), "--json"])
    assert result.exit_code == 0, result.output
    assert sum(cut["proposed"] for cut in json.loads(result.stdout)["cuts"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "torchvision:resnet19"], "did you mean resnet1"),
        (["--model", "timm:resnet19"], "did you mean resnet1"),
        (["--model", "no/file.py:build"], "no Python file at no/file.py"),
        (["--model", "torchvision:resnet18", "--dtype", "float8"], "Invalid value for '--dtype'"),
        (["--config", "none.toml"], "none.toml"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(arguments: list[str], message: str) -> None:
    result = runner.invoke(app, ["cuts", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_help_has_an_example() -> None:
    result = runner.invoke(app, ["cuts", "--help"])
    assert result.exit_code == 0
    assert "layercache cuts --model torchvision:resnet50" in result.output
