"""What users call from Python: a model with exits in one's own loop, its trainer, and a client of a running stack.

:mod:`model` and :mod:`answers` are the model with exits, :mod:`training` what opens them, both without Kafka;
:mod:`client` and :mod:`async_client` publish frames to workers and read what they answer. :mod:`layercache` exports all
of it.
"""
