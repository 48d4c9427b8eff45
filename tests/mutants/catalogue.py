"""All mutants, by area."""

from __future__ import annotations

from tests.mutants import certificate, decoding, delivery, engine, store

AREAS = {
    "delivery": delivery.MUTANTS,
    "certificate": certificate.MUTANTS,
    "engine": engine.MUTANTS,
    "store": store.MUTANTS,
    "decoding": decoding.MUTANTS,
}
MUTANTS = tuple(mutant for mutants in AREAS.values() for mutant in mutants)
