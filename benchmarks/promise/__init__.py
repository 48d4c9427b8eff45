"""Does the promise hold for life: ``python -m benchmarks.promise``.

:mod:`simulated_streams` are streams and heads whose risk is known; :mod:`runs` are the certifier's lives on them.
"""
