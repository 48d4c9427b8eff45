"""The tiny model, as one that fails: at some pictures, or at all once a file lies beside it."""

from pathlib import Path

import numpy as np

from tests.support import tiny_model
from tests.support.pictures import Pixels
from tests.support.tiny_model import TinyModel

#: It raises at pictures that are white, makes NaN of black ones, and ends the process at grey ones.
WHITE: Pixels = np.full((16, 16, 3), 255, np.uint8)
BLACK: Pixels = np.zeros((16, 16, 3), np.uint8)
GREY: Pixels = np.full((16, 16, 3), 128, np.uint8)

_CHECK = """
import os
import pathlib
import signal
import time

import torch

FOLDER = pathlib.Path(__file__).parent


@torch.fx.wrap
def check(x: Tensor) -> Tensor:
    if x.numel() and x.device.type == "cpu":
        if (FOLDER / "slow").exists():
            print("takes for ever", flush=True)
            time.sleep(600)
        if (FOLDER / "broken").exists():
            raise ValueError("the weights are gone")
        if ((x - 128 / 255).abs() < 1e-3).flatten(1).all(1).any():
            print("the end", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if (x == 1).flatten(1).all(1).any():
            raise ValueError("too bright")
        x = x + torch.where((x == 0).flatten(1).all(1), torch.nan, 0.0)[:, None, None, None]
    return x


class Tiny"""


def write(folder: Path) -> TinyModel:
    """Writes the model's files; while ``folder`` has a file ``broken`` it fails, ``slow``: it takes for ever."""
    model = tiny_model.write(folder)
    source = (folder / "tiny.py").read_text()
    source = source.replace("class Tiny", _CHECK.lstrip()).replace("self.first(x)", "self.first(check(x))")
    (folder / "tiny.py").write_text(source)
    return model
