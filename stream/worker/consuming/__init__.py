"""Reading frames: :mod:`consumer` makes the calls, :mod:`positions` decides where each partition is read, and
:mod:`committed` asks the broker for the group's stable offsets.
"""
