"""``layercache report``: what it prints, and the files that it leaves."""

import json
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from layercache.cli.main import app
from testbed.commands import CapturedCommand
from testbed.waiting import wait_until
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, TinyModel

ROOT = Path(__file__).parents[3]
DEMO = ("--model", str(ROOT / "examples/fashion_mnist.py:build"))
DEMO_FRAMES = ("--frames", str(ROOT / "examples/fashion-mnist-frames.zip"))


def photos(folder: Path, count: int = 48) -> Path:
    folder.mkdir()
    for number in range(count):
        picture = coloured(CLASSES[number % 3], noise=number)
        (folder / f"{number:03d}.jpg").write_bytes(encode(picture, "JPEG"))
    return folder


def report(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["report", *arguments], prog_name="layercache")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_on_the_demos_model_with_few_frames_it_says_how_many_it_takes(tmp_path: Path) -> None:
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    code, out, err = report(
        *DEMO, *DEMO_FRAMES, "--frames-limit", "200", "--minutes", "0.1", "--threads", "1",
        "--out", str(page), "--json", str(numbers), "--label-pattern", r"-([^.]+)\.webp$",
    )  # fmt: skip
    assert code == 0, err
    assert "fashion-mnist: nothing could be certified at 1 % disagreement: too few frames" in out
    assert "at least 609 independent certification audits are needed at 95%" in out
    assert "about 983 independent frames" in out
    assert "Nothing certified at 0.5 %. Too few frames: at least 866" in out
    assert f"Report: {page}" in out
    assert "the exam: frames that the heads have never seen" in err
    found = json.loads(numbers.read_text())
    assert found["frames"]["streamed"] + found["frames"]["exam"] == 200
    assert found["frames"]["labelled"] == 200
    assert found["stream"]["full_accuracy"] > 0.85
    assert found["model"]["flops"] == 228_128_768
    assert [budget["max_disagreement"] for budget in found["budgets"]] == [0.005, 0.01, 0.02, 0.05]
    assert "fashion-mnist" in page.read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_the_demos_model_it_certifies_and_saves(tmp_path: Path) -> None:
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    code, out, err = report(
        *DEMO, *DEMO_FRAMES, "--frames-limit", "3000", "--minutes", "0.5", "--threads", "1",
        "--budget", "0.02", "--max-disagreement", "0.05", "--out", str(page), "--json", str(numbers),
    )  # fmt: skip
    assert code == 0, err
    assert "fashion-mnist: certified for 5 % disagreement:" in out
    five = json.loads(numbers.read_text())["budgets"][-1]
    assert (five["max_disagreement"], five["state"]) == (0.05, "certified")
    assert five["certificate"]["upper_bound"] <= 0.05
    assert five["exam"]["lowest"] <= 0.05
    assert five["exam"]["time_saved"] > 0.3  # by the model in int8, which saves no FLOPs, if by nothing else


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_of_resnet18_without_weights_it_says_what_it_sees(tmp_path: Path) -> None:
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    code, out, err = report(
        "--model", "torchvision:resnet18", "--frames", str(photos(tmp_path / "photos")), "--minutes", "0.1",
        "--out", str(page), "--json", str(numbers),
    )  # fmt: skip
    assert code == 0, err
    assert "torchvision:resnet18: nothing could be certified at 1 % disagreement" in out
    assert "warning: The model has no weights. torchvision:resnet18 was built without weights" in out
    assert "trainer.replay_mb" in out  # 512 MB hold too few frames of 224 x 224 for half a percent
    found = json.loads(numbers.read_text())
    assert found["frames"]["classes_seen"] <= 48
    assert ("The model answers nearly one class" in out) == (found["frames"]["top_class_share"] >= 0.8)
    assert found["model"]["has_weights"] is False
    assert "The model has no weights" in page.read_text()


@pytest.mark.process
def test_ctrl_c_leaves_a_report_of_what_was_seen(tiny_model: TinyModel, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    model = ("--model", tiny_model.settings.spec, "--weights", str(tiny_model.settings.weights))
    with CapturedCommand(
        "report", *model, "--frames", photos(tmp_path / "photos", 400), "--minutes", 30, "--out", page
    ) as report:
        wait_until(
            lambda: "\nthe stream" in report.output()[1] or report.process.poll() is not None, "the stream's line"
        )
        report.process.send_signal(signal.SIGINT)
        done = report.end(120)
    assert done.returncode == 130, done.stderr
    assert "warning: Stopped early" in done.stdout
    assert "Stopped early" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--frames", "nowhere"), "nowhere: there is no such file or folder"),
        (("--frames", ".", "--label-pattern", "x"), "--label-pattern x: has 0 groups"),
        (("--frames", ".", "--out", "nowhere/report.html"), "nowhere/report.html: cannot be written"),
    ],
)
def test_wrong_usage_says_what_to_give(tiny_model: TinyModel, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = report("--model", tiny_model.settings.spec, *arguments)
    assert code == 2
    assert said in err
