"""Every scenario, and how many streams of each are simulated: as promised, and with a mistake."""

from dataclasses import dataclass, replace

from benchmarks.promise.runs import Result, Scenario, simulate
from benchmarks.promise.simulated_heads import (
    Cliff,
    Erratic,
    Flat,
    Improving,
    Memorising,
    OnCompiledPath,
    OneClass,
    Stairs,
    Turning,
    TwoCliffs,
)
from benchmarks.promise.simulated_streams import Bursts, BusyHours, Cameras, Independent, Loop, Videos
from layercache.schemas.settings import Promise

#: A risk so little above the budget that a test can hardly know, and yet above it.
_OVER = 1.001
_SCENES_S = (3, 10, 12, 15, 30, 100)


def _flat(budget: float, confidence: float, attempts: int, window: int = 20_000) -> Scenario:
    return Scenario(
        f"risk at the budget of {budget:.1%} at every setting, windows of up to {window:,}",
        Promise(max_disagreement=budget, confidence=confidence),
        Independent,
        lambda: Flat(_OVER * budget),
        attempts,
        window,
    )


def cameras(scene_s: float, aligned: bool = False) -> Scenario:
    """Near-copies: heads whose risk is at the budget of 5 %, scenes that last so long and blocks of 10 s."""
    lasting = "exactly a block" if aligned else f"{scene_s:g} s"
    return Scenario(
        f"cameras, scenes of {lasting}, risk at the budget of 5 %",
        Promise(max_disagreement=0.05, confidence=0.8, block_s=10),
        lambda seed: Cameras(seed, scene_s, aligned),
        lambda: Flat(_OVER * 0.05),
        attempts=6,
        longest=20_000,
    )


def bursts(share: float) -> Scenario:
    """A ``share`` of the keys sends 20 frames instead of one; heads are wrong about these alone, 5 % of all frames."""
    of_frames = share * 20 / (share * 20 + 1 - share)
    return Scenario(
        f"{share:.0%} of the blocks hold 20 frames, others one; heads are wrong about those alone, per frame at 5 %",
        Promise(max_disagreement=0.05, confidence=0.8, block_frames=20),
        lambda seed: Bursts(seed, share),
        lambda: OneClass(_OVER * 0.05 / of_frames, label=1),
        attempts=6,
        longest=60_000,
    )


WORST = _flat(0.05, 0.8, attempts=15)
SMALL_BUDGET = _flat(0.005, 0.8, attempts=8)
USUAL_BUDGET = _flat(0.01, 0.9, attempts=10)
#: Few audits at a time, so that attempts look as often as they may.
LOOKS = replace(
    _flat(0.05, 0.8, attempts=8), name="the same at 5.0%, looking as often as attempts may", frames_at_once=10
)
SMALL_WINDOW = _flat(0.05, 0.8, attempts=8, window=300)
CLIFF = Scenario(
    "safe while little is saved, just over 5 % where much is", Promise(max_disagreement=0.05, confidence=0.8),
    Independent, lambda: Cliff(1.02 * 0.05), attempts=8,
)  # fmt: skip
HOPELESS = Scenario(
    "hopeless heads: three times the budget of 1 %", Promise(confidence=0.8), Independent,
    lambda: Flat(0.03), attempts=6,
)  # fmt: skip
ERRATIC = Scenario(
    "now better, now worse than the budget of 5 %", Promise(max_disagreement=0.05, confidence=0.8), Independent,
    lambda: Erratic(0.06), attempts=8, longest=20_000,
)  # fmt: skip
IMPROVING = Scenario(
    "good heads that improve, 1 % at 95 %", Promise(), Independent, Improving, attempts=6, longest=25_000,
)  # fmt: skip
LYING = Scenario(
    "improving heads, wrong five times as often as they say, 5 %", Promise(max_disagreement=0.05, confidence=0.8),
    Independent, lambda: Improving(lie=5.0), attempts=6, longest=15_000,
)  # fmt: skip
ONE_CLASS = Scenario(
    "one class in ten frames at its cap of 10 %, 5 % overall",
    Promise(max_disagreement=0.05, max_class_disagreement=0.1, confidence=0.8),
    lambda seed: Independent(seed, (0.6, 0.3, 0.1)),
    lambda: OneClass(_OVER * 0.1, label=2),
    attempts=6,
    classes=3,
)
TWO_BUDGETS = Scenario(
    "just over 5 % where more is saved, just over overload's 10 % where still more is",
    Promise(max_disagreement=0.05, overload_max_disagreement=0.1, confidence=0.8),
    Independent, lambda: TwoCliffs(1.02 * 0.05, _OVER * 0.1), attempts=8,
)  # fmt: skip
#: The error of the first attempts, whose targets are met, is there to spend when nothing is safe any more.
TARGETS_MET = Scenario(
    "ever better, and never wrong for a while, then at the budget of 5 %",
    Promise(max_disagreement=0.05, confidence=0.8), Independent, lambda: Turning(_OVER * 0.05), attempts=12,
)  # fmt: skip
TARGETS_MISSED = replace(CLIFF, name="safe while little is saved, and a target just over 5 %", attempts=10)
BOLDER = Scenario(
    "ever better targets, and a little bolder just over 5 %", Promise(max_disagreement=0.05, confidence=0.8),
    Independent, lambda: Stairs(_OVER * 0.05, step=450), attempts=6, longest=8_000, frames_at_once=20,
)  # fmt: skip
LOST_OUTCOMES = replace(
    TARGETS_MISSED, name="three of four outcomes are lost in crashes, targets just over 5 %", loses_outcomes=True
)
TWO_TRAINERS = replace(
    TARGETS_MET, name="two trainers with one store, first never wrong, then at the budget of 5 %", trainers=2
)
INT8 = Scenario(
    "the model in int8 at 0.4 %, and heads on its path that improve, 1 % at 95 %", Promise(), Independent,
    lambda: OnCompiledPath(0.004), attempts=5, longest=12_000,
)  # fmt: skip
INT8_OVER = Scenario(
    "the model in int8 just over the budget of 5 %, heads on its path that lie",
    Promise(max_disagreement=0.05, confidence=0.8), Independent,
    lambda: OnCompiledPath(_OVER * 0.05, honest=False, lie=5.0), attempts=8, longest=12_000,
)  # fmt: skip
COPIES = cameras(10, aligned=True)


def memorising(scene_s: float) -> Scenario:
    """Heads that know by heart what they have learnt; blocks of 10 s, with which scenes of 10 s change."""
    return Scenario(
        f"cameras, scenes of {scene_s:g} s, heads right about those learnt from, else at twice the budget of 5 %",
        Promise(max_disagreement=0.05, confidence=0.8, block_frames=1),
        lambda seed: Cameras(seed, scene_s, aligned=scene_s == 10),
        lambda: Memorising(0.1),
        attempts=6,
        longest=20_000 if scene_s > 10 else 400_000,
    )


MEMORISING = memorising(10)
LOOP = Scenario(
    "300 pictures in a loop, heads that are right about those learnt from, else at twice the budget of 5 %",
    Promise(max_disagreement=0.05, confidence=0.8), Loop, lambda: Memorising(0.1), attempts=12, longest=8_000,
)  # fmt: skip

FEW_BURSTS, RARE_BURSTS = bursts(0.1), bursts(0.01)
BUSY_HOURS = Scenario(
    "busy hours, of which a fifth as many frames are audited; heads are wrong about these alone, per frame at 5 %",
    Promise(max_disagreement=0.05, confidence=0.8), BusyHours, lambda: OneClass(_OVER * 0.1, label=1), attempts=6,
    longest=30_000,
)  # fmt: skip
#: Audited at the rate that follows from blocks' sizes.
VIDEOS = Scenario(
    "cameras of six frames a second, audited as versions say, risk at the budget of 5 %",
    Promise(max_disagreement=0.05, confidence=0.8, block_frames=60), Videos, lambda: Flat(_OVER * 0.05), attempts=6,
    longest=80_000,
)  # fmt: skip


@dataclass(frozen=True)
class ScenarioRun:
    """What is simulated how often."""

    scenario: Scenario
    streams: int
    mutant: str = "none"


RUNS = (
    ScenarioRun(WORST, 600),
    ScenarioRun(USUAL_BUDGET, 250),
    ScenarioRun(SMALL_BUDGET, 200),
    ScenarioRun(LOOKS, 400),
    ScenarioRun(SMALL_WINDOW, 400),
    ScenarioRun(CLIFF, 250),
    ScenarioRun(ERRATIC, 50),
    ScenarioRun(HOPELESS, 50),
    ScenarioRun(IMPROVING, 50),
    ScenarioRun(LYING, 50),
    ScenarioRun(ONE_CLASS, 100),
    ScenarioRun(TWO_BUDGETS, 200),
    ScenarioRun(INT8, 50),
    ScenarioRun(INT8_OVER, 250),
)
#: How error passes on, or does not.
RECYCLING_RUNS = (
    ScenarioRun(TARGETS_MET, 400),
    ScenarioRun(TARGETS_MISSED, 250),
    ScenarioRun(BOLDER, 250),
    ScenarioRun(LOST_OUTCOMES, 250),
    ScenarioRun(TWO_TRAINERS, 250),
)
CAMERA_RUNS = (
    ScenarioRun(COPIES, 150),
    *(ScenarioRun(memorising(s), 100) for s in (10, 30, 100)),
    ScenarioRun(LOOP, 100),
    *(ScenarioRun(cameras(s), 100) for s in _SCENES_S),
)
#: Frames that count unequally.
WEIGHT_RUNS = (
    ScenarioRun(FEW_BURSTS, 100),
    ScenarioRun(RARE_BURSTS, 100),
    ScenarioRun(BUSY_HOURS, 100),
    ScenarioRun(VIDEOS, 200),
)
MUTANT_RUNS = (
    ScenarioRun(WORST, 60, "empirical mean"),
    ScenarioRun(CLIFF, 60, "empirical mean"),
    ScenarioRun(INT8_OVER, 60, "empirical mean"),
    ScenarioRun(WORST, 60, "error not shared"),
    ScenarioRun(CLIFF, 60, "error not shared"),
    ScenarioRun(COPIES, 100, "copies counted singly"),
    ScenarioRun(MEMORISING, 200, "dealt by frame"),
    ScenarioRun(LOOP, 60, "dealt by position"),
    ScenarioRun(cameras(100), 60, "scenes outlast blocks unseen"),
    ScenarioRun(FEW_BURSTS, 60, "the first audit stands for its block"),
    ScenarioRun(FEW_BURSTS, 60, "weights dropped"),
    ScenarioRun(RARE_BURSTS, 100, "test chosen after seeing weights"),
    ScenarioRun(BUSY_HOURS, 60, "rates not made equal"),
    ScenarioRun(ONE_CLASS, 60, "classes not tested"),
    ScenarioRun(TWO_BUDGETS, 60, "overload by the mean"),
    ScenarioRun(TWO_BUDGETS, 60, "overload's error not shared"),
    ScenarioRun(TARGETS_MISSED, 60, "passed on after a failure"),
    ScenarioRun(TARGETS_MISSED, 60, "target chosen after looking"),
    ScenarioRun(TARGETS_MET, 60, "passed on twice"),
    ScenarioRun(BOLDER, 250, "bolder at the full level"),
    ScenarioRun(LOST_OUTCOMES, 200, "passed on by unfinished attempts"),
)

#: In the order of the page.
GROUPS = (RUNS, RECYCLING_RUNS, CAMERA_RUNS, WEIGHT_RUNS, MUTANT_RUNS)


def simulated(group: int, number: int, share: float) -> Result:
    """One run; what it simulates is named by its place, since scenarios cannot be sent to another process."""
    run = GROUPS[group][number]
    return simulate(run.scenario, range(max(1, round(share * run.streams))), run.mutant)
