"""``layercache report``: what exits would save on one's own model and frames, without Kafka.

:mod:`run` is the whole of it. In the order that a frame meets them: :mod:`footage` reads and decodes what the user has,
:mod:`rehearsal` is the stream on which heads learn while they serve, :mod:`alternative` is what one could run instead,
and :mod:`exam` asks both about frames that they have never seen. :mod:`results` gathers what came of it into
:mod:`numbers`, :mod:`findings` says what the reader must know about these, and :mod:`page` writes it all down, with the
sentences of :mod:`words` and the :mod:`plots`.
"""
