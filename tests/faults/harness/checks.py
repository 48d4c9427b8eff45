"""What a history must never show: pure functions of it, each of which names what it found.

After the checkers of ``jepsen.tests.kafka`` (https://jepsen-io.github.io/jepsen/jepsen.tests.kafka.html): lost and
duplicated writes, divergence, aborted and precommitted reads, order, contiguity; turned to a service that answers each
record once, and with the group's committed offsets beside the answers, which must tell the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.faults.harness.history import (
    DEAD_LETTER,
    KINDS,
    ONLY_DEAD_LETTER,
    OR_DEAD_LETTER,
    PREDICTION,
    UNKNOWN,
    Answers,
    Commit,
    History,
    Numbers,
)

_SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """How often something was seen that must not be, and the first few times in words."""

    count: int
    shown: tuple[str, ...] = ()


def lost(history: History) -> Finding:
    """Frames without an answer (jepsen: lost write)."""
    missing = np.flatnonzero(_counts(history) == 0)
    return Finding(len(missing), tuple(_frame(history, number) for number in missing[:_SHOWN].tolist()))


def duplicated(history: History) -> Finding:
    """Answers beyond the first of their frame; told with the worker, place and time of each (jepsen: duplicate)."""
    counts = _counts(history)
    repeated = np.flatnonzero(counts > 1)
    told = []
    for number in repeated[:_SHOWN].tolist():
        rows = np.flatnonzero(history.answers.number == number)
        told.append(f"{_frame(history, number)}: {'; '.join(_answer(history, history.answers, row) for row in rows)}")
    return Finding(int(np.maximum(counts - 1, 0).sum()), tuple(told))


def wrong(history: History) -> Finding:
    """Answers with a different label than the picture's, or of the wrong kind (a dead letter for a good frame)."""
    answers = history.answers
    known = _known(history)
    expected = np.full(len(answers), ONLY_DEAD_LETTER)
    expected[known] = history.frames.expected[answers.number[known]]
    only_letter = expected == ONLY_DEAD_LETTER
    right_letter = only_letter | (expected >= OR_DEAD_LETTER)
    right_label = ~only_letter & (answers.label == expected % OR_DEAD_LETTER)
    return _rows(history, known & ~np.where(answers.kind == DEAD_LETTER, right_letter, right_label))


def misplaced(history: History) -> Finding:
    """Answers that name another position of their frame than the broker did."""
    answers, frames, known = history.answers, history.frames, _known(history)
    numbers = np.where(known, answers.number, 0) if len(frames) else answers.number
    if not len(frames):
        return Finding(0)
    differs = (answers.source_partition != frames.partition[numbers]) | (
        answers.source_offset != frames.offset[numbers]
    )
    return _rows(history, known & differs & (frames.offset[numbers] != UNKNOWN))


def unknown(history: History) -> Finding:
    """Answers to frames that were never published."""
    return _rows(history, ~_known(history))


def out_of_order(history: History) -> Finding:
    """First answers that stand before the answer to an earlier frame of the same camera (on the same topic)."""
    first = _first(history)
    answers, frames = history.answers, history.frames
    order = first[np.lexsort((answers.number[first], frames.camera[answers.number[first]], answers.kind[first]))]
    same = _same(answers.kind[order]) & _same(frames.camera[answers.number[order]]) & _same(answers.partition[order])
    back = np.flatnonzero(same & (np.diff(answers.offset[order]) <= 0))
    return Finding(
        len(back),
        tuple(
            f"{_answer(history, answers, order[at + 1])} to {_frame(history, answers.number[order[at + 1]])} stands "
            f"before {_answer(history, answers, order[at])} to {_frame(history, answers.number[order[at]])}"
            for at in back[:_SHOWN].tolist()
        ),
    )


def gaps(history: History) -> Finding:
    """Answers in the log that are not followed by the answer to their partition's next frame (jepsen: contiguity).

    What was left out may come later (out of order) or never (lost); what is gone back to comes twice. The next frame is
    the next one whose answer belongs on the same topic.
    """
    answers, frames = history.answers, history.frames
    rows = np.flatnonzero(_known(history))
    if not len(rows):
        return Finding(0)
    # A frame's place among those of its partition whose answers stand on the same topic.
    kind = np.where(frames.expected == ONLY_DEAD_LETTER, DEAD_LETTER, PREDICTION)
    kind[answers.number[rows]] = answers.kind[rows]
    by_place = np.lexsort((frames.offset, frames.partition, frames.generation, kind))
    rank = np.empty(len(frames), np.int64)
    rank[by_place] = np.arange(len(frames))
    numbers = answers.number[rows]
    groups = (answers.kind[rows], frames.generation[numbers], frames.partition[numbers], answers.partition[rows])
    sort = np.lexsort((answers.offset[rows], *groups))
    step = np.diff(rank[numbers[sort]])
    same = np.logical_and.reduce([_same(group[sort]) for group in groups])
    found = np.flatnonzero(same & (step != 1))
    return Finding(
        len(found),
        tuple(
            f"{_answer(history, answers, rows[sort[at]])} to {_frame(history, numbers[sort[at]])} is followed by "
            f"{_answer(history, answers, rows[sort[at + 1]])} to {_frame(history, numbers[sort[at + 1]])}: "
            + (f"{step[at] - 1} frames were left out" if step[at] > 1 else f"{1 - step[at]} frames back")
            for at in found[:_SHOWN].tolist()
        ),
    )


def aborted_reads(history: History) -> Finding:
    """Records that a ``read_committed`` reader saw, and that are not among the committed ones (jepsen: G1a)."""
    if not history.is_whole:
        return Finding(0)
    seen = ~np.isin(history.live.place, history.answers.place)
    return _rows(history, seen, history.live)


def divergent(history: History) -> Finding:
    """Places in the log at which two readers saw different records (jepsen: inconsistent offsets)."""
    answers, live = history.answers, history.live
    order = np.argsort(answers.place)
    places = answers.place[order]
    if not len(places):
        return Finding(0)
    at = np.minimum(np.searchsorted(places, live.place), len(places) - 1)
    there = places[at] == live.place
    other = order[at]
    differs = (answers.number[other] != live.number) | (answers.label[other] != live.label)
    return _rows(history, there & (differs | (answers.life[other] != live.life)), live)


def passed(history: History) -> Finding:
    """Frames without an answer that the group's committed offsets have passed: no worker will ever read them again."""
    frames = history.frames
    unanswered = np.flatnonzero((_counts(history) == 0) & (frames.offset != UNKNOWN))
    by: dict[int, Commit] = {}
    for commit in history.commits:
        for partition, offset in commit.offsets.items():
            here = (frames.generation[unanswered] == commit.generation) & (frames.partition[unanswered] == partition)
            for number in unanswered[here & (frames.offset[unanswered] < offset)].tolist():
                by.setdefault(number, commit)
        unanswered = unanswered[~np.isin(unanswered, list(by))]
        if not len(unanswered):
            break
    return Finding(
        len(by),
        tuple(
            f"{_frame(history, number)}: the group's offset was {commit.offsets[int(frames.partition[number])]} when "
            f"asked at {commit.asked_ms}"
            for number, commit in list(by.items())[:_SHOWN]
        ),
    )


def uncommitted_reads(history: History) -> Finding:
    """Answers that could be read before their frame's offset was committed (jepsen: precommitted read).

    Both are parts of one transaction: whoever asks for stable offsets after having read the answer must find both.
    """
    live, frames = history.live, history.frames
    known = (live.number >= 0) & (live.number < len(frames))
    found = np.zeros(len(live), np.bool_)
    for generation, partition in sorted({(one.generation, p) for one in history.commits for p in one.offsets}):
        asked, offsets = _series(history, generation, partition)
        rows = np.flatnonzero(known)
        numbers = live.number[rows]
        rows = rows[(frames.generation[numbers] == generation) & (live.source_partition[rows] == partition)]
        after = np.searchsorted(asked, live.read_ms[rows], side="right")
        rows, after = rows[after < len(asked)], after[after < len(asked)]
        found[rows[offsets[after] <= live.source_offset[rows]]] = True
    return _rows(history, found, live)


def went_back(history: History) -> Finding:
    """Committed offsets that were smaller than when they were asked for before."""
    told = []
    for generation, partition in sorted({(one.generation, p) for one in history.commits for p in one.offsets}):
        asked, offsets = _series(history, generation, partition)
        told += [
            f"partition {partition}: {offsets[at]}, and {offsets[at + 1]} at {asked[at + 1]}"
            for at in np.flatnonzero(np.diff(offsets) < 0).tolist()
        ]
    return Finding(len(told), tuple(told[:_SHOWN]))


#: All checks. Those that hold at least once, too, come first.
AT_LEAST_ONCE: tuple[Callable[[History], Finding], ...] = (
    lost, wrong, misplaced, unknown, aborted_reads, divergent, passed,
)  # fmt: skip
EXACTLY_ONCE = (*AT_LEAST_ONCE, duplicated, out_of_order, gaps, uncommitted_reads, went_back)

#: What each finding is called in sentences: "3 …".
IN_WORDS = {
    "lost": "frames were lost",
    "wrong": "answers were wrong",
    "misplaced": "answers name another position of their frame than the broker did",
    "unknown": "answers were to frames that were never published",
    "aborted_reads": "records were read and are not among the committed ones",
    "divergent": "places in the log held different records for two readers",
    "passed": "unanswered frames lie below the group's committed offset",
    "duplicated": "answers were duplicates",
    "out_of_order": "answers were out of order",
    "gaps": "answers do not follow the one to the frame before",
    "uncommitted_reads": "answers could be read before their frame's offset was committed",
    "went_back": "times a committed offset went back",
}


def check(history: History) -> dict[str, Finding]:
    """All checks, by name."""
    return {one.__name__: one(history) for one in EXACTLY_ONCE}


def _counts(history: History) -> Numbers:
    """How many answers each frame has."""
    numbers = history.answers.number[_known(history)]
    return np.bincount(numbers, minlength=len(history.frames)).astype(np.int64)


def _known(history: History) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    numbers = history.answers.number
    return (numbers >= 0) & (numbers < len(history.frames))


def _first(history: History) -> Numbers:
    """The rows of each frame's first answer: by kind, then as its partition holds them."""
    answers = history.answers
    rows = np.flatnonzero(_known(history))
    rows = rows[np.lexsort((answers.offset[rows], answers.partition[rows], answers.kind[rows], answers.number[rows]))]
    return rows[np.unique(answers.number[rows], return_index=True)[1]]


def _same(column: Numbers) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where a value equals the one before, from the second on."""
    return np.equal(column[1:], column[:-1])


def _series(history: History, generation: int, partition: int) -> tuple[Numbers, Numbers]:
    """When a partition's offset was asked for, and what it was."""
    rows = sorted(
        (one.asked_ms, one.offsets[partition])
        for one in history.commits
        if one.generation == generation and partition in one.offsets
    )
    asked, offsets = np.array(rows, np.int64).reshape(-1, 2).T
    return asked, offsets


def _rows(history: History, found: np.ndarray[tuple[int], np.dtype[np.bool_]], of: Answers | None = None) -> Finding:
    answers = history.answers if of is None else of
    rows = np.flatnonzero(found)
    return Finding(
        len(rows),
        tuple(
            f"{_answer(history, answers, row)} to {_frame(history, answers.number[row])}"
            for row in rows[:_SHOWN].tolist()
        ),
    )


def _frame(history: History, number: int) -> str:
    frames = history.frames
    if not 0 <= number < len(frames):
        return f"frame {number}"
    anew = f", topic made anew {frames.generation[number]} times" if frames.generation[number] else ""
    return f"frame {number} ({frames.partition[number]}@{frames.offset[number]}{anew})"


def _answer(history: History, answers: Answers, row: int | np.signedinteger) -> str:
    by = int(answers.life[row])
    life = history.lives[by] if 0 <= by < len(history.lives) else "nobody"
    at = f" at {answers.predicted_ms[row]}" if answers.predicted_ms[row] > 0 else ""
    what = KINDS[int(answers.kind[row])]
    return f"{what} {answers.partition[row]}@{answers.offset[row]} by {life}{at}"
