"""The report says what was measured, over all frames, and says so also where no exit ever opened."""

import json
from pathlib import Path

import matplotlib.image
import msgspec
import numpy as np
import pytest

from layercache.demo import chart
from layercache.demo.report import markdown
from layercache.measuring.columns import Columns, answered_per_s, collect, last_quarter, moving
from layercache.measuring.summary import Plain, Summary, summarise
from layercache.measuring.tally import Answer
from layercache.schemas.manifest import Manifest
from layercache.schemas.prediction import FULL
from tests.layercache.demo_streams import MACHINE, RACE, answer, manifest, stream

CLASSES = tuple(f"class {label}" for label in range(10))


def summary_of(columns: Columns, answers: list[Answer], versions: dict[str, Manifest]) -> Summary:
    return summarise(
        columns, answers, versions, RACE, MACHINE, budget=0.01, confidence=0.95, model="fashion-mnist", seed=0,
        classes=CLASSES,
    )  # fmt: skip


def a_report(frames: int = 1_000) -> tuple[Columns, Summary]:
    answers, audits, full, truth, versions = stream(frames)
    columns = collect(answers, audits, full, truth)
    return columns, summary_of(columns, answers, versions)


def test_shares_of_the_last_quarter_are_over_all_its_frames_audited_ones_included() -> None:
    heads = manifest("v1", {"layer1": 0.3})
    early = [answer(frame) for frame in range(12)]
    late = [
        answer(12, "layer1", heads, label=3),
        answer(13, "layer1", heads, label=4),
        answer(14, FULL, heads, label=5, audited=True),
        answer(15, FULL, heads, label=6),
    ]
    full = np.array([0] * 12 + [3, 7, 5, 6])
    truth = np.array([0] * 12 + [3, 4, 5, 9])
    summary = summary_of(collect(early + late, {(2, 3): True}, full, truth), early + late, {"v1": heads})
    quarter = summary.last_quarter
    assert quarter.frames == 4
    assert quarter.hit_rate == 0.5
    assert quarter.flops_saved == pytest.approx(1 - (0.3 + 0.3 + 1.02 + 1.02) / 4)
    assert quarter.time_saved == pytest.approx(1 - (0.3 + 0.3 + 1.0 + 1.0) / 4)
    assert quarter.disagreement == 0.25
    assert quarter.unaudited_disagreement == pytest.approx(1 / 3)
    assert (quarter.accuracy, quarter.full_accuracy) == (0.75, 0.5)
    assert quarter.audited == 0.25
    assert quarter.exits == {"layer1": 0.5, FULL: 0.5}
    assert (quarter.speedup, quarter.speedup_plain) == (RACE.speedup, RACE.speedup_plain)
    assert (quarter.plain_runtime, quarter.plain_disagreement) == ("OpenVINO int8", 0.012)
    assert summary.first_version_frame == 12
    assert (summary.audits.frames, summary.audits.disagreements) == (1, 1)
    assert summary.disagreement == 1 / 16
    assert [(version.version, version.at_frame) for version in summary.versions] == [("v1", 12)]


def test_disagreement_is_told_by_the_full_models_class_worst_first() -> None:
    heads = manifest("v1", {"layer1": 0.3})
    full = np.array([0] * 12 + [3, 3, 7, 7])
    given = [answer(frame) for frame in range(12)]
    given += [answer(12 + n, "layer1", heads, label=label) for n, label in enumerate((3, 7, 7, 7))]
    summary = summary_of(collect(given, {(1, 3): True}, full, full), given, {"v1": heads})
    assert [(one.name, one.frames, one.disagreement) for one in summary.classes] == [
        ("class 3", 2, 0.5), ("class 7", 2, 0.0)
    ]  # fmt: skip
    assert sum(one.audits for one in summary.classes) == sum(one.audit_disagreements for one in summary.classes) == 1
    assert "| class 3 | 50.00% | 2 |" in markdown(summary)


def test_without_heads_nothing_is_saved_and_nothing_differs() -> None:
    answers = [answer(frame, audited=True, predicted_ms=10 * frame) for frame in range(20)]
    labels = np.zeros(20, np.int64)
    columns = collect(answers, {}, labels, labels)
    race = msgspec.structs.replace(RACE, heads_version=None)
    summary = msgspec.structs.replace(summary_of(columns, answers, {}), race=race)
    assert (summary.hit_rate, summary.flops_saved, summary.disagreement) == (0.0, 0.0, 0.0)
    assert summary.last_quarter.unaudited_disagreement is None
    assert (summary.versions, summary.first_version_frame) == ((), None)
    assert "every frame ran the full path" in markdown(summary)
    assert "No exit was open at the end of the stream" in markdown(summary)


def int8_version(cut: str = "") -> Manifest:
    """The model in int8, which spends two models' FLOPs on a frame that it is not sure of; after an exit at ``cut``."""
    version = manifest("v1", ({cut: 0.3} if cut else {}) | {"int8": 1.0})
    *exits, end = version.exits
    end = msgspec.structs.replace(end, head=None, time_share=0.25)
    return msgspec.structs.replace(version, exits=(*exits, end), full_flops_share=2.0, full_time_share=1.25)


def test_a_model_in_int8_saves_time_and_the_text_says_that_it_saves_no_flops() -> None:
    heads = int8_version()
    answers = [answer(frame, "int8", heads) for frame in range(18)]
    answers += [answer(18, FULL, heads, audited=True), answer(19, FULL, heads)]
    labels = np.zeros(20, np.int64)
    summary = summary_of(collect(answers, {}, labels, labels), answers, {"v1": heads})
    assert summary.time_saved == pytest.approx(1 - (18 * 0.25 + 2 * 1.25) / 20)
    assert summary.flops_saved == pytest.approx(-0.1)
    assert summary.last_quarter.flops_saved == pytest.approx(-0.4)
    text = markdown(summary)
    assert "35.0% of the time was saved, though no FLOPs (40.0% more were spent: in int8" in text
    assert "| FLOPs saved, heads counted | none, 40.0% more | none, 10.0% more |" in text
    assert "-40" not in text
    assert "-10" not in text
    assert "`int8` the whole model (25%, 100%)" in text


def test_exits_are_listed_before_the_model_in_int8_and_that_before_the_full_model() -> None:
    heads = int8_version("layer3")
    answers = [answer(frame, ("layer3", "int8", FULL)[frame % 3], heads) for frame in range(12)]
    labels = np.zeros(12, np.int64)
    text = markdown(summary_of(collect(answers, {}, labels, labels), answers, {"v1": heads}))
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| answered")]
    assert rows == ["answered at `layer3`", "answered by the model in `int8`", "answered by the full model"]


def test_where_pytorch_is_the_best_there_is_the_text_says_so_and_why() -> None:
    _, summary = a_report()
    plain = Plain(name="PyTorch", disagreement=0.0, heats_fps={}, note="openvino is not installed")
    race = msgspec.structs.replace(RACE, plain=plain, speedup_plain=2.0)
    quarter = msgspec.structs.replace(summary.last_quarter, plain_runtime="PyTorch", speedup_plain=2.0)
    text = markdown(msgspec.structs.replace(summary, race=race, last_quarter=quarter))
    assert "as fast as the model by PyTorch, which is also the best plain runtime here." in text
    assert "That is PyTorch itself here (openvino is not installed)." in text
    assert "| median | 500 | 250 | **2.00** |\n" in text


def test_a_version_that_answered_no_frame_is_listed_without_one() -> None:
    answers, audits, full, truth, versions = stream(400)
    unused = manifest("v9", {"layer1": 0.3})
    summary = summary_of(collect(answers, audits, full, truth), answers, versions | {"v9": unused})
    assert {one.version: one.at_frame for one in summary.versions} == {"v1": 200, "v2": 300, "v9": None}
    assert "answered none" in markdown(summary)


def test_the_summary_file_holds_what_the_text_says(tmp_path: Path) -> None:
    _, summary = a_report()
    summary.write(tmp_path / "summary.json")
    read = json.loads((tmp_path / "summary.json").read_bytes())
    assert read["frames"] == 1_000
    asked = {"hit_rate", "flops_saved", "time_saved", "disagreement", "accuracy", "full_accuracy", "speedup"}
    asked |= {"speedup_plain", "plain_runtime", "plain_disagreement"}
    assert asked <= read["last_quarter"].keys()
    assert msgspec.json.decode((tmp_path / "summary.json").read_bytes(), type=Summary) == summary
    text = markdown(summary)
    assert f"{summary.last_quarter.hit_rate:.1%} of the frames left at an exit" in text
    assert "**2.00 times** as fast as the model by PyTorch" in text
    assert "**1.25 times** as fast as the best plain runtime, OpenVINO int8" in text
    assert "1.20% of the frames, with nothing that bounds it" in text
    assert "first exits opened at frame 500" in text
    assert (read["first_version_frame"], read["last_quarter"]["speedup_plain"]) == (500, 1.25)
    assert "within the budget of 1.00%" in text


def test_a_broken_budget_is_not_glossed_over() -> None:
    _, summary = a_report()
    broken = msgspec.structs.replace(
        summary, last_quarter=msgspec.structs.replace(summary.last_quarter, disagreement=0.02)
    )
    assert "2.00% of its answers differed from the full model's, **over** the budget" in markdown(broken)


def test_a_frames_time_is_its_part_of_its_micro_batchs() -> None:
    answers = [answer(frame, predicted_ms=100 + frame // 3, inference_ms=12.0) for frame in range(5)]
    labels = np.zeros(5, np.int64)
    assert collect(answers, {}, labels, labels).inference_ms.tolist() == [4.0, 4.0, 4.0, 6.0, 6.0]


def test_moving_mean_starts_with_what_there_is() -> None:
    assert moving(np.array([True, False, False, True]), 2).tolist() == [1.0, 0.5, 0.0, 0.5]


def test_throughput_is_unknown_before_time_has_passed() -> None:
    rates = answered_per_s(np.array([0, 0, 100, 200]), 2)
    assert np.isnan(rates[:2]).all()
    assert rates[2:].tolist() == [20.0, 10.0]


def test_the_last_quarter_is_never_empty() -> None:
    assert last_quarter(10_000) == slice(7_500, 10_000)
    assert last_quarter(3) == slice(2, 3)


@pytest.mark.parametrize("frames", [1, 30, 1_000])
def test_the_chart_is_a_picture_for_long_and_short_streams(tmp_path: Path, frames: int) -> None:
    columns, summary = a_report(frames)
    chart.draw(columns, summary, tmp_path / "chart.png")
    picture = matplotlib.image.imread(tmp_path / "chart.png")
    assert picture.shape[:2] == (1_000, 1_400)
    assert picture[..., :3].std() > 0.05
