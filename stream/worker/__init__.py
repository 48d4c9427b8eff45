"""The worker: frames in, answers out, in micro-batches, exactly once.

:mod:`service` makes the parts and :mod:`loop` drives them. In the order in which a frame meets them:
:mod:`consuming` reads it, :mod:`caution` says whether it must be set aside, since such a frame ended a process,
:mod:`backlog` keeps it until its micro-batch is due, :mod:`answering` answers it, :mod:`delivery` sends the answer, and
:mod:`commits` has its offset committed. :mod:`loop_state` says what a rebalance means to all that. :mod:`overload` says
when the worker is so far behind that exits may open wider. :mod:`metrics`, with its :mod:`histogram`, and :mod:`health`
tell what goes on; :mod:`members` says which models share the group, :mod:`stopping` when to end, and :mod:`garbage`
keeps Python's collector away from the frames.
"""
