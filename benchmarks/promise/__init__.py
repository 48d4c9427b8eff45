"""Does the promise hold for life: ``python -m benchmarks.promise``.

:mod:`simulated_streams` and :mod:`simulated_heads` are streams and heads whose risk is known, :mod:`scenarios` put them
together, and :mod:`runs` are the certifier's lives on them, as it is and with :mod:`mutants` of it.
"""
