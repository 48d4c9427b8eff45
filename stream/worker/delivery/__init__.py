"""Delivery: records and offsets leave together or not at all.

:mod:`transactions` is the kind that :mod:`delivery` describes, :mod:`states` decides what comes after what,
:mod:`errors` says what a failure means, :mod:`watched_producer` is one producer with what it has told,
:mod:`request_watch` knows the requests that it got no answer to, and :mod:`group_membership` as which member of the
group it may commit.
"""
