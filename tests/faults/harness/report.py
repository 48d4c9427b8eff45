"""The report: ``docs/benchmarks/faults.json`` for machines, ``docs/reliability.md`` for people."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.harness.checks import EXACTLY_ONCE
from tests.faults.harness.clock import Fault
from tests.faults.harness.frames import BAD_EVERY, KEYS
from tests.faults.harness.plan import KINDS, NEED_MORE_BROKERS, QUICK, compose
from tests.faults.harness.verdict import Outcome

NOT_COVERED = """\
- More than one machine: brokers, workers and the network between them share one. The harness imitates a split network
  (some workers see one broker, some another) only by resetting, refusing, stalling and swallowing connections and by
  holding single requests. Only the brokers' clocks jump; the workers' stay as they are.
- A disk that loses data that it has confirmed, a broker's disk that runs full, bits that flip, and power cuts: a killed
  process leaves its writes to the operating system.
- Two brokers of three away at once. By `min.insync.replicas=2` workers then commit nothing until one is back.
- Upgrades of the broker while it works, and ACLs or certificates that change.
- The trainer: it reads at least once, and keys its windows by position; `tests/faults/test_trainer_kill.py` kills it.
- A large model. The one here takes microseconds, which makes the moments at which a fault can strike many and short.
"""

FOUND = """\
Earlier runs found these faults. Each now has its own test or a setting.

- *Records lost by librdkafka 2.16* (3 dead letters of 1,010,077 frames): a record's reply was lost, its transaction was
  aborted, and the next record got its sequence number, so the broker took it for a repetition. The worker now
  replaces the producer wherever a record of an aborted transaction was not delivered
  (`tests/faults/test_lost_replies.py`).
- *Workers that crashed in librdkafka's admin client* when a broker went away: the worker now asks with a consumer
  (`tests/faults/test_broker_away.py`).
- *Ten seconds of standstill after a broker was back*: `reconnect.backoff.max.ms` is 1 s now.
- *326 s without an answer* after the only broker was killed in the midst of a rebalance: see `max.poll.interval.ms`
  above.
- *Readers held up for ever* after a broker that is alone was restarted: see the last section.
- *Partitions that began at their start again*: a worker was killed while it committed, and another one joined while its
  heir waited for stable offsets. After one such kill 426 of 7,761 frames were answered twice, after two with KIP-848
  2,957 of 18,888. Workers now ask for the stable offsets themselves ([exactly once](exactly-once.md)).
- *Frames passed over after a takeover*, about 100 of 20,000 in nine runs of fifteen, while workers assigned partitions
  at their log's end: if librdkafka gets a seek while it asks where the end is, it goes to the end half a second later.
  Workers now assign partitions at the beginning (`tests/integration/test_frame_consumer.py`).
- *A topic made anew* under running workers: 6,818 of 21,022 frames were never answered, and their offsets were
  committed all the same. Workers now notice a new topic. And where a leader's epoch had risen before, workers read no
  more frames until they were started again, since librdkafka keeps the old topic's epochs: they now read the new topic
  with another client
  (`tests/integration/test_topic_made_anew.py`).
- *Transactions that hung until the next outage* after all connections had broken at once: librdkafka waits for a
  coordinator that it dropped when it bootstrapped anew. Transactional producers no longer bootstrap anew
  (`tests/integration/test_lost_connections.py`).
- *50 to 82 s without an answer on a partition* of three busy brokers: the worker that took over from one that had ended
  took the next 128 frames one by one, in case one of them ends processes, 0.4 s each, and other frames waited behind
  them. Now it takes them by micro-batches first ([exactly once](exactly-once.md#frames-that-break-things)).
- *Workers that a header name ended*: the worker left out a name that is not UTF-8, as it should, until the interpreter
  had made the call quicker, after some hundred frames, and lost sight of the binding's error
  (`tests/stream/kafka/test_record_headers.py`).
"""


#: Checks that have columns of their own in the table of phases, and what these are called; the others share one.
_COLUMNS = {"lost": "lost", "duplicated": "duplicated", "wrong": "wrong", "out_of_order": "out of order"}


def as_json(outcomes: Sequence[Outcome], command: str, date: str) -> dict[str, Any]:
    """Totals of the exactly-once phases first; every phase, every fault and everything counted below."""
    exact = [one for one in outcomes if one.is_exact]
    return {
        "frames": sum(one.frames for one in exact),
        "faults": sum(len(one.faults) for one in exact),
        "in_window": sum(one.in_window for one in exact),
        "ends_delayed": sum(one.ends_delayed for one in exact),
        "found": {check.__name__: sum(one.count(check.__name__) for one in exact) for check in EXACTLY_ONCE},
        "blocked_partitions": sum(one.blocked_partitions for one in exact),
        "offsets_behind": sum(one.offsets_behind for one in exact),
        "longest_gap_s": round(max((one.longest_gap_s for one in exact), default=0.0), 2),
        "longest_standstill_s": round(max((one.longest_standstill_s for one in exact), default=0.0), 2),
        "by_kind": by_kind([fault for one in exact for fault in one.faults]),
        "failures": [f"{one.phase.name}: {text}" for one in outcomes for text in one.failures()],
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
            "beside": sum(not fault.hit for fault in grouped[kind]),
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
            f"`{found['command']}` wrote this page on {found['date']}. All numbers and every fault are in "
            "[`benchmarks/faults.json`](benchmarks/faults.json).",
            "",
            _headline(found),
            "",
            *_failures(found),
            "## What was done",
            "",
            f"Numbered frames of {KEYS} cameras, one in {BAD_EVERY} of them unreadable, were published to Apache Kafka "
            "at a steady rate (after an outage the publisher caught up at full speed), while 2 to 6 workers, half of "
            "them with a `worker_id`, answered them. A seed drew the moments and victims of the faults; "
            f"{_overlap(outcomes)} struck while the workers were still recovering from the one before. "
            f"{found['in_window']} times a worker was killed between sending its offsets and committing them, and "
            "another one joined or left while the heir of its partitions waited for stable offsets; "
            f"{found['ends_delayed']} times the end of a transaction was held on its connection while others flowed.",
            "",
            "The harness then judges the phase as a history, after the checkers of "
            "[`jepsen.tests.kafka`](https://jepsen-io.github.io/jepsen/jepsen.tests.kafka.html). The history holds "
            "where the broker put each frame; which process gave each answer, at which offset and when; what a "
            "`read_committed` reader saw while the faults struck, beside what a new one found at the end; and the "
            "group's committed offsets, asked for twice a second. Each check is a pure function of that history, with "
            "a test that plants the fault that it looks for (`tests/faults/test_checks.py`).",
            "",
            *(
                f"- *{_COLUMNS.get(check.__name__, check.__name__.replace('_', ' '))}*: {_first_line(check)}"
                for check in EXACTLY_ONCE
            ),
            "",
            *_settings(outcomes),
            "",
            "## Results",
            "",
            *_phases(outcomes),
            "",
            "*Others*: what the other checks found that apply in that mode. *Open*: partitions where, at the "
            "end, an open transaction held readers up. *Behind*: frames whose offsets were not committed. "
            "*Standstill*: the longest time in which no new answer could be read, on all partitions together and "
            "on one of them.",
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
            "make faults                        # all of it, about 80 minutes",
            "make faults FAULTS_ARGS=--resume   # goes on after the last phase that was over",
            'make faults FAULTS_ARGS="--faults 24 --frames 60000 --seed 7 --out report"',
            "```",
            "",
            "The same seed draws the same kinds, victims and lengths; the exact moments depend on the machine. A "
            "short run is a test: `python -m pytest -m faults tests/faults`.",
            "",
            "## What is not covered",
            "",
            NOT_COVERED + _left_out(outcomes),
        ]
    )


def _headline(found: dict[str, Any]) -> str:
    seen = found["found"]
    others = sum(count for check, count in seen.items() if check not in _COLUMNS)
    return (
        f"**{found['frames']:,} frames, {found['faults']} faults: "
        + ", ".join(f"{seen[check]} {name}" for check, name in _COLUMNS.items())
        + f'**, with `delivery = "exactly_once"`. The other checks of the history found '
        f"{others or 'nothing'}. No open transaction was left behind on {_partitions(found)}."
    )


def _overlap(outcomes: Sequence[Outcome]) -> str:
    """How many of them."""
    return f"up to {max((one.phase.overlap for one in outcomes), default=0.0):.0%} of the faults"


def _first_line(check: Callable[..., object]) -> str:
    return (check.__doc__ or "").splitlines()[0].replace("``", "`")


def _settings(outcomes: Sequence[Outcome]) -> list[str]:
    """What the phases ran with."""
    slow = compose()
    lines = [
        f"Most phases ran with `session.timeout.ms={QUICK.session_ms}` and, for transactions, "
        f"`transaction.timeout.ms={QUICK.transaction_ms}`, both shorter than by default, so that a stopped worker is a "
        f"zombie after seconds. The brokers looked for transactions past their time-out every {QUICK.clean_up_ms} ms "
        "instead of every 10 s (`transaction.abort.timed.out.transaction.cleanup.interval.ms`). With the defaults "
        f"recovery takes longer by the difference. `max.poll.interval.ms` was {QUICK.max_poll_ms} instead of 300000: "
        "if the coordinator of a classic group is killed in the midst of a rebalance, it waits that long, once it is "
        "back, for members that are gone, and no worker works meanwhile. Set it as low as your slowest micro-batch "
        "allows."
    ]
    if any(one.phase.timeouts == slow for one in outcomes):
        lines += [
            "",
            f"The phases with compose's time-outs have those of `deploy/layercache.toml` and the defaults: sessions of "
            f"{slow.session_ms / 1000:g} s (with KIP-848 the broker's own default is 45 s; it was set to "
            f"{slow.session_ms / 1000:g} s as well), transactions of {slow.transaction_ms / 1000:g} s, which the "
            f"brokers look for every {slow.clean_up_ms / 1000:g} s, `max.poll.interval.ms={slow.max_poll_ms}`. Their "
            "faults come one by one.",
        ]
    if any(one.phase.is_poisoned for one in outcomes):
        lines += [
            "",
            "In the phase *poison* the bad frames are of all kinds: bytes that are no picture, a broken picture, a "
            "broken one that is larger than the topic of dead letters takes, an empty frame, one at which the model "
            "raises an exception, one for which its logits are not finite, and a good frame with a header whose name "
            "is not UTF-8.",
        ]
    return lines


def _partitions(found: dict[str, Any]) -> str:
    blocked = found["blocked_partitions"]
    return "any partition" if not blocked else f"all but {blocked} partitions"


def _failures(found: dict[str, Any]) -> list[str]:
    """What went wrong stands at the top."""
    if not found["failures"]:
        return []
    return ["**What should not have been:**", "", *(f"- {text}" for text in found["failures"]), ""]


def _phases(outcomes: Sequence[Outcome]) -> list[str]:
    checks = " | ".join(_COLUMNS.values())
    rows = [
        f"| phase | brokers | protocol | delivery | minutes | frames | faults | {checks} | others | open | behind | "
        "standstill, all / one partition |",
        "|" + "---|" * (11 + len(_COLUMNS)),
    ]
    for one in outcomes:
        counted = [one.count(check) for check in _COLUMNS]
        others = sum(one.count(check.__name__) for check in one.must_hold if check.__name__ not in _COLUMNS)
        rows.append(
            f"| {one.phase.name} | {one.phase.nodes} | {one.phase.protocol} | `{one.phase.delivery}` | "
            f"{one.seconds / 60:.0f} | {one.frames:,} | {len(one.faults)} | {' | '.join(map(str, counted))} | {others} "
            f"| {one.blocked_partitions} | {one.offsets_behind} | {one.longest_gap_s:.1f} s / "
            f"{one.longest_standstill_s:.1f} s |"
        )
    return rows


def _kinds(table: dict[str, dict[str, Any]]) -> list[str]:
    rows = ["| fault | times | recovery, median | longest | longest gap |", "|---|---|---|---|---|"]
    for kind, row in table.items():
        median, longest = row["recovery_median_s"], row["recovery_longest_s"]
        shown = f"{median:.1f} s | {longest:.1f} s" if median is not None else "never | never"
        beside = f", {row['beside']} beside the moment" if row["beside"] else ""
        rows.append(f"| {KINDS[kind]} | {row['count']}{beside} | {shown} | {row['longest_gap_s']:.1f} s |")
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
            "- Restarts of a broker that is alone, with transactions. We saw Apache Kafka 4.3.1 skip the markers "
            "of an aborted transaction while it started (`Couldn't find leader endpoint … these partitions are likely "
            "deleted already`). Readers of committed records then wait for ever at that place; "
            "`kafka-transactions.sh find-hanging` and `abort` cure it. Run three brokers: another has the "
            "coordinator's role until the restarted one knows its topics.\n"
        )
    if "store_full" in left_out:
        lines.append(f"- {KINDS['store_full']}: this user may not mount a small file system.\n")
    return "".join(lines)


def _phase(outcome: Outcome) -> dict[str, Any]:
    found = asdict(outcome)
    found["phase"] = _told(outcome)
    found["standstill_s"] = {str(number): round(seconds, 2) for number, seconds in outcome.standstill_s.items()}
    found["exit_codes"] = {str(code): count for code, count in outcome.exit_codes.items()}
    found["ended"] = [{**asdict(worker), "said": _reason(worker.said)} for worker in outcome.ended]
    found["failures"] = outcome.failures()
    found["by_kind"] = by_kind(outcome.faults)
    found["faults"] = [_rounded(asdict(fault)) for fault in outcome.faults]
    return _rounded(found)


def _told(outcome: Outcome) -> dict[str, Any]:
    """The phase itself, without what it might have been dealt: the faults below are what it was."""
    told = asdict(outcome.phase)
    return {name: value for name, value in told.items() if name not in ("pack", "kinds")}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in values.items()}
