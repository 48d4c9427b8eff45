"""The report: ``docs/benchmarks/faults.json`` for machines, ``docs/reliability.md`` for people."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.harness.clock import Fault
from tests.faults.harness.faults import (
    KINDS,
    MAX_POLL_INTERVAL_MS,
    NEED_MORE_BROKERS,
    SESSION_TIMEOUT_MS,
    TRANSACTION_TIMEOUT_MS,
)
from tests.faults.harness.frames import BAD_EVERY, KEYS
from tests.faults.harness.verdict import Outcome

NOT_COVERED = """\
- More than one machine: brokers, workers and the network between them share one, so that clocks do not drift apart, and
  a split network (some workers see one broker, some another) is only played by resetting, refusing, stalling and
  swallowing connections.
- A disk that loses what it has confirmed, a broker's disk that runs full, bits that flip, and power cuts: a killed
  process leaves its writes to the operating system.
- Two brokers of three at once. Then nothing can be committed until one is back, by `min.insync.replicas=2`.
- Upgrades of the broker while it works, and ACLs or certificates that change.
- The trainer: it reads at least once, its windows are keyed by position; `tests/faults/test_trainer_kill.py` kills it.
- A large model. The one here takes microseconds, which makes the moments at which a fault can strike many and short.
"""

FOUND = """\
What earlier runs found, and what became of it; each has a test of its own or a setting.

- *Records lost by librdkafka 2.16* (3 dead letters of 1,010,077 frames): a record's reply was lost, its transaction was
  aborted, and the next record got its sequence number, so that the broker took that for a repetition. The worker now
  replaces the producer wherever a record of an aborted transaction was not delivered
  (`tests/faults/test_lost_replies.py`).
- *Workers that crashed in librdkafka's admin client* when a broker went away: the worker asks by a consumer instead
  (`tests/faults/test_broker_away.py`).
- *Ten seconds of standstill after a broker was back*: `reconnect.backoff.max.ms` is 1 s now.
- *326 s without an answer* after the only broker was killed in the midst of a rebalance: see `max.poll.interval.ms`
  above.
- *Readers held up for ever* after a broker that is alone was restarted: see the last section.
"""


def as_json(outcomes: Sequence[Outcome], command: str, date: str) -> dict[str, Any]:
    """Totals of the exactly-once phases first; every phase, every fault and everything counted below."""
    exact = [one for one in outcomes if one.delivery == "exactly_once"]
    return {
        "frames": sum(one.verdict.frames for one in exact),
        "faults": sum(len(one.faults) for one in exact),
        "lost": sum(one.verdict.lost for one in exact),
        "duplicated": sum(one.verdict.duplicated for one in exact),
        "wrong": sum(one.verdict.wrong for one in exact),
        "out_of_order": sum(one.verdict.out_of_order for one in exact),
        "blocked_partitions": sum(one.blocked_partitions for one in exact),
        "offsets_behind": sum(one.offsets_behind for one in exact),
        "longest_gap_s": round(max((one.longest_gap_s for one in exact), default=0.0), 2),
        "longest_partition_gap_s": round(max((one.longest_partition_gap_s for one in exact), default=0.0), 2),
        "by_kind": by_kind([fault for one in exact for fault in one.faults]),
        "failures": [f"{one.phase}: {text}" for one in outcomes for text in one.failures()],
        "command": command,
        "date": date,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "phases": [_phase(one) for one in outcomes],
    }


def by_kind(faults: Iterable[Fault]) -> dict[str, dict[str, float | int | None]]:
    """How many of each kind, and how long it took to recover from them."""
    grouped: dict[str, list[Fault]] = defaultdict(list)
    for fault in faults:
        grouped[fault.kind].append(fault)
    table: dict[str, dict[str, float | int | None]] = {}
    for kind in (kind for kind in KINDS if kind in grouped):
        recovered = [fault.recovery_s for fault in grouped[kind] if fault.recovery_s is not None]
        table[kind] = {
            "count": len(grouped[kind]),
            "recovery_median_s": round(float(np.median(recovered)), 2) if recovered else None,
            "recovery_longest_s": round(max(recovered), 2) if recovered else None,
            "longest_gap_s": round(max(fault.gap_s for fault in grouped[kind]), 2),
        }
    return table


def write(outcomes: Sequence[Outcome], command: str, date: str, out: Path) -> dict[str, Any]:
    """Writes both files below ``out``, the ``docs`` folder; returns what went into the first."""
    found = as_json(outcomes, command, date)
    (out / "benchmarks").mkdir(parents=True, exist_ok=True)
    (out / "benchmarks" / "faults.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "reliability.md").write_text(as_markdown(found, outcomes))
    return found


def as_markdown(found: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The page; every number in it is the run's own."""
    return "\n".join(
        [
            "# Reliability: what happens to frames when things break",
            "",
            f"Written by `{found['command']}` on {found['date']}; the numbers, every fault among them, are in "
            "[`benchmarks/faults.json`](benchmarks/faults.json).",
            "",
            _headline(found),
            "",
            *_failures(found),
            "## What was done",
            "",
            f"Numbered frames of {KEYS} cameras, one in {BAD_EVERY} of them unreadable, were published to Apache Kafka "
            "at a steady rate (what an outage held up was made good at full speed afterwards) while 2 to 6 workers, "
            "half of them with a `worker_id`, answered them. At moments and on victims drawn by a seed, faults struck, "
            "two in five while the one before was still being recovered from. At the end a new `read_committed` reader "
            "read every prediction and every dead letter, and each frame's answers were counted.",
            "",
            f"Workers ran with `session.timeout.ms={SESSION_TIMEOUT_MS}` and, for transactions, "
            f"`transaction.timeout.ms={TRANSACTION_TIMEOUT_MS}`, both shorter than by default, so that a stopped "
            "worker is a zombie after seconds; the brokers looked for transactions past their time-out every 0.5 s "
            "instead of every 10 s (`transaction.abort.timed.out.transaction.cleanup.interval.ms`). With the defaults "
            f"recovery takes longer by the difference. `max.poll.interval.ms` was {MAX_POLL_INTERVAL_MS} instead of "
            "300000: the coordinator of a classic group that is killed in the midst of a rebalance waits for so long, "
            "once it is back, for members that are gone, and nobody works meanwhile. Set it as low as your slowest "
            "micro-batch allows.",
            "",
            "## Results",
            "",
            *_phases(outcomes),
            "",
            "*Lost*: frames without an answer. *Duplicated*: answers beyond the first. *Wrong*: another label than the "
            "picture's, or a dead letter for a good frame. *Out of order*: before an earlier frame of the same camera. "
            "*Open*: partitions where, at the end, an open transaction held readers up. *Behind*: frames whose offsets "
            "were not committed. *Longest gap*: the longest time in which no new answer could be read, on all "
            "partitions together and on one of them.",
            "",
            "In `at_least_once` mode duplicates are allowed: they carry the same frame id and name the same position.",
            "",
            "## By kind of fault (exactly once)",
            "",
            *_kinds(found["by_kind"]),
            "",
            "*Recovery*: from the moment the fault struck, its own length included, until every partition that it held "
            "up had a new answer, computed after the fault, that a `read_committed` reader could read. *Gap*: the "
            "longest time without an answer on one partition that ended before the next fault struck.",
            "",
            *_ended(outcomes),
            "## What it has found",
            "",
            FOUND,
            "## How to repeat it",
            "",
            "```sh",
            "export KAFKA_HOME=/path/to/kafka   # an unpacked distribution; needs Java 17",
            "make faults                        # all of it, about 35 minutes",
            'make faults FAULTS_ARGS="--faults 24 --frames 60000 --seed 7 --out report"',
            "```",
            "",
            "The same seed draws the same kinds, victims and lengths; when exactly they strike is up to the machine. A "
            "short run is a test: `python -m pytest -m faults tests/faults`.",
            "",
            "## What is not covered",
            "",
            NOT_COVERED + _left_out(outcomes),
        ]
    )


def _headline(found: dict[str, Any]) -> str:
    return (
        f"**{found['frames']:,} frames, {found['faults']} faults: {found['lost']} lost, {found['duplicated']} "
        f"duplicated, {found['wrong']} wrong, {found['out_of_order']} out of order**, with `delivery = "
        f'"exactly_once"`. No open transaction was left behind on {_partitions(found)}.'
    )


def _partitions(found: dict[str, Any]) -> str:
    blocked = found["blocked_partitions"]
    return "any partition" if not blocked else f"all but {blocked} partitions"


def _failures(found: dict[str, Any]) -> list[str]:
    """What went wrong stands at the top."""
    if not found["failures"]:
        return []
    return ["**What should not have been:**", "", *(f"- {text}" for text in found["failures"]), ""]


def _phases(outcomes: Sequence[Outcome]) -> list[str]:
    rows = [
        "| phase | brokers | delivery | minutes | frames | faults | lost | duplicated | wrong | out of order | open | "
        "behind | longest gap, all / one partition |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        found = one.verdict
        rows.append(
            f"| {one.phase} | {one.nodes} | `{one.delivery}` | {one.seconds / 60:.0f} | {found.frames:,} | "
            f"{len(one.faults)} | {found.lost} | {found.duplicated} | {found.wrong} | {found.out_of_order} | "
            f"{one.blocked_partitions} | {one.offsets_behind} | {one.longest_gap_s:.1f} s / "
            f"{one.longest_partition_gap_s:.1f} s |"
        )
    return rows


def _kinds(table: dict[str, dict[str, Any]]) -> list[str]:
    rows = ["| fault | times | recovery, median | longest | longest gap |", "|---|---|---|---|---|"]
    for kind, row in table.items():
        median, longest = row["recovery_median_s"], row["recovery_longest_s"]
        shown = f"{median:.1f} s | {longest:.1f} s" if median is not None else "never | never"
        rows.append(f"| {KINDS[kind]} | {row['count']} | {shown} | {row['longest_gap_s']:.1f} s |")
    return rows


def _ended(outcomes: Sequence[Outcome]) -> list[str]:
    """Workers that gave up, which is what they shall do where another has their name."""
    ended = [worker for one in outcomes for worker in one.ended]
    if not ended:
        return []
    reasons: dict[str, int] = defaultdict(int)
    for worker in ended:
        reasons[_reason(worker.said)] += 1
    return [
        f"{len(ended)} times a worker ended by itself, said why, and was started again, as an orchestrator does:",
        "",
        *(f"- {count} × {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1])[:8]),
        "",
    ]


def _reason(said: str) -> str:
    """The last line of a log without its time, level and names of this run."""
    text = said.split(" ERROR ", 1)[-1].split(": ", 1)[-1]
    for word in text.split():
        if word.startswith("workers-"):
            text = text.replace(word, "…")
    return text[:140]


def _left_out(outcomes: Sequence[Outcome]) -> str:
    left_out = {kind for one in outcomes for kind in one.left_out}
    lines = []
    if left_out & NEED_MORE_BROKERS:
        lines.append(
            "- Restarts of a broker that is alone, with transactions. Apache Kafka 4.3.1 was seen to skip the markers "
            "of an aborted transaction while it started (`Couldn't find leader endpoint … these partitions are likely "
            "deleted already`), after which readers of committed records wait for ever at that place; "
            "`kafka-transactions.sh find-hanging` and `abort` cure it. Run three brokers: another has the "
            "coordinator's role until the restarted one knows its topics.\n"
        )
    if "store_full" in left_out:
        lines.append(f"- {KINDS['store_full']}: this user may not mount a small file system.\n")
    return "".join(lines)


def _phase(outcome: Outcome) -> dict[str, Any]:
    found = asdict(outcome)
    found["exit_codes"] = {str(code): count for code, count in outcome.exit_codes.items()}
    found["ended"] = [{**asdict(worker), "said": _reason(worker.said)} for worker in outcome.ended]
    found["failures"] = outcome.failures()
    found["by_kind"] = by_kind(outcome.faults)
    found["faults"] = [_rounded(asdict(fault)) for fault in outcome.faults]
    return _rounded(found)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in values.items()}
