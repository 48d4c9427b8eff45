"""Real processes for tests and benchmarks: Apache Kafka, workers, trainers, and networks that fail.

:mod:`apache_kafka` starts nodes, :mod:`topics` makes topics, :mod:`worker_process` and :mod:`trainer_process` start
ours; :mod:`proxy` and :mod:`kafka_proxy` stand between them; :mod:`ports` finds free ports and :mod:`waiting` waits on
conditions.
"""
