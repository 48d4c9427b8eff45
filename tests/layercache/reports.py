"""A report's numbers, made up, for tests of what is said of them."""

from typing import Any

from msgspec.structs import replace

from layercache.early_exit.cutting.costs import CutCost
from layercache.report.numbers import (
    Budget,
    Exam,
    Frames,
    Machine,
    Model,
    OfClass,
    Plain,
    Point,
    Report,
    Stream,
    Version,
)
from layercache.schemas.manifest import Certificate

EXAM = Exam(
    frames=1500, hit_rate=0.82, time_saved=0.55, flops_saved=0.61, disagreements=6, lowest=0.0015, highest=0.0087,
    exits={"layer1": 0.5, "layer2": 0.32, "full": 0.18}, accuracy=0.93, full_accuracy=0.932, speedup=1.9,
    speedup_plain=1.14, with_exits_fps=400.0, closed_fps=210.0, plain_fps=350.0,
)  # fmt: skip
#: It differs more often than any budget below allows.
PLAIN = Plain(
    name="OpenVINO int8", note="", heats_fps={"PyTorch": 200.0, "OpenVINO float32": 240.0, "OpenVINO int8": 340.0},
    frames=1500, disagreements=18, lowest=0.0071, highest=0.0189,
)  # fmt: skip


def certified(budget: float = 0.01, exam: Exam | None = EXAM) -> Budget:
    """A budget for which everything went well."""
    certificate = Certificate(
        max_disagreement=budget, confidence=0.95, attempt=1, error=0.025, frames=800, disagreements=2,
        p_value=0.01, upper_bound=0.009,
    )  # fmt: skip
    return Budget(
        max_disagreement=budget, state="certified", certificate=certificate, attempts=1, audits=800, audits_needed=720,
        frames_needed=1162, room=20_000, exam=exam,
    )  # fmt: skip


def uncertified(budget: float = 0.005, **changes: Any) -> Budget:
    """A budget for which there were too few frames."""
    found = Budget(
        max_disagreement=budget, state="estimated", certificate=None, attempts=0, audits=800, audits_needed=1443,
        frames_needed=2327, room=20_000, exam=EXAM,
    )  # fmt: skip
    return replace(found, **changes)


def report(frames: dict[str, Any] | None = None, **changes: Any) -> Report:
    """A good run of 10,000 frames; ``frames`` changes what is said of these."""
    read = Frames(
        source="photos.zip", available=10_000, streamed=8_500, exam=1_500, skipped=0, skipped_notes=(), shuffled=False,
        labelled=0, keyed=False, blocks=8_500, copies=0, near_copies=10, likeness=None, scenes_outlast=False,
        exam_copies=0, fresh=True, classes_seen=10,
        top_class="cat", top_class_share=0.12, mean_confidence=0.9,
    )  # fmt: skip
    whole = Report(
        layercache="1.0", created="2026-01-01T00:00:00+00:00", confidence=0.95, max_disagreement=0.01,
        least_audit_rate=0.02,
        machine=Machine(processor="a CPU", cores=2, torch_threads=1, torch="2.9", device="cpu", dtype="float32"),
        model=Model(
            name="pets", fingerprint="ab" * 32, classes=10, has_weights=True, flops=228_000_000, frame_ms=4.0,
            cuts=tuple(
                CutCost(f"layer{number}", (8, 4, 4), number / 5, number / 5, proposed=number % 2 == 1)
                for number in range(1, 5)
            ),
        ),
        frames=replace(read, **(frames or {})),
        stream=Stream(
            budget=0.01, at=(1, 4000, 8500), window=425, hit_rate=(0.0, 0.3, 0.8),
            time_saved=(0.0, 0.2, 0.5), flops_saved=(0.0, 0.2, 0.6),
            audited=(1.0, 0.6, 0.03), disagreement=(0.0, 0.002, 0.004),
            versions=(Version(at_frame=2000, reason="first", exits=("layer1", "layer2"), audit_rate=0.6),),
            served_disagreements=20, accuracy=None, full_accuracy=None,
        ),
        budgets=(uncertified(), certified(), certified(0.05)),
        plain=PLAIN,
        classes=(OfClass(name="cat", frames=180, hit_rate=0.7, disagreements=4),),
        curve=tuple(
            Point(disagreement=x, hit_rate=10 * x, flops_saved=8 * x, time_saved=7 * x) for x in (0.0, 0.01, 0.05, 0.1)
        ),
    )  # fmt: skip
    return replace(whole, **changes)
