"""Teaching heads.

In the order that a frame meets them: :mod:`kept_frames` keeps it, :mod:`views` makes views of it, :mod:`ring` keeps the
teacher's values of these at every cut, :mod:`proposals` says which heads are tried there, :mod:`candidates` are these
heads in training, :mod:`learner` drives all of it, and :mod:`batch_times` says what a head would save.
"""
