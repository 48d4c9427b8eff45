"""Answering a micro-batch.

:mod:`answering` is what the worker's loop hands its frames to. :mod:`heads_watch` brings the heads, :mod:`micro_batch`
has the engine run with them, :mod:`culprits` finds the frames at which the model fails, :mod:`exit_guard` closes exits
that break their promise, :mod:`lessons` picks frames that only teach, :mod:`records` makes predictions and what the
trainer learns from, :mod:`sampling` sends less of that while the trainer cannot keep up, as :mod:`trainer_lag`
measures.

:mod:`micro_batch`, :mod:`lessons` and :mod:`records` know no Kafka: the offline worker, models in users' own loops and
the report answer by them, too.
"""
