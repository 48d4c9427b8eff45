"""A deterministic simulation: the project's worker on a model of Kafka, in simulated time, every order by one seed.

The modules in the order in which a frame meets them:

- ``world`` (time, processes, threads that are greenlets) and ``network`` (requests late, lost, repeated)
- the broker: ``partition_log``, ``offsets``, ``sticky``, ``classic_group``, ``consumer_group``,
  ``transaction_coordinator``, ``broker``
- clients with librdkafka's ways: ``thread_calls``, ``partition_reader``, ``membership``, ``consumer``, ``admin``,
  ``record_sender``, ``transactional_calls``, ``producer``
- the worker on them (``worker_process``), what may befall it (``cluster``), a schedule by seed (``schedule``), the
  verdict (``checks``), and the project with one cure taken out (``mutants``)

``python -m tests.simulation`` plays many seeds.
"""
