"""The dashboard: what a browser shows of a running Layercache, gathered from topics, store and metrics alone.

:mod:`tail` follows topics, :mod:`frames` fetches single frames for their :mod:`thumbnails`, :mod:`lag` reads offsets,
:mod:`scrape` reads metrics, and :mod:`heads` reads the store for :mod:`versions`. Each does so in a :mod:`periodic`
thread and reports trouble on the :mod:`board`. :mod:`answers`, :mod:`audited` and :mod:`slices` count, :mod:`gathered`
holds all of it behind one lock, and :mod:`collector` starts the threads and makes the :mod:`state`, whose heads are
:mod:`heads_state`. Through :mod:`backend` the :mod:`page` reads it, :mod:`verdict` judges it, the :mod:`cards` draw it
with the numbers of :mod:`words`, and :mod:`app` serves the page.
"""
