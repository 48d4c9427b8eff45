"""What versions changed, and which alarms they tell of."""

import msgspec
import pytest

from layercache.dashboard import versions
from layercache.dashboard.heads_state import Moved
from layercache.early_exit.store.head_store import Live
from layercache.schemas.manifest import Manifest, Pin
from tests.layercache.dashboard.test_answers import with_exits
from tests.support.manifests import manifest, name, overload


def following(before: Manifest, **changed: object) -> Manifest:
    return msgspec.structs.replace(before, version="v0009", predecessor=before.version, **changed)


def test_exits_that_open_and_close_are_told() -> None:
    before = with_exits(1, ("a", 0.3), ("b", 0.5))
    after = with_exits(2, ("b", 0.5), ("c", 0.7))
    found = versions.changes(after, before)
    assert (found.opened, found.closed, found.moved, found.replaced) == (("c",), ("a",), (), ())
    assert found.summary == "opens c; closes a"


def test_thresholds_that_moved_and_heads_of_another_kind_are_told() -> None:
    before = with_exits(1, ("a", 0.3), ("b", 0.5))
    moved = msgspec.structs.replace(before.exits[0], threshold=0.8)
    head = before.exits[1].head
    assert head is not None
    other = msgspec.structs.replace(before.exits[1], head=msgspec.structs.replace(head, hidden=64))
    found = versions.changes(following(before, exits=(moved, other)), before)
    assert found.moved == (Moved(cut="a", before=0.9, after=0.8),)
    assert found.replaced == ("b",)
    assert found.summary == "a from 0.9000 to 0.8000; another head at b"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, overload((0.5,)), "adds thresholds for overload"),
        (overload((0.5,)), None, "drops thresholds for overload"),
        (None, None, "heads learnt further"),
    ],
)
def test_overload_and_mere_learning_are_told(before: object, after: object, said: str) -> None:
    first = msgspec.structs.replace(manifest(1), overload=before)
    assert versions.changes(following(first, overload=after), first).summary == said


def test_the_first_version_opens_and_one_whose_predecessor_is_gone_says_so() -> None:
    assert versions.changes(manifest(1), None).summary == "opens first"
    gone = versions.changes(manifest(2, 1), None)
    assert gone.opened == ()
    assert gone.summary == "exits at first; what it followed is no longer in the store"


def test_what_is_in_force_is_marked() -> None:
    manifests = [manifest(3, 2), manifest(2, 1), manifest(1)]
    live, pin = Live(name(2), closed=False, pinned=True), Pin(version=name(2), reason="freeze")
    heads = versions.heads(manifests, live, name(3), pin, 4, "file:///heads/x", "held")
    assert [(one.version, one.live, one.latest, one.pinned) for one in heads.versions] == [
        (name(3), False, True, False), (name(2), True, False, True), (name(1), False, False, False)
    ]  # fmt: skip
    assert (heads.live, heads.latest, heads.pinned, heads.closed) == (name(2), name(3), True, False)
    assert (heads.pin_reason, heads.attempts, heads.sentence) == ("freeze", 4, "held")
    assert heads.versions[0].created_ms == 1_767_225_603_000
    assert heads.versions[0].upper_bound == 0.008


def test_a_version_that_closes_everything_is_an_alarm_while_it_is_in_force() -> None:
    first = manifest(1)
    unsafe = msgspec.structs.replace(
        first, version=name(2), predecessor=name(1), exits=(), reason="unsafe", certificate=None, expected=None
    )
    dropped = msgspec.structs.replace(manifest(4, 3), reason="overload-unsafe")
    found = versions.alarms([dropped, manifest(3, 2), unsafe, first], name(4))
    assert [(one.kind, one.where, one.active) for one in found] == [
        ("overload-unsafe", name(4), True), ("unsafe", name(2), False)
    ]  # fmt: skip
    assert name(1) in found[1].message
    assert versions.alarms([unsafe, first], name(2))[0].active


def test_a_time_that_is_none_is_left_out() -> None:
    odd = msgspec.structs.replace(manifest(1), created="yesterday")
    heads = versions.heads([odd], Live(None, False, False), None, None, 0, "", "")
    assert heads.versions[0].created_ms is None
