"""Freed memory stays with the process; what nobody needs does not."""

import linecache
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.fx import graph_module

from layercache.early_exit.cutting.cuts import trace
from layercache.early_exit.engine import Engine
from layercache.early_exit.model.loading import load
from tests.support.tiny_model import TinyModel

_PROGRAM = """
import resource, sys
import torch
from layercache.early_exit.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
frames = torch.ones(16 << 20, dtype=torch.uint8)
for _ in range(12):  # aligned blocks of one size leave holes that are a little too small, until enough have merged
    maps = [frames.float() for _ in range(2)]
    del maps
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
maps = [frames.float() for _ in range(2)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.process
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_a_batch_like_the_one_before_asks_the_kernel_for_nothing() -> None:
    def page_faults(what: str) -> int:
        done = subprocess.run([sys.executable, "-c", _PROGRAM, what], check=True, capture_output=True, text=True)
        return int(done.stdout)

    pages = 2 * (64 << 20) // 4096
    assert page_faults("as it is") >= pages // 512  # huge pages at the most
    assert page_faults("keep") < 16


def test_engines_that_are_gone_leave_no_source_text(tiny_model: TinyModel) -> None:
    traced = trace(load(tiny_model.settings))
    for _ in range(5):
        engine = Engine(traced)
        kept = len(graph_module._loader.eval_cache)
        lines = sum(name.startswith("<eval_with_key>") for name in linecache.cache)
    assert kept == lines == 0
    assert engine.run(traced.classifier.example(2).to(torch.uint8), np.zeros(2, np.bool_)).exits.tolist() == [-1, -1]
