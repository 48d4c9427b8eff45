"""Imported first, and only, by the process that workers are forked from."""

from tests.faults.harness.entry import install

install()
