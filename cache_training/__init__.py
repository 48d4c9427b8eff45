"""The online trainer: full-path results in, certified cache heads out.

:mod:`service` feeds it from Kafka, :mod:`trainer` is the whole of it without Kafka, :mod:`learning` teaches the heads,
:mod:`certifying` decides which may open.
"""
