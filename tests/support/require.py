"""What a test needs from outside: without it the test skips, or fails where it was promised to be there."""

import os
from typing import NoReturn

import pytest


def missing(what: str, how: str) -> NoReturn:
    """Ends a test that needs ``what`` (``apache-kafka``, ``docker``, …); ``how`` says what provides it.

    ``LAYERCACHE_REQUIRE="apache-kafka docker"`` names what must be there: then the test fails instead of skipping, so
    that a CI machine that lost its broker does not pass by testing nothing.
    """
    if what in os.environ.get("LAYERCACHE_REQUIRE", "").split():
        pytest.fail(f"no {what}, but LAYERCACHE_REQUIRE asks for it: {how}", pytrace=False)
    pytest.skip(f"no {what}: {how}")
