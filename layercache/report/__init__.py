"""``layercache report``: what exits would save on one's own model and frames, without Kafka.

In the order that a frame meets them: :mod:`footage` reads and decodes what the user has, :mod:`rehearsal` is the stream
on which heads learn while they serve, :mod:`exam` asks them about frames that they have never seen, :mod:`needs` says
how many frames a certificate takes, :mod:`findings` what the reader must know about the numbers, and :mod:`page`
writes it all down.
"""
