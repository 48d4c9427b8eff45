"""What a report says of its own numbers."""

from msgspec.structs import replace

from layercache.report.findings import findings
from layercache.report.numbers import Report
from layercache.report.words import budget_row, sides, verdict
from tests.layercache.reports import EXAM, PLAIN, certified, report, uncertified


def titles(found: Report) -> list[str]:
    return [finding.title for finding in findings(found)]


def test_of_a_good_run_only_the_budget_that_took_more_frames_is_told() -> None:
    (finding,) = findings(report())
    assert (finding.level, finding.title) == ("note", "Nothing certified at 0.5 %")
    assert "at least 1,443 independent certification audits are needed at 95%, there were 800" in finding.text
    assert "about 2,327 independent frames" in finding.text


def test_too_little_memory_is_told_apart_from_too_few_frames() -> None:
    found = report(budgets=(uncertified(0.01, room=138, audits_needed=720),))
    (finding,) = findings(found)
    assert (finding.level, finding.title) == ("warning", "Nothing certified at 1 %")
    assert "720 certification audits, 138 fit into trainer.replay_mb" in finding.text


def test_attempts_that_failed_are_told() -> None:
    found = report(budgets=(uncertified(0.01, attempts=2, audits=2_000, audits_needed=720),))
    assert "tried 2 times, and the heads were not good enough" in verdict(found)


def test_a_model_without_weights_that_answers_one_class_is_no_proof_of_anything() -> None:
    found = report({"top_class": "tench", "top_class_share": 0.97, "classes_seen": 3})
    found = replace(found, model=replace(found.model, name="torchvision:resnet18", has_weights=False))
    first, second, *_ = findings(found)
    assert (first.level, first.title) == ("warning", "The model has no weights")
    assert (second.level, second.title) == ("warning", "The model answers nearly one class")
    assert "97.0% of the answers are “tench”" in second.text


def test_an_unsure_model_is_told() -> None:
    assert "The model is unsure of these frames" in titles(report({"mean_confidence": 0.1}))


def test_frames_that_repeat_are_told_and_whether_the_exam_was_of_new_ones() -> None:
    fresh = report({"copies": 4_000, "exam_copies": 700, "fresh": True})
    assert "4,000 of the stream's 8,500 frames are exact copies" in findings(fresh)[0].text
    assert "700 of the exam's 1,500 frames do, and are left out of its numbers" in findings(fresh)[0].text
    learnt = report({"copies": 8_000, "exam_copies": 1_500, "fresh": False})
    assert "of frames that were learnt from" in " ".join(findings(learnt)[0].text.split())
    assert "Frames repeat" in titles(report({"exam_copies": 3}))


def test_pictures_that_seem_to_be_a_video_are_told_and_a_video_is_not() -> None:
    assert "Frames look like their predecessors" in titles(report({"near_copies": 6_000}))
    lasting = report({"keyed": True, "likeness": 0.42, "scenes_outlast": True})
    assert "Scenes outlast blocks" in titles(lasting)
    video = report({"near_copies": 6_000, "keyed": True, "blocks": 42})
    assert "Frames look like their predecessors" not in titles(video)
    assert "holds 42 independent ones" in next(one.text for one in findings(video) if one.title == "One camera")


def test_frames_that_were_not_used_are_told() -> None:
    assert "Not all frames were used" in titles(report({"available": 20_000}))
    broken = findings(report({"skipped": 2, "skipped_notes": ("a.jpg: the frame has no bytes",), "available": 10_002}))
    assert broken[0].title == "2 frames could not be used"
    assert "a.jpg: the frame has no bytes" in broken[0].text


def test_an_exam_that_is_over_the_budget_beyond_chance_is_a_warning() -> None:
    over = replace(EXAM, disagreements=45, lowest=0.022)
    assert "Over the budget of 1 % in the exam" in titles(report(budgets=(certified(0.01, over),)))


def test_a_stream_that_drifted_is_told() -> None:
    found = report()
    closed = tuple(replace(version, reason="unsafe", exits=()) for version in found.stream.versions)
    assert "The stream drifted" in titles(replace(found, stream=replace(found.stream, versions=closed)))


def test_savings_that_are_none_are_told() -> None:
    assert "Hardly any time is saved here" in titles(report(budgets=(certified(0.01, replace(EXAM, speedup=0.99)),)))
    nothing = report(budgets=(uncertified(0.01, state="nothing", exam=None, audits=2_000),), curve=())
    assert "No exit was worth it" in titles(nothing)
    assert "tuning expected nothing worth an attempt" in verdict(nothing)


def test_the_verdict_speaks_of_the_promised_budget_or_says_why_not() -> None:
    assert verdict(report()).startswith(
        "pets: certified for 1 % disagreement: 82.0 % of held-out frames left at an exit"
    )
    assert "55.0 % of the time and 61.0 % of the FLOPs were saved" in verdict(report())
    assert (
        "a worker was 1.90 times as fast as PyTorch on this machine and 1.14 times as fast as OpenVINO int8, which "
        "differed from the model on 18 of 1,500 frames (1.20 %), with nothing that bounds it" in verdict(report())
    )
    other = verdict(report(budgets=(uncertified(0.01, audits_needed=1_443), certified(0.05))))
    assert "nothing could be certified at 1 % disagreement (too few frames" in other
    assert "For 5 % disagreement: 82.0 %" in other
    estimate = verdict(report(budgets=(uncertified(0.01),)))
    assert "By an estimate without a promise, thresholds chosen for 1 % disagreement: 82.0 %" in estimate


def test_a_row_shows_what_was_counted() -> None:
    row = budget_row(certified())
    assert (row.budget, row.state) == ("1 %", "certified: at most 0.90 %")
    assert (row.leaves, row.time, row.flops) == ("82.0 %", "55.0 %", "61.0 %")
    assert (row.differed, row.interval) == ("6 of 1,500 (0.40 %)", "0.15 % to 0.87 %")
    assert budget_row(uncertified(exam=None, state="nothing")).state == "nothing to open"


def test_a_model_in_int8_saves_time_and_no_flops_and_both_are_said() -> None:
    int8 = replace(EXAM, time_saved=0.74, flops_saved=-0.02)
    assert budget_row(certified(0.01, int8)).flops == "none, 2.0 % more"
    said = verdict(report(budgets=(certified(0.01, int8),)))
    assert "74.0 % of the time was saved, though no FLOPs (2.0 % more were spent: in int8" in said


def test_pytorch_the_best_plain_runtime_and_layercache_stand_side_by_side() -> None:
    pytorch, plain, *ours = sides(report())
    assert (pytorch.fps, pytorch.times_pytorch, pytorch.times_plain) == ("210", "1.00 ×", "0.60 ×")
    assert (plain.name, plain.fps) == ("OpenVINO int8, the best plain runtime", "350")
    assert (plain.times_pytorch, plain.times_plain) == ("1.67 ×", "1.00 ×")
    assert (plain.differed, plain.bound) == ("18 of 1,500 (1.20 %)", "nothing bounds it")
    assert [(one.name, one.kind) for one in ours] == [
        ("Layercache, budget 0.5 %", "estimated"),
        ("Layercache, budget 1 %", "certified"),
        ("Layercache, budget 5 %", "certified"),
    ]
    assert (ours[1].fps, ours[1].times_pytorch, ours[1].times_plain) == ("400", "1.90 ×", "1.14 ×")
    assert ours[1].bound == "certified: at most 0.90 %"
    assert ours[0].bound == "not certified"


def test_where_there_was_no_race_the_heats_tell_how_fast_plain_runtimes_are() -> None:
    found = report(budgets=(uncertified(0.01, state="nothing", exam=None),))
    assert [(one.fps, one.times_pytorch) for one in sides(found)] == [("200", "1.00 ×"), ("340", "1.70 ×")]


def test_where_pytorch_is_the_best_plain_runtime_the_report_says_why() -> None:
    alone = replace(PLAIN, name="PyTorch", note="openvino is not installed", heats_fps={}, disagreements=0)
    found = report(plain=alone)
    assert [one.kind for one in sides(found)] == ["reference", "estimated", "certified", "certified"]
    assert sides(found)[0].name == "PyTorch, the model as it is, and the best plain runtime"
    assert "OpenVINO" not in verdict(found)
    (told,) = (one for one in findings(found) if one.title == "Not every plain runtime was tried")
    assert told.text == "The best that was is PyTorch: openvino is not installed."


def test_a_plain_runtime_that_is_as_fast_is_told_with_what_it_lacks() -> None:
    (told,) = (
        one
        for one in findings(report(budgets=(certified(0.01, replace(EXAM, speedup_plain=0.93)),)))
        if one.title == "OpenVINO int8 alone is quicker"
    )
    assert "0.93 times as fast" in told.text
    assert "18 of 1,500 frames (95 %: 0.71% to 1.89%), and nothing watches or bounds that" in told.text
    assert not [title for title in titles(report()) if "alone is" in title]
    nearly = report(budgets=(certified(0.01, replace(EXAM, speedup_plain=1.01)),))
    assert "OpenVINO int8 alone is about as fast" in titles(nearly)
