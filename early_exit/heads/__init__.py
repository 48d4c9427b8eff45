"""Cache heads: :mod:`families` are the kinds there are, :mod:`skims` finds the paths that one kind is made of, and
:mod:`loading` builds a version of them from its files.
"""
