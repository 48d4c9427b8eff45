"""Chooses what runs the full model: PyTorch, or OpenVINO in float32 where that is quicker and answers alike.

A model that is loaded to be served is given its reference by :func:`with_reference`, which takes seconds; where nobody
asks for it, PyTorch runs the model.
"""

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from math import prod
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from layercache.early_exit.compiled.allowed import refusal
from layercache.early_exit.compiled.graphs import CompiledGraph, Graph
from layercache.early_exit.compiled.openvino_runtime import CompileError
from layercache.early_exit.compiled.probes import generated_pictures
from layercache.early_exit.compiled.whole_models import answer_by, convert_whole
from layercache.early_exit.cutting.costs import fair_clock
from layercache.early_exit.model.loading import Classifier, ModelError
from layercache.early_exit.model.reference import UNDECIDED, AnswerPictures, Reference

#: Two runtimes answer alike if no logit of a generated picture differs by more than this share of the largest one, and
#: no label does. Sums in another order make differences of some 1e-6.
TOLERANCE = 1e-3
#: So many pictures are compared together, and the first few singly; fewer of a model that takes longer than this.
_TOGETHER, _SINGLY, _LONGEST_MS = 32, 4, 500.0
_REPEATS = 5
#: What was chosen for the models of this process, as long as one of them lives: the same model made again shares the
#: graph, and its choice.
_CHOSEN: WeakValueDictionary[tuple[Hashable, ...], Reference] = WeakValueDictionary()
_CHOOSING = threading.Lock()


def with_reference(classifier: Classifier, max_batch: int = _TOGETHER) -> Classifier:
    """The classifier with what runs it as a whole; as it is where that has been chosen already.

    ``max_batch``: how many frames it will answer together at most. Takes seconds where it compiles the model. Raises
    :class:`ModelError` where the settings want OpenVINO and it cannot run the model.

    >>> by_torch = replace(traced.classifier, runtime="torch")
    >>> with_reference(by_torch).reference.reason
    'model.runtime is torch'
    """
    if classifier.reference is not UNDECIDED:
        return classifier
    batch, threads = min(max_batch, _TOGETHER), torch.get_num_threads()
    place = (classifier.fingerprint, classifier.runtime, classifier.device, classifier.dtype, threads, batch)
    with _CHOOSING:
        reference = _CHOSEN.get(place)
        if reference is None:
            reference = _CHOSEN[place] = _choose(classifier, batch)
    return replace(classifier, reference=reference)


def _choose(classifier: Classifier, batch: int) -> Reference:
    try:
        why_not = refusal(classifier)
        if why_not is None and classifier.dtype != torch.float32:
            why_not = f"model.dtype is {str(classifier.dtype).removeprefix('torch.')}"
        if why_not is not None:
            raise CompileError(why_not)
        graph = CompiledGraph(Graph.of(convert_whole(classifier)), "float32", torch.get_num_threads())
        times = compared(classifier, graph, batch)
    except CompileError as error:
        if classifier.runtime == "openvino":
            raise ModelError(f"model.runtime is openvino, but {error}") from error
        return Reference("torch", str(error))
    gain = prod(torch_ms / openvino_ms for torch_ms, openvino_ms in times.values())
    measured = "; ".join(
        f"in batches of {frames} {openvino_ms / frames:.3g} ms a frame, PyTorch {torch_ms / frames:.3g}"
        for frames, (torch_ms, openvino_ms) in times.items()
    )
    if gain <= 1.0 and classifier.runtime != "openvino":
        return Reference("torch", f"OpenVINO is not quicker here ({measured})")
    return Reference("openvino", measured, lambda: answer_by(graph))


def full_model(classifier: Classifier) -> AnswerPictures:
    """What answers pictures by the full model, whatever runs it; for one thread at a time.

    >>> full_model(traced.classifier)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """
    make_runner = classifier.reference.make_runner
    return make_runner() if make_runner else by_pytorch(classifier)


def by_pytorch(classifier: Classifier) -> AnswerPictures:
    """The same by PyTorch, as engines run its layers: channels last.

    >>> by_pytorch(traced.classifier)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """
    module = classifier.module.to(memory_format=torch.channels_last)

    def answer(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(classifier.inputs(pictures))
            return logits.float()

    return answer


def compared(classifier: Classifier, graph: CompiledGraph, batch: int) -> Mapping[int, tuple[float, float]]:
    """Milliseconds of PyTorch and of OpenVINO by frames together: one, and up to ``batch``.

    Raises :class:`CompileError` where they do not answer alike.
    """
    preprocessing = classifier.preprocessing
    pictures = generated_pictures(preprocessing.channels, preprocessing.size, _TOGETHER)
    runs = (by_pytorch(classifier), answer_by(graph))
    clock = fair_clock(classifier.device)
    times = {1: _times(runs, pictures[:1], clock)}
    together = max(1, min(batch, int(_LONGEST_MS / max(times[1]))))
    expected = runs[0](pictures[:together])
    _check_alike(expected, runs[1](pictures[:together]), f"in batches of {together}")
    for row in range(min(_SINGLY, together)):
        _check_alike(expected[row : row + 1], runs[1](pictures[row : row + 1]), "singly")
    if together > 1:
        times[together] = _times(runs, pictures[:together], clock)
    return times


def _check_alike(expected: Tensor, found: Tensor, how: str) -> None:
    if expected.shape != found.shape:
        raise CompileError(
            f"by OpenVINO it gives {tuple(found.shape)} logits {how}, by PyTorch {tuple(expected.shape)}"
        )
    differs = float((found - expected).abs().max())
    if not differs <= TOLERANCE * float(expected.abs().max()):
        raise CompileError(f"by OpenVINO its logits differ by up to {differs:.2g} {how}")
    if not torch.equal(expected.argmax(1), found.argmax(1)):
        raise CompileError(f"by OpenVINO it gives generated pictures other labels {how}")


def _times(
    runs: tuple[AnswerPictures, AnswerPictures], pictures: Tensor, clock: Callable[[], float]
) -> tuple[float, float]:
    """Milliseconds of both: the fastest of a few calls, by turns, after a warm-up."""
    best = [float("inf"), float("inf")]
    for repeat in range(_REPEATS + 1):
        for index, run in enumerate(runs):
            began = clock()
            run(pictures)
            spent = (clock() - began) * 1000
            if repeat:
                best[index] = min(best[index], spent)
        if repeat and sum(best) > _LONGEST_MS:
            break
    return best[0], best[1]
