"""The simulation finds each cure that is taken out of the project."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.schedule import simulate


def marks(mutant: Mutant) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] * (not mutant.is_quick) + [pytest.mark.exhaustive] * mutant.is_rare


@pytest.mark.parametrize("mutant", [pytest.param(one, id=one.patch.__name__, marks=marks(one)) for one in MUTANTS])
def test_a_cure_that_is_taken_out_is_missed(mutant: Mutant) -> None:
    with mutant.patch():
        found = next((seed for seed in range(mutant.within) if simulate(seed, theme=mutant.theme).problems), None)
    assert found is not None, f"{mutant.within} schedules of {mutant.theme.__name__} did not notice"
    assert simulate(found, theme=mutant.theme).problems == [], "with the cure, nothing is wrong"
