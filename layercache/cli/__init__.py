"""The command line: ``layercache COMMAND``, a module for each command, and :mod:`main` that puts them together.

:mod:`demo`, :mod:`broker` and :mod:`report` are what a newcomer tries; :mod:`topics`, :mod:`worker`, :mod:`trainer`,
:mod:`publish`, :mod:`watch` and :mod:`dashboard` run a stack; :mod:`doctor`, :mod:`heads`, :mod:`cuts`, :mod:`profile`
and :mod:`settings` tell about one. :mod:`options` makes options of settings, and :mod:`common` has what all commands
share.
"""
