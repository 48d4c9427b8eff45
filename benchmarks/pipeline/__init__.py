"""Layercache beside other stream processors: ``python -m benchmarks.pipeline``.

:mod:`environment` installs the others, whose jobs are :mod:`peers`; :mod:`heads` are ours, :mod:`plumbing` is our
worker with an idle engine, and :mod:`bare` runs without Kafka. :mod:`systems` starts each of them, :mod:`load` sends
frames and reads predictions, :mod:`measure` has a system work while :mod:`process` watches what it uses, :mod:`numbers`
reckons, and :mod:`report` writes it down.
"""
