"""Is memory flat at the machine's limit: ``python -m benchmarks.soak``.

:mod:`load` makes the frames, :mod:`memory` reads what the processes take, and :mod:`report` says what came of it.
"""
