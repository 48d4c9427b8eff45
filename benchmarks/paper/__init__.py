"""The paper's tasks, its method and ours: ``python -m benchmarks.paper``.

:mod:`data` has the tasks' frames and :mod:`backbones` their models. :mod:`method` is the paper's method, with what
:mod:`search` found for it, and :mod:`ours` is ours, which :mod:`compiled` puts on a compiled path, beside the plain
runtimes; :mod:`rows` says what the exits of either are worth, and :mod:`latency` how long they take. :mod:`records`
keeps each run, and :mod:`report` writes them down.
"""
