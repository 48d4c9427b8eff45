"""Cache heads.

:mod:`families` holds the three kinds of heads, :mod:`skims` finds the paths through the model that skim heads copy, and
:mod:`loading` builds a version of heads from its files.
"""
