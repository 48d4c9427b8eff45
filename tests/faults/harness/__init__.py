"""The fault harness: numbered frames through real workers on Apache Kafka while seeded faults strike.

Run by ``make faults`` (``python -m tests.faults.harness``). :mod:`.plan` says what there is to do, and :mod:`.phase`
does one phase of it on one cluster: :mod:`.publishing` sends the :mod:`.frames` (a model fails at some:
:mod:`.poison`), :mod:`.fleet` keeps workers (each a :mod:`.lives`, with :mod:`.entry` around its clients),
:mod:`.faults` strikes (:mod:`.window`, :mod:`.holding`, :mod:`.skew`), :mod:`.reading` and :mod:`.offsets` listen.
What they heard is a :mod:`.history`, which :mod:`.checks` judges. All that became of a phase is its :mod:`.verdict`;
:mod:`.keeping` stores it, :mod:`.report` tells it.
"""
