"""How often the drift test alarms without cause, and how soon it does with cause.

    python -m benchmarks.drift

drives :class:`layercache.early_exit.drift.DriftDetector` over seeded streams of audits and writes ``drift.json`` and
``drift.md`` into ``docs/benchmarks``. Beside it stand two other tests, to show what mixing over starting times is
worth.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from layercache.early_exit.drift import DriftDetector

Bools = npt.NDArray[np.bool_]
Risks = npt.NDArray[np.float64]
#: A detector of a budget and a level.
Detector = Callable[[float, float], DriftDetector]

#: Streams drawn at once.
_CHUNK = 50


class OneStart(DriftDetector):
    """For contrast: bets everything at the start, so that a quiet past uses the capital up."""

    def _unspent(self) -> float:
        return 0.0


class EveryStart(DriftDetector):
    """For contrast: a new bet at every audit, 1 / (j (j + 1)) of the capital at the j-th."""

    def __init__(self, budget: float, level: float) -> None:
        super().__init__(budget, level)
        self._bets = [0.0] * len(self._bets)

    def _unspent(self) -> float:
        return 1 / (self.audits + 1)

    def update(self, disagreed: bool) -> bool:
        stake = self._unspent()
        self.audits += 1
        self.disagreements += disagreed
        stake -= self._unspent()
        factors = self._gains if disagreed else self._losses
        self._bets = [min((bet + stake) * factor, 1e200) for bet, factor in zip(self._bets, factors, strict=True)]
        self.alarmed = self.alarmed or self.evidence >= 1 / self.level
        return self.alarmed

    def agree(self, count: int) -> bool:
        return any([self.update(False) for _ in range(count)])


OURS = "a bet after every disagreement (ours)"
DETECTORS: dict[str, Detector] = {
    OURS: DriftDetector,
    "a bet at every audit": EveryStart,
    "one bet at the start": OneStart,
}


@dataclass(frozen=True)
class Shift:
    """How the risk leaves the budget, after ``past`` audits at ``quiet`` times the budget.

    ``abrupt``: to ``factor`` times the budget at once. ``gradual``: it rises linearly from the past's risk and gets
    there after ``rise`` audits; the delay counts from where it crosses the budget.
    """

    kind: Literal["abrupt", "gradual"]
    factor: float
    past: int
    quiet: float = 0.1
    rise: int = 20_000

    def risks(self, budget: float) -> tuple[Risks, int]:
        """Every audit's risk, and the first audit beyond the budget."""
        high = min(1.0, self.factor * budget)
        before = np.full(self.past, self.quiet * budget)
        # A test that has not noticed after so many more is taken to be blind.
        tail = np.full(int(400 / (high - budget)), high)
        if self.kind == "abrupt":
            return np.concatenate((before, tail)), self.past
        risks = np.concatenate((before, np.linspace(self.quiet * budget, high, self.rise), tail))
        return risks, int(np.argmax(risks > budget))


def alarm_at(detector: DriftDetector, disagreed: Bools) -> int | None:
    """Index of the audit that raises the alarm; None where none of them does."""
    done = 0
    for index in np.flatnonzero(disagreed).tolist():
        detector.agree(index - done)
        if detector.update(True):
            return int(index)
        done = index + 1
    detector.agree(len(disagreed) - done)
    return None


def streams(risks: Risks, count: int, seed: int) -> Iterator[Bools]:
    """``count`` streams of audits, each of which disagrees with its risk."""
    random = np.random.default_rng(seed)
    thresholds = risks.astype(np.float32)
    for start in range(0, count, _CHUNK):
        yield from random.random((min(_CHUNK, count - start), len(risks)), np.float32) < thresholds


def count_alarms(detector: Detector, budget: float, level: float, audits: int, count: int, seed: int = 0) -> int:
    """Of ``count`` streams whose risk is the budget: those in which an alarm is raised at any time."""
    risks = np.full(audits, budget)
    return sum(alarm_at(detector(budget, level), stream) is not None for stream in streams(risks, count, seed))


@dataclass(frozen=True)
class Delays:
    """Audits from the first beyond the budget to the alarm, of the streams in which it came after the shift."""

    delays: npt.NDArray[np.int64]
    early: int
    """Streams in which the alarm came before the shift."""
    missed: int
    """Streams in which it never came."""

    def quantile(self, share: float) -> float:
        """Of the delays; a stream without alarm counts as an endless one."""
        everything = np.concatenate((self.delays, np.full(self.missed, np.inf)))
        return float(np.quantile(everything, share, method="inverted_cdf")) if len(everything) else float("inf")


def measure_delays(detector: Detector, budget: float, level: float, shift: Shift, count: int, seed: int = 0) -> Delays:
    """Delays over ``count`` streams that shift so."""
    risks, first = shift.risks(budget)
    delays, early, missed = [], 0, 0
    for stream in streams(risks, count, seed):
        alarm = alarm_at(detector(budget, level), stream)
        if alarm is None:
            missed += 1
        elif alarm < first:
            early += 1
        else:
            delays.append(alarm - first + 1)
    return Delays(np.array(delays, np.int64), early, missed)


class FalseAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """Alarms over streams whose risk is exactly the budget, at any time."""

    budget: float
    level: float
    audits: int
    streams: int
    alarms: int
    share: float
    upper_bound: float
    """95 % confidence (Clopper, Pearson 1934)."""


class DelayRow(msgspec.Struct, frozen=True, kw_only=True):
    """Audits from the first beyond the budget to the alarm."""

    detector: str
    budget: float
    level: float
    kind: str
    factor: float
    """How many times the budget the risk becomes."""
    past: int
    """Quiet audits before."""
    streams: int
    median: float | None
    """None: never noticed."""
    p90: float | None
    early: int
    missed: int


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """What ``drift.json`` holds."""

    false_alarms: tuple[FalseAlarms, ...]
    delays: tuple[DelayRow, ...]


def false_alarms(budget: float, level: float, audits: int, count: int, seed: int) -> FalseAlarms:
    """One row of the first table."""
    alarms = count_alarms(DriftDetector, budget, level, audits, count, seed)
    upper = float(beta.ppf(0.95, alarms + 1, count - alarms)) if alarms < count else 1.0
    return FalseAlarms(
        budget=budget, level=level, audits=audits, streams=count, alarms=alarms, share=alarms / count,
        upper_bound=upper,
    )  # fmt: skip


def delay_row(name: str, budget: float, level: float, shift: Shift, count: int, seed: int) -> DelayRow:
    """One row of the second table."""
    found = measure_delays(DETECTORS[name], budget, level, shift, count, seed)
    median, p90 = (value if np.isfinite(value) else None for value in (found.quantile(0.5), found.quantile(0.9)))
    return DelayRow(
        detector=name, budget=budget, level=level, kind=shift.kind, factor=shift.factor, past=shift.past,
        streams=count, median=median, p90=p90, early=found.early, missed=found.missed,
    )  # fmt: skip


def report(count: int, contrast: int, seed: int) -> DriftReport:
    """The recorded run: ``count`` streams a row, ``contrast`` for the other detectors, which are slower to run."""
    settings = [(budget, level) for budget in (0.005, 0.01, 0.05) for level in (0.2, 0.05, 0.01)]
    alarms = tuple(false_alarms(*one, 20_000, count, seed) for one in settings)
    shifts = [Shift("abrupt", factor, past) for past in (0, 5_000, 50_000, 500_000) for factor in (2, 5, 20)]
    shifts += [Shift("gradual", 5, past) for past in (0, 50_000)]
    rows = [delay_row(OURS, budget, 0.05, shift, count // 10, seed) for budget in (0.01, 0.05) for shift in shifts]
    rows += [delay_row(OURS, 0.01, 0.01, shift, count // 10, seed) for shift in shifts]
    others = [shift for shift in shifts if shift.past <= 50_000]
    rows += [delay_row(name, 0.01, 0.05, one, contrast, seed) for name in list(DETECTORS)[1:] for one in others]
    return DriftReport(false_alarms=alarms, delays=tuple(rows))


def markdown(found: DriftReport) -> str:
    """The report as people read it."""
    lines = [
        "# The drift test",
        "",
        "`python -m benchmarks.drift` ran `layercache.early_exit.drift.DriftDetector` over seeded streams of audits.",
        "",
        "## False alarms",
        "",
        "The risk of these streams is exactly the budget, the worst that is no drift. *Alarms* counts the streams "
        "in which the test raises an alarm at any time within 20,000 audits. Their share may be at most the level.",
        "",
        "| budget | level | streams | alarms | share | upper bound (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for row in found.false_alarms:
        lines.append(
            f"| {row.budget:.1%} | {row.level:.0%} | {row.streams:,} | {row.alarms} | {row.share:.2%} "
            f"| {row.upper_bound:.2%} |"
        )
    pasts = sorted({row.past for row in found.delays})
    lines += [
        "",
        "## Delay",
        "",
        "The number of audits from the first beyond the budget to the alarm: the median and, in brackets, the number "
        "within which 90 % of the streams had it. *Past*: so many quiet audits come before the shift, at a risk of a "
        "tenth of the budget. In a gradual shift the risk rises linearly over 20,000 audits to the factor, and the "
        "delay counts from where it crosses the budget. Never: not within 400 / (risk - budget) audits, 10,000 at five "
        "times 1 %.",
        "",
        "| test | budget | level | shift to | " + " | ".join(f"past {past:,}" for past in pasts) + " |",
        "|---|---|---|---|" + "---|" * len(pasts),
    ]
    cells = {_line(row): [""] * len(pasts) for row in found.delays}
    for delay in found.delays:
        cells[_line(delay)][pasts.index(delay.past)] = f"{_audits(delay.median)} ({_audits(delay.p90)})"
    lines += [f"| {line} | {' | '.join(row)} |" for line, row in cells.items()]
    early, runs = sum(row.early for row in found.delays), sum(row.streams for row in found.delays)
    lines += ["", f"Alarms before the shift: {early} of {runs:,} streams."]
    return "\n".join((*lines, ""))


def _line(row: DelayRow) -> str:
    return f"{row.detector} | {row.budget:.1%} | {row.level:.0%} | {row.factor:g} ×, {row.kind}"


def _audits(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=4_000, help="for a false-alarm rate; a tenth for a delay")
    parser.add_argument("--contrast", type=int, default=40, help="for a delay of the other detectors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    found = report(options.streams, options.contrast, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "drift.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    (options.out / "drift.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
