"""Who gets which partition: everybody keeps what it has as far as that is fair."""

import math
from collections.abc import Iterable, Mapping


def sticky(
    partitions: Iterable[int], claims: Mapping[str, tuple[frozenset[int], int]]
) -> tuple[dict[str, set[int]], dict[int, str]]:
    """The partitions of each member, and who owns what, by ``claims``: what each says it owns, and since when.

    Of two that claim a partition the one of the younger generation is believed; of the same one, neither.

    >>> sticky(range(3), {"a": (frozenset({0, 1, 2}), 4), "b": (frozenset({2}), 3)})
    ({'a': {0, 1}, 'b': {2}}, {0: 'a', 1: 'a', 2: 'a'})
    """
    owners: dict[int, str] = {}
    believed: dict[int, float] = {}
    for member, (owned, generation) in claims.items():
        for number in owned:
            if generation > believed.get(number, -math.inf):
                owners[number], believed[number] = member, generation
            elif generation == believed[number]:
                owners.pop(number, None)
    numbers = sorted(partitions)
    most, more = divmod(len(numbers), len(claims))
    targets: dict[str, set[int]] = {member: set() for member in claims}
    left = []
    by_number = sorted(claims)
    for number in numbers:
        owner = owners.get(number)
        if owner is not None:
            room = most + (1 if more > 0 else 0)
            if len(targets[owner]) < room:
                if len(targets[owner]) == most:
                    more -= 1
                targets[owner].add(number)
                continue
        left.append(number)
    for number in left:
        member = min(by_number, key=lambda one: (len(targets[one]), one))
        targets[member].add(number)
    return targets, owners
