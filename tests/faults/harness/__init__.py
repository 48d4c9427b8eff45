"""The fault harness: numbered frames through real workers on Apache Kafka while seeded faults strike.

Run by ``make faults`` (``python -m tests.faults.harness``). :mod:`.stream` publishes and listens, :mod:`.fleet` keeps
workers, :mod:`.faults` strikes, :mod:`.phase` runs it all on one cluster, :mod:`.verdict` counts, :mod:`.report` tells.
"""
