"""Everything that crosses a process boundary, one module each.

:mod:`frame` comes in; :mod:`prediction`, or a :mod:`dead_letter`, goes out; :mod:`distillation` goes to the trainer,
which leaves an :mod:`attempt` in the store before its heads come with a :mod:`manifest`. :mod:`settings` configures all
of them, and :mod:`publish` writes their JSON Schemas.
"""
