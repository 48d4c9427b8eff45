"""Teaching heads.

In the order that a frame meets them: :mod:`kept_frames` keeps it, :mod:`views` makes views of it, :mod:`ring` keeps
what the teacher found in these at every cut, :mod:`candidates` are the heads that learn from that, :mod:`learner`
drives all of it, and :mod:`batch_times` says what a head would save.
"""
