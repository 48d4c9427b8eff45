"""The pretrained classifier, as it was given.

:mod:`loading` builds it, with :mod:`weights` from a file, what :mod:`metadata` says beside it, or all of that from
:mod:`timm_models`. :mod:`preprocessing` fits a picture to it, :mod:`tracing` makes a graph of it, and
:mod:`fingerprint` names it by architecture, weights and preprocessing.
"""
