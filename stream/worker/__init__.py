"""The worker: frames in, answers out, in micro-batches, exactly once.

:mod:`service` makes the parts and :mod:`loop` drives them. In the order that a frame meets them: :mod:`consuming`
reads it, :mod:`batching` and :mod:`held` keep it until its micro-batch is due, :mod:`caution` sets frames aside that
ended a process, :mod:`answering` answers it, :mod:`delivery` sends the answer and commits the offset.
:mod:`overload` opens exits wider while the worker is behind. :mod:`metrics`, with
its :mod:`histogram`, and :mod:`health` tell what goes on; :mod:`members` says who shares the group, :mod:`stopping`
when to end, and :mod:`garbage` keeps Python's collector away from the frames.
"""
