"""Publishing frames.

:mod:`sources` reads pictures from a folder, a zip, a video or a webcam, :mod:`referenced` puts them into a store or
refers to those that are there, :mod:`publisher` sends them at a pace and counts what the broker has acknowledged, and
:mod:`producer` makes records of them, as it does for the client of :mod:`layercache.api`.
"""
