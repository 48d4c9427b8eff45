"""Would other ways to certify ask for less: ``python -m benchmarks.alternatives``.

:mod:`scored` teaches real heads and keeps what they say of pictures that they have not seen, :mod:`draws` draws streams
of these and lets the trainer's own code choose exits on them, :mod:`studies` compares ways to certify the choices.
"""
