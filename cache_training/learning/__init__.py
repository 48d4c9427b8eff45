"""Teaching heads.

In the order that a frame meets them: :mod:`kept_frames` keeps it, :mod:`views` makes views of it, :mod:`ring` keeps the
teacher's values of these at every cut, :mod:`proposals` says which heads are tried there, :mod:`candidates` are these
heads in training, :mod:`learner` drives all of it. :mod:`compiled_exits` stand on a compiled path: heads, and the model
itself in another precision, which learns nothing; :mod:`compiled_routes` make such paths, and tell beforehand what they
would cost. :mod:`routes` say what it costs to get to an exit, and
:mod:`batch_times` what a micro-batch then takes.
"""
