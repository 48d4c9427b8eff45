"""Damaged, hostile and random input to everything that reads bytes from outside: ``python -m tests.fuzz --help``."""
