"""The demo: a broker, a worker, a trainer and a publisher as processes, watched live, then measured and reported.

:mod:`settings` chooses how, and :mod:`run` is the whole of it. :mod:`streaming` starts the :mod:`processes`, each by
:mod:`child`, and the :mod:`dashboard_process` beside them; :mod:`readings` reads what they send, :mod:`versions` the
heads that they name, and :mod:`view` shows both. :mod:`report` and its :mod:`chart` are what remains.
"""
