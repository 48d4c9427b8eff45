"""Does the test suite bite? The project broken in one place after another: ``python -m tests.mutants --help``.

:mod:`mutant` is one mistake, :mod:`catalogue` lists them by area (:mod:`store`, :mod:`engine`, …), :mod:`bench` makes
them in a copy of the tree and runs the tests there, :mod:`preloaded` and :mod:`unshrunk` save time meanwhile, and
``__main__`` is the command. The simulation's own mutants, which are cures taken out of a running worker, are in
``tests/simulation/mutants.py``.
"""
