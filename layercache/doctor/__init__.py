"""``layercache doctor``: whether model, broker, topics, store and heads are as the settings need them.

:mod:`checks` is what a check reports and how long it may take; :mod:`machine`, :mod:`model`, :mod:`broker`,
:mod:`topics`, :mod:`groups`, :mod:`store` and :mod:`heads` each check one area, and :mod:`checkup` runs them in order.
The doctor changes nothing, except for a probe file in the store, which it removes again.
"""
