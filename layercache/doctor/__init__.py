"""``layercache doctor``: whether model, broker, topics, store and heads are as the settings need them.

:mod:`checks` is what a check finds and how long it may take; :mod:`machine`, :mod:`model`, :mod:`broker`,
:mod:`topics`, :mod:`groups`, :mod:`store` and :mod:`heads` look, and :mod:`visit` says who looks when. Nothing is
changed but a probe file in the store, which is removed again.
"""
