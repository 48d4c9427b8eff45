"""Reading frames as a member of a consumer group.

:mod:`membership` says whom the member tells of rebalances and what the user's options mean to it. :mod:`consumer` makes
the calls, :mod:`errors` judges what went wrong with them, :mod:`positions` decides where each partition is read, and
:mod:`committed` asks the broker for the group's stable offsets.
"""
