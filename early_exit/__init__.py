"""The model side: where a model can be cut, the heads on its cuts, who leaves where, and the store of heads.

In the order that a frame meets them: :mod:`model` builds the pretrained classifier and fits pictures to it,
:mod:`cutting` finds where it can be cut and cuts it, :mod:`compiled` runs it as a graph of OpenVINO, :mod:`runtimes`
chooses what runs it as a whole, :mod:`heads` are what stands at the cuts, :mod:`policy` says who is audited and who
leaves where, :mod:`cascades` lead to the exits, and :mod:`engine` runs micro-batches by them; :mod:`drift` watches
them, :mod:`blocks` gathers near-copies for it, :mod:`store` keeps versions of heads. :mod:`machine` has the errors of
the machine itself, and :mod:`memory` keeps what was freed ready for the next micro-batch.

Examples here run on the demo's classifier, from the repository's root:

>>> from layercache.early_exit.cutting import cuts
>>> from layercache.early_exit.model import loading
>>> from layercache.early_exit.engine import Engine
>>> from layercache.schemas.settings import Model
>>> traced = cuts.trace(loading.load(Model(spec="examples/fashion_mnist.py:build")))
>>> [cut.name for cut in traced.proposed]
['relu', 'layer1', 'layer2', 'layer3']

``heads`` are one version of heads for it, with one exit, at ``layer2``
(:func:`layercache.early_exit.heads.loading.load_heads` says how they are made), which has learnt nothing and lets
every frame go:

>>> heads.manifest.exits[0].cut
'layer2'
>>> Engine(traced, heads).exits
('layer2',)
"""
