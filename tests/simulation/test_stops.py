"""How workers end: as they were told to, whatever the broker says meanwhile."""

from __future__ import annotations

from unittest.mock import patch

from layercache.stream.worker.caution import Caution
from tests.simulation.cluster import Simulation, Variant


def test_a_worker_whose_name_another_took_ends_without_a_crash() -> None:
    """Its notes stay with its offsets: nothing can be committed any more, not even while it leaves the group."""
    simulation = Simulation(1, Variant(named=True, partitions=1))
    world = simulation.world
    older = simulation.start()
    world.run(2.0)
    simulation.publish(1)
    world.run(world.now + 0.05)
    simulation.start(like=older)
    with patch.object(Caution, "take_back", lambda self, partitions=None: {0: 0}):  # as after a rewind
        older.stop.set()
        world.run(world.now + 15.0)
    assert older.outcome is not None
    assert "another worker took over the transactional.id" in older.outcome
