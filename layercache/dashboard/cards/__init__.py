"""The page's cards: each shows one part of the state, and redraws only when that part has changed.

:mod:`parts` is what they are made of. From the top of the page: :mod:`header`, :mod:`figures`, :mod:`frames`,
:mod:`flow`, :mod:`promise`, :mod:`series`, :mod:`versions` with the buttons of :mod:`actions`, :mod:`watching` and
:mod:`dead_letters`.
"""
