"""Answering a micro-batch.

:mod:`answering` runs it with the heads that :mod:`heads_watch` brings, :mod:`culprits` finds the frames at which the
model fails, :mod:`records` makes predictions and what the trainer learns from, :mod:`sampling` sends less of that
while the trainer cannot keep up, as :mod:`trainer_lag` measures.
"""
