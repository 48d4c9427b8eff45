"""``layercache profile`` measures segments and heads by batch size, for people and for scripts."""

import json
from pathlib import Path

from typer.testing import CliRunner

from layercache.cli.main import app
from layercache.schemas.settings import Settings, Store
from tests.support.heads import publish_heads
from tests.support.tiny_model import TinyModel

runner = CliRunner()


def options(model: TinyModel, store: Path, runtime: str = "torch") -> list[str]:
    files = ["--model", model.settings.spec, "--weights", str(model.settings.weights), "--runtime", runtime]
    return ["profile", *files, "--store-url", f"file://{store}", "--threads", "1"]


def test_shows_milliseconds_per_frame_by_batch_size(tiny_model: TinyModel, tmp_path: Path) -> None:
    result = runner.invoke(app, [*options(tiny_model, tmp_path), "--batch", "8", "--batch", "1"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["1", "8", "share", "at", "8", "8", "against", "1"] in lines
    rows = {" ".join(line[:-4]): line[-4:] for line in lines if line and line[-1].endswith("%")}
    assert list(rows) == ["to first", "to second", "to the end", "the model"]
    assert rows["the model"][2] == "100.0%"
    assert float(rows["the model"][0]) > 0


def test_gives_scripts_whole_batches_and_the_heads_that_workers_use(tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = Settings(model=tiny_model.settings, store=Store(url=f"file://{tmp_path}"))
    publish_heads(settings, "20260101T000000-0001", "red")
    result = runner.invoke(app, [*options(tiny_model, tmp_path), "--batch", "2", "--json"])
    assert result.exit_code == 0, result.output
    profile = json.loads(result.stdout)
    assert profile["heads_version"] == "20260101T000000-0001"
    assert profile["threads"] == 1
    assert [piece["name"] for piece in profile["pieces"]] == ["to first", "head first", "to the end"]
    to_first, head, to_end = (piece["ms"]["2"] for piece in profile["pieces"])
    assert profile["model_ms"]["2"] == to_first + to_end
    assert profile["pieces"][1]["share"]["2"] == head / profile["model_ms"]["2"]


def test_it_measures_the_whole_model_by_every_runtime_and_says_which_one_runs_it_and_why(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    arguments = [*options(tiny_model, tmp_path, "openvino"), "--batch", "1", "--batch", "4"]
    result = runner.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    profile = json.loads(result.stdout)
    assert profile["full_model"]["runtime"] == "openvino"
    assert profile["full_model"]["reason"].startswith("in batches of 1 ")
    assert profile["compiled_exits"] == {"precisions": ["int8", "bfloat16"], "reason": ""}
    assert [one["name"] for one in profile["runtimes"]] == [
        "PyTorch", "OpenVINO float32", "OpenVINO bfloat16", "OpenVINO int8",
    ]  # fmt: skip
    assert all(one["ms"]["4"] > 0 < one["ms"]["1"] for one in profile["runtimes"])
    assert profile["runtimes_note"] == ""
    text = runner.invoke(app, arguments).stdout
    assert "The full model runs by OpenVINO float32: in batches of 1 " in text
    assert "The trainer may compile it as an exit in int8 and in bfloat16." in text
    rows = [line.split() for line in text.splitlines()]
    assert [row[1] for row in rows if row[:1] == ["OpenVINO"] and len(row) == 4] == ["float32", "bfloat16", "int8"]


def test_by_pytorch_alone_nothing_is_compiled_and_the_reason_is_told_once(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    result = runner.invoke(app, [*options(tiny_model, tmp_path), "--batch", "1"])
    assert "The full model runs by PyTorch: model.runtime is torch." in result.stdout
    assert "The trainer compiles no exit: model.runtime is torch." in result.stdout
    assert "Not measured" not in result.stdout
    (row,) = [line.split() for line in result.stdout.splitlines() if line.strip().startswith("PyTorch ")]
    assert float(row[1]) > 0


def test_what_cannot_be_run_as_the_settings_want_it_is_wrong_usage(tiny_model: TinyModel, tmp_path: Path) -> None:
    result = runner.invoke(app, [*options(tiny_model, tmp_path, "openvino"), "--dtype", "bfloat16"])
    assert result.exit_code == 2
    assert "model.runtime is openvino, but model.dtype is bfloat16" in result.stderr


def test_a_batch_of_no_frames_is_wrong_usage(tiny_model: TinyModel, tmp_path: Path) -> None:
    result = runner.invoke(app, [*options(tiny_model, tmp_path), "--batch", "0"])
    assert result.exit_code == 2
    assert "--batch" in result.stderr
