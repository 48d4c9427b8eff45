"""The ground that everything which talks to Kafka stands on.

:mod:`clients` makes clients from the settings, :mod:`delivery_options` refuses the options that would void a worker's
promise, :mod:`client_log` and :mod:`throttle` keep the logs readable. :mod:`reach` connects to a broker and waits for
one, :mod:`topics` creates topics, :mod:`record_limits` says how large records may be. :mod:`following` reads topics
outside of any group, :mod:`record_headers` reads their records' headers, and :mod:`offsets` says how far a group is
behind. :mod:`waiting` gives every call to a client a deadline.
"""
