"""The tiny model, cut, once for all tests of this folder."""

import pytest

from early_exit import cuts, models
from early_exit.cuts import TracedModel
from tests.support import tiny_model


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> TracedModel:
    return cuts.trace(models.load(tiny_model.write(tmp_path_factory.mktemp("tiny")).settings))
