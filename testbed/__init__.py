"""Real processes for tests and benchmarks: Apache Kafka, workers, trainers, and networks that fail.

:mod:`apache_kafka` starts nodes, :mod:`topics` makes topics; :mod:`commands` starts our commands, as forks of
:mod:`forkserver`, :mod:`worker_process` and :mod:`trainer_process` those two, and :mod:`dying_worker` a worker that
dies when a test says so; :mod:`proxy` and :mod:`kafka_proxy` are the networks between them; :mod:`ports` finds free
ports and :mod:`waiting` waits on conditions.
"""
