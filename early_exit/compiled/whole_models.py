"""The whole model as one graph, from pictures to logits: normalising is in the graph."""

from typing import Any

import torch
from torch import Tensor, nn

from layercache.early_exit.compiled.graphs import CompiledGraph, convert
from layercache.early_exit.model.loading import Classifier
from layercache.early_exit.model.preprocessing import Normaliser
from layercache.early_exit.model.reference import AnswerPictures


def convert_whole(classifier: Classifier) -> Any:
    """The model as an ``openvino.Model`` that takes pictures uint8 ``[N, C, h, w]`` and gives logits.

    Raises :class:`~layercache.early_exit.compiled.openvino_runtime.CompileError` with the reason.
    """
    whole = nn.Sequential(Normaliser(classifier.preprocessing), classifier.module).eval()
    shape = (2, classifier.preprocessing.channels, *classifier.preprocessing.size)
    return convert(whole, torch.zeros(shape, dtype=torch.uint8))


def answer_by(graph: CompiledGraph) -> AnswerPictures:
    """Answers pictures by such a graph; for one thread at a time."""
    run = graph.runner()

    def answer(pictures: Tensor) -> Tensor:
        return torch.from_numpy(run(pictures.numpy())[0].copy())

    return answer
