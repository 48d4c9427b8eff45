"""The pretrained classifier, as it was given.

:mod:`loading` has it built by :mod:`torchvision_models`, :mod:`timm_models` or, from a user's own file, by
:mod:`python_files`; :mod:`weights` loads its weights and :mod:`metadata` reads its preprocessing and classes.
:mod:`preprocessing` fits a picture to it, :mod:`tracing` makes a graph of it, :mod:`fingerprint` identifies it by
architecture, weights and preprocessing, and :mod:`reference` is what runs it as a whole.
"""
