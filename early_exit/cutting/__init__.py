"""Where a model can be cut, and what the pieces cost.

:mod:`cuts` is what others use: it finds where :mod:`liveness` sees a single tensor alive, in a memory layout that
:mod:`layouts` knows, of a size that :mod:`shapes` gives; :mod:`costs` measures the pieces.
"""
