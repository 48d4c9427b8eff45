"""Errors that are kept after they were caught."""

from typing import TypeVar

Error = TypeVar("Error", bound=BaseException)


def bare(error: Error) -> Error:
    """The error without its traceback, and without the errors that led to it, which lose theirs as well.

    A traceback's calls hold a frame's bytes, what was decoded of it and, where the error is kept in one of them, the
    error. Such a circle stays in memory until Python's collector comes by, which is seldom
    (:mod:`layercache.stream.worker.garbage`).

    >>> try:
    ...     raise ValueError("no picture")
    ... except ValueError as error:
    ...     kept = bare(error)
    >>> kept, kept.__traceback__
    (ValueError('no picture'), None)
    """
    errors: list[BaseException] = [error]
    while errors:
        one = errors.pop()
        errors += filter(None, (one.__cause__, one.__context__))
        one.__cause__ = one.__context__ = one.__traceback__ = None
    return error
