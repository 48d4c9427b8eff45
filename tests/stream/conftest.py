"""The tiny model, cut, once for all tests of this folder."""

import pytest

from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.model import loading
from tests.support import tiny_model


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> TracedModel:
    return cuts.trace(loading.load(tiny_model.write(tmp_path_factory.mktemp("tiny")).settings))
