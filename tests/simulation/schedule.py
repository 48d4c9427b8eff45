"""A schedule: one seed decides what befalls the workers, the network and the broker, and when.

Each seed has a theme, so that faults meet which hardly ever do by chance: say a kill between the two calls of a commit,
and a member that joins while its heir waits.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.cluster import Simulation, Variant, Verdict
from tests.simulation.worker_process import WorkerProcess

#: Calls at which a worker may be killed, or frozen.
CALLS = (
    "commit_transaction",
    "send_offsets_to_transaction",
    "abort_transaction",
    "init_transactions",
    "begin_transaction",
    "consume",
    "seek",
)
#: Requests that may meet a fault.
REQUESTS = (
    "EndTxn",
    "AddPartitionsToTxn",
    "AddOffsetsToTxn",
    "TxnOffsetCommit",
    "Produce",
    "InitProducerId",
    "OffsetFetch",
    "OffsetFetch(admin)",
    "ListOffsets",
    "JoinGroup",
    "SyncGroup",
    "ConsumerGroupHeartbeat",
    "OffsetCommit",
)
FAULTS = ("late", "late", "reply_lost", "lost", "slow")

Play = Callable[[Simulation], None]


def simulate(
    seed: int | str,
    trace: Callable[[str], None] | None = None,
    variant: Variant | None = None,
    theme: Play | None = None,
) -> Verdict:
    """Plays the schedule of a seed; the seed chooses what is not given."""
    simulation = Simulation(seed, variant, trace)
    random = simulation.random
    simulation.yield_rate = random.choice((0.0, 0.1, 0.3))
    simulation.fail_rate = random.choice((0.0, 0.0, 0.2))
    theme = theme or random.choice(THEMES)
    simulation.theme = theme.__name__
    simulation.world.tell("theme:", simulation.theme)
    simulation.publish(random.randrange(1, 6))
    for _ in range(random.choice((1, 2, 2, 3))):
        simulation.start()
    _pass(simulation, 0.05, 0.8)
    simulation.publish_on(random.choice((0.05, 0.15, 0.4)))
    theme(simulation)
    simulation.heal()
    if random.random() < 0.5:
        simulation.publish(random.randrange(1, 4))
    return simulation.verdict()


def anything(simulation: Simulation) -> None:
    """Whatever there is, in any order."""
    random = simulation.random
    simulation.network.fault_rate = random.choice((0.0, 0.0, 0.01, 0.04))
    for _ in range(random.randrange(2, 9)):
        random.choice(_DEEDS)(simulation)
        _pass(simulation, 0.02, random.choice((0.1, 0.5, 1.5)))


def late_ends(simulation: Simulation) -> None:
    """Ends of transactions, and what opens them, are delayed on their connection; commits go on meanwhile."""
    random = simulation.random
    for _ in range(random.randrange(1, 4)):
        if random.random() < 0.4:
            simulation.arm(random.choice(("TxnOffsetCommit", "Produce")), random.choice(("lost", "reply_lost")))
        if random.random() < 0.4:
            _provoke_abort(simulation)
        simulation.arm(random.choice(("EndTxn", "EndTxn", "EndTxn", "AddPartitionsToTxn", "AddOffsetsToTxn")), "late")
        _pass(simulation, 0.1, 1.5)
        if random.random() < 0.3:
            random.choice(_DEEDS)(simulation)


def late_offsets(simulation: Simulation) -> None:
    """Offsets arrive late, while later transactions take their time to end; then partitions change hands."""
    random = simulation.random
    simulation.publish_on(0.1)
    for _ in range(random.choice((1, 2))):
        simulation.arm("TxnOffsetCommit", "late")
        _pass(simulation, 0.3, 1.0)
        for _ in range(random.randrange(1, 4)):
            simulation.arm("EndTxn", "slow")
            _pass(simulation, 0.1, 0.8)
        if random.random() < 0.5:
            simulation.kill(_one(simulation))
        else:
            _join_or_leave(simulation)
        _pass(simulation, 0.1, 1.0)


def takeover(simulation: Simulation) -> None:
    """A worker dies while it commits; others join and leave while its heirs wait for stable offsets."""
    random = simulation.random
    for _ in range(random.choice((1, 1, 2))):
        worker = _one(simulation)
        call = random.choice(("commit_transaction", "commit_transaction", "send_offsets_to_transaction"))
        if random.random() < 0.75:
            simulation.kill_at(worker, call)
        else:
            simulation.freeze_at(worker, call, random.uniform(2.0, 6.0))
        if len(simulation.running()) < 2 or random.random() < 0.3:
            simulation.start()
        _pass(simulation, 0.5, 2.5)
        for _ in range(random.randrange(1, 4)):
            if random.random() < 0.3:
                simulation.arm("ListOffsets", "slow")
            _join_or_leave(simulation)
            _pass(simulation, 0.1, 1.0)
    if random.random() < 0.3:
        simulation.slow_markers(random.choice((0.3, 1.0)))
        _pass(simulation, 0.5, 2.0)


def lost_replies(simulation: Simulation) -> None:
    """Records arrive and their acknowledgements do not; then something aborts."""
    random = simulation.random
    for _ in range(random.randrange(1, 4)):
        simulation.arm("Produce", random.choice(("reply_lost", "reply_lost", "late", "lost")))
        simulation.publish(random.choice((1, 1, 2)))
        _pass(simulation, 0.01, 0.15)
        if random.random() < 0.5:
            _provoke_abort(simulation)
            _pass(simulation, 0.1, 1.0)
        else:
            random.choice((simulation.freeze, simulation.cut))(_one(simulation), random.uniform(1.6, 3.5))
            _pass(simulation, 2.0, 4.0)


def away(simulation: Simulation) -> None:
    """A worker is frozen or cut off for longer than its session, and comes back; another may have its name."""
    random = simulation.random
    for _ in range(random.choice((1, 1, 2))):
        worker = _one(simulation)
        seconds = random.uniform(1.5, 5.0)
        if random.random() < 0.4:
            simulation.freeze_at(worker, random.choice(CALLS), seconds)
        else:
            random.choice((simulation.freeze, simulation.cut))(worker, seconds)
        _pass(simulation, 0.1, 1.0)
        if random.random() < 0.6:
            simulation.start(like=worker if random.random() < 0.6 else None)
        _pass(simulation, 1.0, 4.0)
        if random.random() < 0.4:
            _join_or_leave(simulation)
            _pass(simulation, 0.1, 2.0)


def carousel(simulation: Simulation) -> None:
    """Partitions wander from worker to worker and back, quicker than questions about their offsets are answered."""
    random = simulation.random
    for _ in range(random.randrange(3, 8)):
        if random.random() < 0.7:
            simulation.arm("OffsetFetch", "slow")
        running = simulation.running()
        if len(running) > 1 and random.random() < 0.55:
            random.choice(running).stop.set()
        else:
            simulation.start_unless_healed()
        _pass(simulation, 0.05, 0.5)


def rejoin(simulation: Simulation) -> None:
    """A worker is frozen while its group rebalances, is thrown out, and joins again under another id."""
    random = simulation.random
    for _ in range(random.choice((1, 2))):
        worker = _one(simulation)
        simulation.start_unless_healed()
        _pass(simulation, 0.02, 0.6)
        if random.random() < 0.5:
            simulation.arm("JoinGroup", random.choice(("slow", "late", "reply_lost")))
        random.choice((simulation.freeze, simulation.cut))(worker, random.uniform(1.5, 9.0))
        _pass(simulation, 1.0, 6.0)


def late_joins(simulation: Simulation) -> None:
    """What a member said when it joined arrives late, in a rebalance for which it means to say something else."""
    random = simulation.random
    simulation.publish_on(0.1)
    while len(simulation.running()) < 3:
        simulation.start()
    for _ in range(random.randrange(3, 8)):
        for _ in range(random.choice((1, 2, 3))):
            simulation.arm("JoinGroup", random.choice(("late", "late", "lost", "reply_lost")))
        if random.random() < 0.5:
            simulation.arm("SyncGroup", "slow")
        if random.random() < 0.4:
            simulation.cut(_one(simulation), random.uniform(1.0, 3.5))
        else:
            _join_or_leave(simulation)
        _pass(simulation, 0.1, 1.5)


THEMES: tuple[Play, ...] = (
    anything, late_ends, late_offsets, takeover, lost_replies, away, carousel, rejoin, late_joins,
)  # fmt: skip


def _pass(simulation: Simulation, least_s: float, most_s: float) -> None:
    world = simulation.world
    world.run(world.now + simulation.random.uniform(least_s, most_s))


def _one(simulation: Simulation) -> WorkerProcess:
    running = simulation.running()
    return simulation.random.choice(running) if running else simulation.start()


def _provoke_abort(simulation: Simulation) -> None:
    """A transaction that is open will have to be aborted: by a rebalance, or since a record cannot be delivered."""
    random = simulation.random
    what = random.random()
    if what < 0.5:
        _join_or_leave(simulation)
    elif what < 0.8:
        simulation.fail_over("group", random.uniform(0.3, 2.5))
    else:
        simulation.cut(_one(simulation), random.uniform(0.3, 3.0))


def _join_or_leave(simulation: Simulation) -> None:
    random = simulation.random
    running = simulation.running()
    if len(running) > 1 and random.random() < 0.4:
        worker = random.choice(running)
        if random.random() < 0.5:
            simulation.kill(worker)
        else:
            worker.stop.set()
    else:
        simulation.start_unless_healed()


def _meet_fault(simulation: Simulation) -> None:
    for _ in range(simulation.random.choice((1, 1, 2))):
        simulation.arm(simulation.random.choice(REQUESTS), simulation.random.choice(FAULTS))


def _kill_at(simulation: Simulation) -> None:
    simulation.kill_at(_one(simulation), simulation.random.choice(CALLS))


def _kill(simulation: Simulation) -> None:
    simulation.kill(_one(simulation))


def _freeze(simulation: Simulation) -> None:
    simulation.freeze(
        _one(simulation), simulation.random.choice((0.2, 1.0, 3.0, 5.0)) * simulation.random.uniform(0.5, 1.5)
    )


def _cut(simulation: Simulation) -> None:
    simulation.cut(_one(simulation), simulation.random.choice((0.2, 1.0, 3.0)) * simulation.random.uniform(0.5, 1.5))


def _stop(simulation: Simulation) -> None:
    _one(simulation).stop.set()


def _fail_over(simulation: Simulation) -> None:
    simulation.fail_over(simulation.random.choice(("group", "transactions")), simulation.random.uniform(0.1, 2.0))


def _reset(simulation: Simulation) -> None:
    simulation.reset(_one(simulation))


def _slow_markers(simulation: Simulation) -> None:
    simulation.slow_markers(simulation.random.choice((0.01, 0.3, 1.0)))


_DEEDS: tuple[Play, ...] = (
    _join_or_leave, _join_or_leave, _meet_fault, _meet_fault, _meet_fault, _kill_at, _kill_at, _kill, _freeze, _cut,
    _stop, _fail_over, _reset, _slow_markers,
)  # fmt: skip
