"""Exits against none: what demo and report measure alike.

:mod:`labelled_frames` are frames with the full model's labels, :mod:`tally` counts answers, :mod:`columns` puts them
into arrays, :mod:`plain_runtimes` are what one would run without exits, :mod:`runtime_times` says what runs the full
model and what each of these would take, :mod:`race` times exits against them and the full model, :mod:`needs` says how
many frames a certificate takes, and :mod:`summary` is what came of it.
"""
