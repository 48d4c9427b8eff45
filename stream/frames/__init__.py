"""A frame, from a record of the frames topic to the picture that the model sees.

In the order that a record meets them: :mod:`frame` is the record, :mod:`envelope` its key and headers,
:mod:`decode_pool` decodes off the hot thread, :mod:`image_header` reads what the first bytes say, :mod:`decoding` makes
the picture, and :mod:`bare_errors` keeps what went wrong without holding the frame.
"""
