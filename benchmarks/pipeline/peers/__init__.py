"""The same job for other stream processors, written as their users would; see ``benchmarks.pipeline``.

:mod:`job` is what all of them do: :mod:`faust_app`, :mod:`quix_app`, :mod:`bytewax_app`, and :mod:`loop_app` without
any of these.
"""
