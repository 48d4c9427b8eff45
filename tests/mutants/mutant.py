"""One mistake that somebody could make, as a change to one file."""

from __future__ import annotations

from dataclasses import dataclass


class Outdated(ValueError):
    """A mutant whose text is no longer in its file; the message says what to do."""


@dataclass(frozen=True)
class Mutant:
    """A change that breaks a promise, and the tests that must notice.

    Never one that fails before it behaves otherwise: no syntax error, no name that is unknown.
    """

    broken: str
    """What is broken, in a few words: the mutant's name."""
    file: str
    before: str
    """Must be in the file exactly once."""
    after: str
    tests: str
    """Files for pytest, separated by spaces."""

    def mutated(self, text: str) -> str:
        """The file's ``text`` with the mistake. Raises :class:`Outdated` where it cannot be made there."""
        found = text.count(self.before)
        if found != 1:
            raise Outdated(
                f"{self.broken!r}: its text is in {self.file} {found} times, and must be there once:\n{self.before}\n"
                "If that code was moved, renamed or rewritten, change the mutant's file, before and after in "
                "tests/mutants/ so that it breaks the same promise there, then see that it is caught: "
                f'make mutants MUTANTS_ARGS="--only {self.broken!r}"'
            )
        return text.replace(self.before, self.after)
