"""Cache heads.

:mod:`families` holds the three kinds of heads, :mod:`skims` finds the paths through the model that skim heads copy,
:mod:`scoring` makes an answer of their logits. :mod:`cache_heads` is a version of heads that is ready to serve:
:mod:`loading` builds it from its files, :mod:`compiled_heads` does so where its path is compiled, and :mod:`compiling`
makes such a path.
"""
