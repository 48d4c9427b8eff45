"""The trainer as a process.

:mod:`app` takes records from the distillation topic, logged in by :mod:`credentials`; :mod:`thread` learns from them;
:mod:`state` checkpoints what it has learnt; :mod:`metrics` shows Prometheus how it stands.
"""
