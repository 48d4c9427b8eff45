"""``layercache heads``: what an operator sees and does, in text and as JSON."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from layercache.cli import main
from layercache.early_exit.model import loading
from layercache.early_exit.store.head_store import HeadStore, open_store
from layercache.presenting.heads_view import print_version
from layercache.schemas.manifest import ClassResult, CompiledPath, Expected
from layercache.schemas.settings import Store
from tests.support.manifests import manifest, name, overload, tensors
from tests.support.tiny_model import TinyModel

Heads = Callable[..., Result]


@pytest.fixture
def options(tiny_model: TinyModel, tmp_path: Path) -> list[str]:
    return [
        *("--model", tiny_model.settings.spec),
        *("--weights", str(tiny_model.settings.weights)),
        *("--store-url", f"file://{tmp_path}/heads"),
    ]


@pytest.fixture
def heads(options: list[str]) -> Heads:
    return lambda *arguments: CliRunner().invoke(main.app, ["heads", *arguments, *options])


@pytest.fixture
def store(tiny_model: TinyModel, tmp_path: Path) -> HeadStore:
    """The tiny model's store, with versions 0 to 2."""
    model = loading.load(tiny_model.settings)
    store = open_store(Store(url=f"file://{tmp_path}/heads"), model.name, model.fingerprint)
    for number in range(3):
        store.publish(manifest(number, number - 1 if number else None, model.fingerprint), tensors(number))
    return store


def state(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_an_empty_store_is_no_error(heads: Heads) -> None:
    result = heads("list")
    assert result.exit_code == 0
    assert "no version yet: every frame runs the full model" in result.output
    assert state(heads("list", "--json"))["versions"] == []


def test_lists_versions_newest_first_and_marks_the_one_in_use(heads: Heads, store: HeadStore) -> None:
    store.claim_attempt()
    result = heads("list")
    assert result.exit_code == 0
    rows = [line.split() for line in result.output.splitlines() if "v000" in line and "file://" not in line]
    assert [row[:2] for row in rows] == [["*", name(2)], [name(1), rows[1][1]], [name(0), rows[2][1]]]
    assert "70.0%" in rows[0]
    assert "0.80%" in rows[0]
    listed = state(heads("list", "--json"))
    assert listed["live"] == {"version": name(2), "closed": False, "pinned": False}
    assert listed["attempts"] == 1
    assert [version["version"] for version in listed["versions"]] == [name(2), name(1), name(0)]
    assert listed["versions"][0]["exits"] == ["first"]
    assert listed["versions"][0]["hit_rate"] == 0.7


def test_shows_the_version_in_use_or_any_other(heads: Heads, store: HeadStore) -> None:
    result = heads("show")
    assert result.exit_code == 0
    assert f"{name(2)} of tiny" in result.output
    assert "certified for 1.00% at 95%: risk at most" in " ".join(result.output.split())
    shown = state(heads("show", name(1), "--json"))
    assert shown["version"] == name(1)
    assert shown["certificate"]["attempt"] == 2


def test_show_tells_whose_error_an_attempt_had(heads: Heads, store: HeadStore) -> None:
    shown, held = store.load(name(2))
    assert shown.certificate is not None
    certificate = msgspec.structs.replace(
        shown.certificate, error=0.0333, recycled=0.025, recycled_from=(1, 2), looks=2
    )
    store.publish(msgspec.structs.replace(shown, version=name(3), certificate=certificate), held)
    said = " ".join(heads("show").output.split())
    assert "(attempt 3, look 2, p = 0.003 of 0.033, with the error that attempts 1 and 2 passed on)" in said
    assert "passed on" not in heads("show", name(2)).output


def test_a_model_in_int8_is_shown_as_what_it_is_and_saves_time_alone(capsys: pytest.CaptureFixture[str]) -> None:
    shown = manifest(2)
    (first,) = shown.exits
    end = msgspec.structs.replace(first, cut="int8", head=None, threshold=0.7, flops_share=1.06, time_share=0.26)
    version = msgspec.structs.replace(
        shown, version=name(3), exits=(first, end), full_flops_share=2.06, full_time_share=1.31,
        path=CompiledPath(precision="int8", graphs=("aa", "bb"), made_by="openvino 2026.4"),
        expected=Expected(hit_rate=0.98, flops_saved=-0.034, time_saved=0.74),
    )  # fmt: skip
    print_version(version)
    said = " ".join(capsys.readouterr().out.split())
    assert "int8 the whole model 1.5 0.7000 26.0% 106.0%" in said
    assert "full the model itself 131.0% 206.0%" in said
    assert "exits run compiled, in int8 (made by openvino 2026.4); what none is sure of runs the model itself" in said
    assert "expected: 98.0% hits, saving 74.0% of time, but no FLOPs (3.4% more are spent)" in said
    assert "-3.4%" not in said


def test_show_tells_which_classes_differed_and_how_far_each_is_certified(heads: Heads, store: HeadStore) -> None:
    shown, held = store.load(name(2))
    assert shown.certificate is not None
    worst = ClassResult(label=1, name="[b]cat", frames=120, disagreements=2, upper_bound=0.06)
    certificate = msgspec.structs.replace(
        shown.certificate,
        max_class_disagreement=0.1, classes_tested=2, class_upper_bound=0.08, worst_classes=(worst,),
    )  # fmt: skip
    store.publish(msgspec.structs.replace(shown, version=name(3), certificate=certificate), held)
    said = " ".join(heads("show").output.split())
    assert "certified for 10.00% within each of 2 classes, and within all others together: risk at most 8.00%" in said
    assert "[b]cat (1) 120 2 6.0%" in said
    assert "within each" not in heads("show", name(2)).output


def test_show_tells_what_a_worker_that_is_behind_may_do(heads: Heads, store: HeadStore) -> None:
    shown, held = store.load(name(2))
    store.publish(msgspec.structs.replace(shown, version=name(3), overload=overload((0.75,), 0.03)), held)
    said = " ".join(heads("show").output.split())
    everyday, _, wider = said.partition("under overload, thresholds 0.7500")
    assert "certified for 1.00% at 95%: risk at most 0.80%; 2 of 1,000 audits differ" in everyday
    assert "certified for 3.00% at 95%: risk at most 2.40%; 2 of 1,000 audits differ" in wider
    assert "expected: 90.0% hits, saving 55.0% of time and 60.0% of FLOPs" in wider
    assert "under overload" not in heads("show", name(2)).output
    listed = state(heads("list", "--json"))["versions"]
    assert [one["overload_upper_bound"] for one in listed] == [0.024, None, None, None]
    assert listed[0]["overload_max_disagreement"] == 0.03


def test_show_tells_of_damage(heads: Heads, store: HeadStore) -> None:
    file = Path(store.url.removeprefix("file://")) / name(1) / "heads.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    result = heads("show", name(1))
    assert result.exit_code == 1
    assert "heads.safetensors is corrupt" in str(result.exception)


def test_rolls_back_to_the_predecessor_or_to_any_version(heads: Heads, store: HeadStore) -> None:
    assert state(heads("rollback", "--json"))["live"]["version"] == name(1)
    assert state(heads("rollback", name(2), "--json"))["live"]["version"] == name(2)
    assert heads("rollback", name(0)).stdout.strip() == f"workers use {name(0)}"
    assert store.live().version == name(0)


def test_pins_and_unpins(heads: Heads, store: HeadStore) -> None:
    assert heads("pin", name(0), "--reason", "release freeze").stdout.strip() == (
        f"workers are held at {name(0)} (release freeze); latest is {name(2)}"
    )
    assert store.live().version == name(0)
    pinned = state(heads("list", "--json"))
    assert pinned["live"] == {"version": name(0), "closed": False, "pinned": True}
    assert pinned["reason"] == "release freeze"
    assert heads("unpin").stdout.strip() == f"workers use {name(2)}"
    assert state(heads("pin", "--json"))["live"]["version"] == name(2)


def test_closes_all_exits_until_unpinned(heads: Heads, store: HeadStore) -> None:
    assert heads("close", "--reason", "odd answers").stdout.startswith("all exits are kept closed (odd answers)")
    assert store.live().closed
    assert "kept closed" in heads("show").stderr
    assert state(heads("unpin", "--json"))["live"] == {"version": name(2), "closed": False, "pinned": False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "has no version in use yet"),
        (["pin"], "has no version in use to pin"),
        (["pin", "v9"], "has no version v9"),
        (["rollback"], "nothing to roll back"),
    ],
)
def test_what_cannot_be_done_exits_with_1_and_says_why(
    arguments: list[str],
    message: str,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["layercache", "heads", *arguments, *options])
    with pytest.raises(SystemExit) as raised:
        main.main()
    assert raised.value.code == 1
    assert message in capsys.readouterr().err


def test_a_wrong_model_or_store_is_told(heads: Heads, tiny_model: TinyModel) -> None:
    wrong_model = CliRunner().invoke(main.app, ["heads", "list", "--model", "torchvision:resnet19"])
    assert wrong_model.exit_code == 2
    assert "did you mean" in wrong_model.stderr
    random_weights = CliRunner().invoke(main.app, ["heads", "close", "--model", "torchvision:squeezenet1_1"])
    assert random_weights.exit_code == 2
    assert "whose heads?" in random_weights.stderr
    spec = ["--model", tiny_model.settings.spec]
    wrong_store = CliRunner().invoke(main.app, ["heads", "list", *spec, "--store-url", "foo://x"])
    assert wrong_store.exit_code == 1
    assert "store foo://x cannot be opened" in str(wrong_store.exception)
