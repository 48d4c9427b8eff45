"""``layercache doctor``: what it prints, as text and as JSON, and its exit codes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from layercache.cli.main import app
from layercache.schemas.settings import Settings
from layercache.stream.kafka.topics import create
from testbed.ports import free_ports
from testbed.topics import unique_topics
from testbed.trainer_process import as_toml
from tests.conftest import Broker

ROOT = Path(__file__).parents[3]
DEMO = ("--model", str(ROOT / "examples/fashion_mnist.py:build"))


def doctor(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments], prog_name="layercache")
    return result.exit_code, result.stdout


@pytest.fixture
def nobody() -> str:
    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


def test_on_the_demos_model_with_a_broker_and_topics_all_is_well(embedded_broker: Broker, tmp_path: Path) -> None:
    settings = Settings(kafka=embedded_broker.kafka, topics=unique_topics())
    create(settings)
    config = tmp_path / "layercache.toml"
    config.write_text(as_toml(settings))
    code, out = doctor("--config", str(config), *DEMO, "--store-url", f"file://{tmp_path}/heads")
    assert code == 0, out
    assert "fashion-mnist: 10 classes, frames of 1 × 28 × 28, on cpu" in out
    assert "heads are tried at relu, layer1, layer2.0, layer3.0, layer3" in out
    assert re.search(r"the full model runs by (OpenVINO|PyTorch): .*in batches of 1 ", out)
    assert "the trainer may compile it in int8 and in bfloat16" in out
    assert re.search(
        r"ms a frame in batches of 1 / 32: PyTorch [\d.]+ / [\d.]+, OpenVINO float32 [\d.]+ / [\d.]+, "
        r"OpenVINO bfloat16 [\d.]+ / [\d.]+, OpenVINO int8 [\d.]+ / [\d.]+",
        out,
    )
    assert "none yet: every frame runs the full model until a trainer publishes one" in out
    assert f"{settings.topics.frames}: partitions: 2" in out
    assert "errors: 0" in out or "all well" in out
    assert not (tmp_path / "heads").exists()


def test_of_resnet18_without_weights_and_without_a_broker_it_says_what_to_give(nobody: str, tmp_path: Path) -> None:
    code, out = doctor(
        "--model", "torchvision:resnet18", "--runtime", "torch", "--bootstrap", nobody, "--store-url",
        f"file://{tmp_path}",
    )  # fmt: skip
    assert code == 1
    assert "torchvision:resnet18: 1000 classes, frames of 3 × 224 × 224, on cpu, but no weights" in out
    assert "give --weights (model.weights): a file, or DEFAULT" in out
    assert "the full model runs by PyTorch: model.runtime is torch" in out
    assert "compiled exits: none (model.runtime is torch)" in out
    assert "other runtimes" not in out
    assert f"no answer from Kafka at {nobody}" in out
    assert "topics: the broker does not answer" in out
    assert "a probe file was written and removed" in out
    assert list(tmp_path.iterdir()) == []


def test_as_json_every_finding_has_its_state_and_no_secret_is_shown(nobody: str, tmp_path: Path) -> None:
    secret = "correct-horse-battery"
    code, out = doctor(
        *DEMO, "--runtime", "torch", "--bootstrap", nobody, "--store-url", f"file://{tmp_path}", "--json", "-X",
        "security.protocol=SASL_SSL", "-X", "sasl.mechanism=PLAIN", "-X", "sasl.username=me", "-X",
        f"sasl.password={secret}",
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(out)
    assert code == 1
    assert secret not in out
    assert {one["area"] for one in found} == {"machine", "model", "store", "heads", "broker", "topics", "groups"}
    assert {one["state"] for one in found} <= {"ok", "warning", "error", "skipped"}
    assert all(one["fix"] for one in found if one["state"] in ("warning", "error"))
    (reach,) = [one for one in found if one["check"] == "reach"]
    assert reach["state"] == "error"


def test_settings_that_are_wrong_are_named_before_anything_is_looked_at() -> None:
    result = CliRunner().invoke(app, ["doctor", "--max-disagreement", "7"], prog_name="layercache")
    assert result.exit_code == 2
    assert "promise.max_disagreement" in result.stderr
