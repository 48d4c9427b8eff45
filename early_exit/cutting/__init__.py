"""Where a model can be cut, and what the pieces cost.

:mod:`cuts` is what other rooms use. It cuts where :mod:`liveness` finds that a single tensor connects both halves,
whose axes :mod:`layouts` knows; :mod:`shapes` runs modules without values; :mod:`costs` measures the pieces.
"""
