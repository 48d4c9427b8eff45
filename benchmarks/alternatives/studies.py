"""Compares ways to certify, choose and score on the same drawn streams: each against what the trainer does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from benchmarks.alternatives.draws import Floats, Judged, Rows, Streams, largest_probability
from benchmarks.alternatives.scored import END, PATH, TORCH
from layercache.cache_training.certifying.binomial import allowed, enough_frames
from layercache.cache_training.certifying.certificate import certify
from layercache.cache_training.certifying.certifier import AIM
from layercache.cache_training.certifying.choosing import ExitChoice, Option, ScoredCandidate, calibrate, choose
from layercache.cache_training.certifying.looks import LookPlan, Looks
from layercache.cache_training.certifying.samples import Sample
from layercache.cache_training.learning.compiled_exits import CompiledExit

_BUDGET = 0.01
#: Streams that share a choice of exits.
_SHARED = 5
_TEMPERATURES = np.geomspace(0.25, 8, 41)
#: Bets on a bounded mean, as shares of the largest stake; capital is spread over them.
_STAKES = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8])
_BINS = 10


@dataclass(frozen=True)
class Setting:
    """An attempt: what exits it chooses among, on how many tuning audits, and what it may err."""

    name: str
    routes: tuple[str, ...]
    tuning: int
    tolerance: float
    error: float

    @property
    def frames(self) -> int:
        """Certification audits of a single look."""
        return enough_frames(self.tolerance * _BUDGET, _BUDGET, self.error)

    @property
    def tolerated(self) -> float:
        """The share of these that may disagree."""
        return allowed(self.frames, _BUDGET, self.error) / self.frames


#: As in the demo: the second attempt has what the first one did not need.
SETTINGS = (
    Setting("int8, first version", (END,), 118, 0.2, 0.025),
    Setting("int8, second version", (END, PATH), 600, 0.5, 1 / 30),
    Setting("PyTorch, first version", (TORCH,), 118, 0.2, 0.025),
    Setting("PyTorch, second version", (TORCH,), 800, 0.5, 1 / 30),
)


@dataclass(frozen=True)
class Row:
    """What came of one way in one setting, over many streams."""

    study: str
    setting: str
    way: str
    streams: int
    audits: float
    """Mean number of certification audits."""
    audits_half: float
    """Half of the streams needed at most so many."""
    certified: float
    target: float
    saved: float
    """Of the time, in the mean over all streams; 0 where nothing was certified."""
    risk: float
    """True, in the mean."""


#: Audits, the setting that was certified (-1: none), and whether that is the target.
Ended = tuple[int, int, bool]


def looks(streams: Streams, setting: Setting, count: int) -> list[Row]:
    """One look, several, and a test by bets that may be looked at after every audit (an e-process), of two windows."""
    frames, error = setting.frames, setting.error
    plan = LookPlan.of(frames, _BUDGET, error)
    ways: dict[str, Callable[[Judged, Rows], Ended]] = {
        "one look": lambda judged, rows: _by_looks(judged, rows, (frames,), error),
        "five looks": lambda judged, rows: _by_looks(judged, rows, plan.sizes, error),
        "bets, after every audit": lambda judged, rows: _by_bets(judged, rows, 2 * frames, error),
    }
    return _compare("looks", streams, setting, count, ways, 2 * frames)


def subsets(streams: Streams, setting: Setting, count: int) -> list[Row]:
    """The best subset of exits, or the best two or three, each with its part of the error."""
    plan = LookPlan.of(setting.frames, _BUDGET, setting.error)
    found: dict[str, list[tuple[Judged, Ended]]] = {}
    for rows, certification in _deals(streams, setting, count, setting.frames):
        options = [streams.option(name, rows) for name in setting.routes]
        ranked = sorted(
            (choice for option in options for choice in _by_subset(option, AIM * setting.tolerated)),
            key=lambda choice: -choice.time_saved,
        )
        judged = [streams.judge(choice) for choice in ranked[:3]]
        for audits in certification:
            for most in range(1, len(judged) + 1):
                error = setting.error / most
                tried = [(one, _by_looks(one, audits, plan.sizes, error)) for one in judged[:most]]
                best = max(tried, key=lambda each: each[0].saved[each[1][1]] if each[1][1] >= 0 else 0.0)
                ended = (max(each[1][0] for each in tried), *best[1][1:])
                found.setdefault("1 subset" if most == 1 else f"{most} subsets", []).append((best[0], ended))
    return [_row("subsets", setting, way, tried) for way, tried in found.items()]


def scores(streams: Streams, setting: Setting, count: int) -> list[Row]:
    """Exits go by the largest probability, or by the two best classes alone; what their targets do, untested."""
    rows_of: list[Row] = []
    for way, fit, score in (("largest probability", calibrate, largest_probability), ("margin", by_margin, margin)):
        found = []
        for _ in range(count):
            rows, _ = streams.deal(setting.tuning, 1)
            options = [streams.option(name, rows, fit) for name in setting.routes]
            choices = list(filter(None, (choose(option, AIM * setting.tolerated) for option in options)))
            if choices:
                judged = streams.judge(max(choices, key=lambda choice: choice.time_saved), score)
                found.append((judged, (0, judged.choice.target, True)))
        rows_of.append(_row("scores", setting, way, found))
    return rows_of


def weighed(rate: float, streams: Streams, setting: Setting, count: int) -> list[Row]:
    """Frames weigh by how likely they were audited: all alike; misses always; or more where an exit is unsure.

    By bets, since weights are not equal. Misses are those of the setting's first version on the same route.
    """
    first = next(one for one in SETTINGS if one.routes[0] == setting.routes[0])
    longest = int(4 * setting.frames / rate)
    found: dict[str, list[tuple[Judged, Ended]]] = {}
    for rows, drawn in _deals(streams, setting, count, longest):
        judged = streams.choose(setting.routes, rows, setting.tolerated)
        live = streams.choose(first.routes, streams.deal(first.tuning, 1)[0], first.tolerated)
        if judged is None or live is None:
            continue
        target = judged.choice.target
        misses = live.leaves[live.choice.target] < 0
        rates = {"all alike": np.full(len(misses), rate), "misses, too": np.where(misses, 1.0, rate)}
        for floor in (0.5, 0.25):
            rates[f"where unsure, at least {floor:.0%} of the rate"] = _unsure(judged, rows, rate, floor)
        for frames in drawn:
            luck = streams.random.random(len(frames))
            for way, each in rates.items():
                audited = luck < each[frames]
                values = np.where(audited, judged.wrong[target, frames] / each[frames], 0.0)
                at = _first(_capital(values, 1 / each.min()), setting.error)
                needed = audited & (luck < rate) if way == "misses, too" else audited
                ended = int(needed[: at + 1].sum()), target if at < len(frames) else -1, at < len(frames)
                found.setdefault(way, []).append((judged, ended))
    return [_row(f"weights at an audit rate of {rate:.0%}", setting, way, tried) for way, tried in found.items()]


def margin(logits: Floats, temperature: float) -> Floats:
    """The better one's probability of the two best classes."""
    best = np.sort(logits, 1)[:, -2:]
    result: Floats = 1 / (1 + np.exp(-(best[:, 1] - best[:, 0]) / temperature))
    return result


def by_margin(candidate: CompiledExit, logits: Floats, labels: Rows) -> ScoredCandidate:
    """At the temperature at which that is the likeliest chance to answer like the full model."""
    right = logits.argmax(1) == labels
    best = np.sort(logits, 1)[:, -2:]
    apart = best[:, 1] - best[:, 0]

    def surprise(temperature: float) -> float:
        return float((np.logaddexp(0, apart / temperature) - right * apart / temperature).sum())

    temperature = min(_TEMPERATURES, key=surprise)
    return ScoredCandidate(candidate, float(temperature), margin(logits, temperature).astype(np.float32), ~right)


def _compare(
    study: str,
    streams: Streams,
    setting: Setting,
    count: int,
    ways: dict[str, Callable[[Judged, Rows], Ended]],
    longest: int,
) -> list[Row]:
    found: dict[str, list[tuple[Judged, Ended]]] = {way: [] for way in ways}
    for rows, certification in _deals(streams, setting, count, longest):
        judged = streams.choose(setting.routes, rows, setting.tolerated)
        if judged is None:
            continue
        for audits in certification:
            for way, test in ways.items():
                found[way].append((judged, test(judged, audits)))
    return [_row(study, setting, way, tried) for way, tried in found.items()]


def _deals(streams: Streams, setting: Setting, count: int, audits: int) -> Iterator[tuple[Rows, list[Rows]]]:
    """Tuning audits, and the certification audits of some streams that have them in common."""
    for _ in range(-(-count // _SHARED)):
        tuning, certification = streams.deal(setting.tuning, audits * _SHARED)
        yield tuning, np.split(certification, _SHARED)


def _row(study: str, setting: Setting, way: str, found: Sequence[tuple[Judged, Ended]]) -> Row:
    audits = np.array([ended[0] for _, ended in found])
    passed = [(judged, ended[1]) for judged, ended in found if ended[1] >= 0]
    saved = sum(max(0.0, float(judged.saved[index])) for judged, index in passed)
    return Row(
        study,
        setting.name,
        way,
        len(found),
        float(audits.mean()),
        float(np.median(audits)),
        len(passed) / len(found),
        float(np.mean([ended[2] for _, ended in found])),
        saved / len(found),
        float(np.mean([judged.wrong[index].mean() for judged, index in passed])) if passed else 0.0,
    )


def _by_looks(judged: Judged, audits: Rows, sizes: Sequence[int], error: float) -> Ended:
    target, passed = judged.choice.target, -1
    for number, size in enumerate(sizes):
        looked = Looks(tuple(sizes[: number + 1]), tuple(one / sizes[-1] for one in sizes[: number + 1]))
        sample = Sample(looks=looked)
        verdict = certify(judged.wrong[: target + 1, audits[:size]], _BUDGET, error, samples=(sample, sample))
        passed = max(passed, verdict.index if verdict else -1)
        if passed == target:
            break
    return size, passed, passed == target


def _by_bets(judged: Judged, audits: Rows, longest: int, error: float) -> Ended:
    """Settings by their capitals over all audits so far; what has passed has passed."""
    target = judged.choice.target
    reached = [
        _first(_capital(judged.wrong[index, audits[:longest]].astype(float), 1.0), error) for index in range(target + 1)
    ]
    together = np.maximum.accumulate(reached)
    passed = int((together < longest).sum()) - 1
    return min(int(together[target]) + 1, longest), passed, passed == target


def _capital(values: Floats, largest: float) -> Floats:
    """``[frames]``: the logarithm of what is won by then by betting that the mean of ``values`` is below the budget."""
    stakes = _STAKES / max(largest - _BUDGET, 1.0)
    won = np.log1p(-stakes[:, None] * (values - _BUDGET)[None]).cumsum(1)
    result: Floats = np.logaddexp.reduce(won, 0) - np.log(len(stakes))
    return result


def _first(capital: Floats, error: float) -> int:
    """The place of the first that suffices; the length where none does."""
    enough = capital >= np.log(1 / error)
    return int(enough.argmax()) if enough.any() else len(capital)


def _unsure(judged: Judged, tuning: Rows, rate: float, floor: float) -> Floats:
    """Audit rates ``[N]`` that grow with the root of how often tuning saw frames of such doubt wrong (Neyman 1934)."""
    target = judged.choice.target
    doubt, wrong, leaves = judged.doubt[target], judged.wrong[target], judged.leaves[target] >= 0
    edges = np.unique(np.quantile(doubt[tuning][leaves[tuning]], np.linspace(0, 1, _BINS + 1)))[1:-1]
    place = np.digitize(doubt, edges)
    chances = np.full(len(doubt), 1e-4)
    for number in range(len(edges) + 1):
        seen = tuning[leaves[tuning] & (place[tuning] == number)]
        chances[leaves & (place == number)] = (wrong[seen].sum() + 0.5) / (len(seen) + 20)
    rates: Floats = np.full(len(doubt), rate)
    scale = 1.0
    for _ in range(60):
        rates = np.clip(scale * np.sqrt(chances), floor * rate, 1.0)
        scale *= rate / rates.mean()
    return rates


def _by_subset(option: Option, risk: float) -> list[ExitChoice]:
    """The choice for every subset of a route's exits; on a compiled path, which has all its exits, the one choice."""
    exits = option.scored
    if option.route.path is not None:
        return list(filter(None, [choose(option, risk)]))
    several = [subset for size in range(1, len(exits) + 1) for subset in combinations(exits, size)]
    found = [choose(Option(option.route, subset), risk) for subset in several]
    different = {tuple(one.candidate.name for one in choice.exits): choice for choice in filter(None, found)}
    return list(different.values())
