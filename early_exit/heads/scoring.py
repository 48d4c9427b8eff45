"""How an exit's logits become an answer."""

from torch import Tensor


def scored(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities ``[N, classes]``, score ``[N]`` and label ``[N]`` of an exit, from its logits ``[N, classes]``.

    The score is the largest probability.

    >>> import torch
    >>> chances, score, label = scored(torch.tensor([[0.0, 2.0]]), temperature=2.0)
    >>> round(float(score), 3), int(label)
    (0.731, 1)
    """
    probabilities = (logits.float() / temperature).softmax(1)
    score, label = probabilities.max(1)
    return probabilities, score, label
