"""Frames that refer to pictures which lie elsewhere.

In the order that a reference meets them: :mod:`prefixes` says whether it may lead there, :mod:`fetching` fetches the
file within a deadline, :mod:`reading` reads it, never more than allowed, and :mod:`fetching_pool` is the decode pool
that does so.
"""
