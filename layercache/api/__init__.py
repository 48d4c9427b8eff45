"""What users call from Python: a model with exits in one's own loop, its trainer, and a client of a running stack.

:mod:`pictures` makes what a model takes of what users have, :mod:`model` and :mod:`answers` are the model with exits,
:mod:`training` what opens them, all without Kafka. :mod:`values` makes what a frame's record carries,
:mod:`publishing` sends it to workers, :mod:`following` reads what they answer, and :mod:`client` and
:mod:`async_client` do both. :mod:`layercache` exports all of it.
"""
