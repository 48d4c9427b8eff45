"""Versions of heads are published, held, rolled back and cleaned up; what is read is whole."""

import os
import shutil
import threading
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from layercache.early_exit.store.blobs import Blobs
from layercache.early_exit.store.head_store import HeadStore, Live, StoreError, model_folder, open_store
from layercache.early_exit.store.version_files import GRAPH
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome, PlannedTest
from layercache.schemas.manifest import CompiledPath, Manifest
from layercache.schemas.settings import Store
from tests.support.manifests import manifest, name, tensors


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> HeadStore:
    url = f"file://{tmp_path}/heads" if request.param == "file" else f"memory://{uuid4()}"
    return HeadStore(url, "tiny-abababababab", keep_last=3)


def publish(store: HeadStore, *numbers: int) -> None:
    for number in numbers:
        store.publish(manifest(number, number - 1 if number else None), tensors(number))


def files(store: HeadStore) -> set[str]:
    root = Path(store.url.removeprefix("file://"))
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_an_empty_store_has_nothing_live(store: HeadStore) -> None:
    assert store.live() == Live(None, closed=False, pinned=False)
    assert store.latest() is None
    assert store.versions() == []
    assert store.attempts() == 0
    assert store.pin_state() is None


def test_what_is_published_is_live_and_comes_back_as_it_was(store: HeadStore) -> None:
    stored = store.publish(manifest(0), tensors(0))
    assert store.live() == Live(name(0), closed=False, pinned=False)
    found, weights = store.load(name(0))
    assert found == stored
    assert len(found.heads_sha256) == 64
    assert weights.keys() == tensors(0).keys()
    for key, value in tensors(0).items():
        assert weights[key].equal(value)
        assert weights[key].dtype == value.dtype


def test_tensors_that_share_memory_or_lie_oddly_are_stored(store: HeadStore) -> None:
    weight = torch.arange(12.0).view(3, 4)
    store.publish(manifest(0), {"a": weight, "b": weight, "c": weight.T, "d": weight[1:, ::2]})
    _, weights = store.load(name(0))
    assert weights["a"].equal(weights["b"])
    assert weights["c"].equal(weight.T)
    assert weights["d"].equal(weight[1:, ::2])


def graph(number: int) -> tuple[str, dict[str, torch.Tensor]]:
    """A graph's name and its tensor."""
    data = f"graph {number}".encode()
    digest = sha256(data).hexdigest()
    return digest, {f"{GRAPH}{digest}": torch.frombuffer(bytearray(data), dtype=torch.uint8)}


def compiled(number: int, *graphs: str) -> Manifest:
    path = CompiledPath(precision="int8", graphs=graphs)
    return msgspec.structs.replace(manifest(number, number - 1), path=path)


def test_graphs_are_stored_once_for_all_versions_that_name_them(tmp_path: Path) -> None:
    store = HeadStore(f"file://{tmp_path}/heads", "tiny-abababababab")
    (one, its), (other, others) = graph(1), graph(2)
    store.publish(compiled(0, one), tensors(0) | its)
    store.publish(compiled(1, one, other), tensors(1) | its | others)
    folder = tmp_path / "heads/tiny-abababababab.graphs"
    assert {path.name for path in folder.iterdir()} == {f"{one}.safetensors", f"{other}.safetensors"}
    found, weights = store.load(name(1))
    assert found.path is not None
    assert found.path.graphs == (one, other)
    assert found.exits == manifest(0).exits
    assert {key for key in weights if key.startswith(GRAPH)} == {f"{GRAPH}{one}", f"{GRAPH}{other}"}
    assert weights[f"{GRAPH}{one}"].equal(its[f"{GRAPH}{one}"])
    (folder / f"{one}.safetensors").write_bytes(b"graph 3")
    with pytest.raises(StoreError, match=f"{one}.safetensors is corrupt: its hash is not its name"):
        store.load(name(0))
    (folder / f"{one}.safetensors").unlink()
    with pytest.raises(StoreError, match=f"{one}.safetensors is missing"):
        store.load(name(0))


def test_a_graph_must_be_what_the_manifest_names(tmp_path: Path) -> None:
    store = HeadStore(f"file://{tmp_path}/heads", "tiny-abababababab")
    (one, _), (_, others) = graph(1), graph(2)
    with pytest.raises(StoreError, match=r"names graph .* and brings another"):
        store.publish(compiled(0, one), tensors(0) | {f"{GRAPH}{one}": next(iter(others.values()))})
    with pytest.raises(StoreError, match=r"names a graph '\.\./\.\./secret'"):
        store.publish(compiled(0, "../../secret"), tensors(0))
    assert store.versions() == []


def test_graphs_that_no_kept_version_names_are_deleted_once_they_are_old(tmp_path: Path) -> None:
    now = [datetime.now(UTC)]
    store = HeadStore(f"file://{tmp_path}/heads", "tiny-abababababab", keep_last=2, now=lambda: now[0])
    names = [graph(number)[0] for number in range(5)]
    for number in range(5):
        store.publish(compiled(number, names[number]), tensors(number) | graph(number)[1])
    folder = tmp_path / "heads/tiny-abababababab.graphs"
    assert len(list(folder.iterdir())) == 5, "a graph that was written just now may be of a version still to come"
    now[0] += timedelta(hours=2)
    store.publish(compiled(5, names[4]), tensors(5) | graph(4)[1])
    assert {path.stem for path in folder.iterdir()} == {names[4]}
    assert [one.version for one in store.versions()] == [name(5), name(4)]


def test_versions_are_listed_newest_first(store: HeadStore) -> None:
    publish(store, 0, 1, 2)
    assert [found.version for found in store.versions()] == [name(2), name(1), name(0)]


def test_a_published_version_never_changes_but_publishing_it_again_is_harmless(store: HeadStore) -> None:
    publish(store, 0, 1)
    publish(store, 0)
    assert store.live().version == name(0)
    with pytest.raises(StoreError, match="already has another version v0001; versions are never changed"):
        store.publish(manifest(1), tensors(2))
    assert store.load(name(1))[1]["first.classify.weight"][0, 0] == 1


@pytest.mark.parametrize("version", ["", "..", "../x", "a/b", ".hidden", "LATEST", "attempts", "PIN", "ü"])
def test_names_that_would_leave_the_folder_are_refused(version: str, store: HeadStore) -> None:
    with pytest.raises(StoreError, match="no name for a version"):
        store.load(version)


def test_old_versions_go_but_never_one_that_a_worker_may_be_told_to_use(store: HeadStore) -> None:
    publish(store, 0, 1, 2)
    store.pin(name(1))
    publish(store, *range(3, 8))
    assert [found.version for found in store.versions()] == [name(n) for n in (7, 6, 5, 1)]
    store.unpin()
    store.rollback(name(5))
    publish(store, 8)
    assert [found.version for found in store.versions()] == [name(n) for n in (8, 7, 6)]


def test_the_predecessor_of_the_latest_is_kept(store: HeadStore) -> None:
    publish(store, 0, 1, 2, 3)
    store.publish(manifest(4, predecessor=1), tensors(4))
    assert name(1) in [found.version for found in store.versions()]
    assert store.rollback() == name(1)


def test_a_pin_outlives_the_next_publish(store: HeadStore) -> None:
    publish(store, 0, 1)
    store.pin(name(0), "release freeze")
    publish(store, 2)
    assert store.latest() == name(2)
    assert store.live() == Live(name(0), closed=False, pinned=True)
    pin = store.pin_state()
    assert pin is not None
    assert (pin.version, pin.reason) == (name(0), "release freeze")
    store.unpin()
    store.unpin()
    assert store.live() == Live(name(2), closed=False, pinned=False)


def test_closing_outlives_the_next_publish(store: HeadStore) -> None:
    store.close("odd answers")
    publish(store, 0)
    assert store.live() == Live(None, closed=True, pinned=True)
    store.unpin()
    assert store.live().version == name(0)


def test_rolling_back_goes_one_back_each_time_and_publishing_moves_on(store: HeadStore) -> None:
    publish(store, 0, 1, 2)
    assert store.rollback() == name(1)
    assert store.rollback() == name(0)
    assert store.live().version == name(0)
    with pytest.raises(StoreError, match="nothing older than v0000"):
        store.rollback()
    assert store.rollback(name(2)) == name(2)
    publish(store, 3)
    assert store.live().version == name(3)


def test_nothing_is_held_or_rolled_back_to_that_is_not_there(store: HeadStore) -> None:
    with pytest.raises(StoreError, match="nothing to roll back"):
        store.rollback()
    publish(store, 0)
    for act in (store.pin, store.rollback):
        with pytest.raises(StoreError, match="has no version v0009"):
            act(name(9))
    assert store.live() == Live(name(0), closed=False, pinned=False)


def test_attempts_count_from_one(store: HeadStore) -> None:
    assert [store.claim_attempt() for _ in range(12)] == list(range(1, 13))
    assert store.attempts() == 12


def test_every_attempt_is_claimed_once(tmp_path: Path) -> None:
    stores = [HeadStore(f"file://{tmp_path}", "tiny") for _ in range(4)]
    claimed: list[int] = []

    def claim(store: HeadStore) -> None:
        claimed.extend(store.claim_attempt() for _ in range(10))

    threads = [threading.Thread(target=claim, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 41))
    assert stores[0].attempts() == 40


def test_a_claim_and_an_outcome_come_back_as_they_were(store: HeadStore) -> None:
    tests = PlannedTest(error=0.03, target=17, bolder=True), PlannedTest(error=0.003, target=20)
    claim = AttemptClaim(
        claimed="2026-11-30T14:46:01+00:00", lineage="3f9a" * 4, confidence=0.95, consumes=(1, 2, 3),
        family="ab" * 32, normal=tests[0], overload=tests[1],
    )  # fmt: skip
    asked: list[int] = []

    def described(number: int) -> AttemptClaim:
        asked.append(number)
        return claim

    store.claim_attempt()
    assert store.claim_attempt(described) == 2
    assert asked == [2]
    assert store.attempt_claim(2) == claim
    assert store.attempt_outcome(2) is None
    outcome = AttemptOutcome(ended="2026-11-30T14:46:02+00:00", normal=17, overload=None)
    assert store.finish_attempt(2, outcome)
    assert store.attempt_outcome(2) == outcome
    assert not store.finish_attempt(2, AttemptOutcome(ended="", normal=None)), "an outcome is written once"
    assert store.attempt_outcome(2) == outcome
    assert store.attempt_claim(3) is None
    assert (store.attempts(), store.claim_attempt()) == (2, 3)


def test_attempts_of_earlier_trainers_are_read_and_theirs_count_ours(tmp_path: Path) -> None:
    store = HeadStore(f"file://{tmp_path}", "tiny")
    folder = tmp_path / "tiny" / "attempts"
    folder.mkdir(parents=True)
    (folder / "1").write_text("2026-01-01T00:00:00.123456+00:00")  # as they wrote it
    old = store.attempt_claim(1)
    assert old is not None
    assert (old.consumes, old.normal, old.lineage) == ((), None, "")
    store.claim_attempt(lambda _: AttemptClaim(claimed="now", lineage="3f9a"))
    store.finish_attempt(2, AttemptOutcome(ended="now", normal=0))
    assert {path.name for path in folder.iterdir()} == {"1", "2", "2.outcome"}
    # Their way of counting; and they delete old folders beside it that they do not know.
    assert max(int(path.name) for path in folder.iterdir() if path.name.isdecimal()) == 2
    # An object store is asked whether a file is there by reading it; they read so much.
    long = AttemptClaim(
        claimed="2026-11-30T14:46:01+00:00", lineage="3f9a" * 4, confidence=0.95, consumes=tuple(range(990, 1000)),
        family="ab" * 32, normal=PlannedTest(error=1 / 3, target=59), overload=PlannedTest(error=1 / 3, target=59),
    )  # fmt: skip
    assert store.claim_attempt(lambda _: long) == 3
    assert (folder / "3").stat().st_size < 1000


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"claimed": "now", "consumes": [', b"\xff\xfe", b'{"format": 2}', b"x" * 20_000]
)
def test_a_claim_or_an_outcome_that_is_damaged_is_none(data: bytes, tmp_path: Path) -> None:
    store = HeadStore(f"file://{tmp_path}", "tiny")
    store.claim_attempt(lambda _: AttemptClaim(claimed="now"))
    for name_ in ("1", "1.outcome"):
        (tmp_path / "tiny" / "attempts" / name_).write_bytes(data)
    assert store.attempt_claim(1) is None
    assert store.attempt_outcome(1) is None
    assert store.attempts() == 1


def test_models_have_folders_of_their_own(tmp_path: Path) -> None:
    settings = Store(url=f"file://{tmp_path}", keep_last=2)
    first, second = (open_store(settings, "a/odd name:x", print_) for print_ in ("12" * 32, "34" * 32))
    publish(first, 0)
    assert second.live().version is None
    assert first.url == f"file://{tmp_path}/a-odd-name-x-121212121212"
    assert model_folder("///", "12" * 32) == "model-121212121212"


class TestDamage:
    @pytest.fixture
    def store(self, tmp_path: Path) -> HeadStore:
        store = HeadStore(f"file://{tmp_path}", "tiny")
        publish(store, 0, 1)
        return store

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "tiny"

    @pytest.mark.parametrize("keep", [0, 7, 100, -1])
    def test_half_written_heads(self, keep: int, store: HeadStore, folder: Path) -> None:
        heads = folder / name(1) / "heads.safetensors"
        heads.write_bytes(heads.read_bytes()[:keep])
        with pytest.raises(StoreError, match=r"v0001/heads\.safetensors is corrupt"):
            store.load(name(1))

    def test_a_flipped_bit(self, store: HeadStore, folder: Path) -> None:
        heads = folder / name(1) / "heads.safetensors"
        data = bytearray(heads.read_bytes())
        data[-5] ^= 1
        heads.write_bytes(data)
        with pytest.raises(StoreError, match="its hash is not the manifest's"):
            store.load(name(1))

    def test_heads_that_no_hash_vouches_for_are_still_checked(self, store: HeadStore, folder: Path) -> None:
        path = folder / name(1) / "manifest.json"
        path.write_text(path.read_text().replace("heads_sha256", "unknown_field"))
        assert store.load(name(1))[0].heads_sha256 == ""
        (folder / name(1) / "heads.safetensors").write_bytes(b"\xff" * 40)
        with pytest.raises(StoreError, match=r"heads\.safetensors is corrupt"):
            store.load(name(1))

    def test_missing_heads(self, store: HeadStore, folder: Path) -> None:
        (folder / name(1) / "heads.safetensors").unlink()
        with pytest.raises(StoreError, match=r"v0001/heads\.safetensors is missing"):
            store.load(name(1))

    @pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": "x"}', "\xff"])
    def test_a_broken_manifest(self, text: str, store: HeadStore, folder: Path) -> None:
        (folder / name(1) / "manifest.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(StoreError, match=r"v0001/manifest\.json is corrupt"):
            store.load(name(1))
        assert [found.version for found in store.versions()] == [name(0)]

    def test_another_versions_manifest(self, store: HeadStore, folder: Path) -> None:
        shutil.copy(folder / name(0) / "manifest.json", folder / name(1) / "manifest.json")
        with pytest.raises(StoreError, match=r"manifest\.json is version v0000's"):
            store.load(name(1))

    @pytest.mark.parametrize("text", [b"", b"../../etc", b"\xff\xfe"])
    def test_a_broken_latest(self, text: bytes, store: HeadStore, folder: Path) -> None:
        (folder / "LATEST").write_bytes(text)
        with pytest.raises(StoreError, match="LATEST names no version"):
            store.live()
        assert store.rollback(name(0)) == name(0)
        assert store.live().version == name(0)

    def test_a_broken_pin(self, store: HeadStore, folder: Path) -> None:
        (folder / "PIN").write_text("{")
        with pytest.raises(StoreError, match="PIN is corrupt"):
            store.live()
        store.unpin()
        assert store.live().version == name(1)

    def test_what_a_crash_left_is_invisible_and_later_removed(self, store: HeadStore, folder: Path) -> None:
        (folder / "v0002").mkdir()
        (folder / "v0002" / "heads.safetensors").write_bytes(b"half")
        (folder / "v0003").mkdir()
        (folder / ".LATEST-0123.tmp").write_bytes(b"v00")
        assert [found.version for found in store.versions()] == [name(1), name(0)]
        assert store.live().version == name(1)
        publish(store, 4)
        assert (folder / "v0002").exists(), "somebody may be writing it right now"
        later = HeadStore(f"file://{folder.parent}", "tiny", now=lambda: datetime.now(UTC) + timedelta(hours=2))
        publish(later, 5)
        left = {path.name for path in folder.iterdir()}
        assert left == {"LATEST", name(0), name(1), name(4), name(5)}

    def test_an_interrupted_publish_can_be_repeated(self, store: HeadStore, folder: Path) -> None:
        (folder / "v0002").mkdir()
        (folder / "v0002" / "heads.safetensors").write_bytes(b"half")
        publish(store, 2)
        assert store.load(name(2))[1]["first.classify.weight"][0, 0] == 2

    @pytest.mark.parametrize("writes", range(4))
    def test_a_trainer_may_end_after_any_write_of_a_publish(
        self, writes: int, store: HeadStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put, left = Blobs.put, iter(range(writes))

        def dying(self: Blobs, path: str, data: bytes) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            put(self, path, data)

        with monkeypatch.context() as patched:
            patched.setattr(Blobs, "put", dying)
            with pytest.raises(KeyboardInterrupt) if writes < 3 else nullcontext():
                publish(store, 2)
        latest = store.live().version
        assert latest == (name(2) if writes == 3 else name(1)), "LATEST comes last"
        for version in {latest, *(found.version for found in store.versions())}:
            assert version is not None
            store.load(version)  # whatever is seen is whole

    def test_nothing_temporary_stays_behind(self, store: HeadStore) -> None:
        store.claim_attempt()
        store.check_writable()
        versions = {f"{name(n)}/{file}" for n in (0, 1) for file in ("heads.safetensors", "manifest.json")}
        assert files(store) == versions | {"LATEST", "attempts/1"}


class TestRefuses:
    def test_an_unknown_scheme(self) -> None:
        with pytest.raises(StoreError, match=r"store foo://bucket cannot be opened: .*foo.*; use file://"):
            HeadStore("foo://bucket", "tiny")

    def test_options_that_the_file_system_does_not_know(self) -> None:
        with pytest.raises(StoreError, match=r"cannot be opened|no_such"):
            HeadStore("s3://bucket", "tiny", options={"no_such": object}).live()

    def test_missing_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        pytest.importorskip("s3fs", reason="s3fs is missing: pip install layercache[s3]")
        for variable in [key for key in os.environ if key.startswith("AWS_")]:
            monkeypatch.delenv(variable)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        store = HeadStore("s3://bucket/heads", "tiny", options={"skip_instance_cache": True})
        with pytest.raises(StoreError, match=r"cannot read s3://bucket/heads/tiny/PIN: .*credentials"):
            store.live()

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        store = HeadStore(f"file://{tmp_path}/file", "tiny")
        assert store.live().version is None
        for act in (store.check_writable, store.claim_attempt, lambda: publish(store, 0)):
            with pytest.raises(StoreError, match="a file stands where a folder is needed"):
                act()

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc: it is the folder that nobody can write to")
    def test_a_place_that_cannot_be_written(self) -> None:
        store = HeadStore("file:///proc/self", "tiny")
        with pytest.raises(StoreError, match=r"cannot write file:///proc/self/tiny/\.probe: .*; (check|let this user)"):
            store.check_writable()

    @pytest.mark.skipif(os.geteuid() == 0, reason="runs as root, whom no permission stops: run as another user")
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(
            StoreError, match=r"Permission denied.*; let this user in there, or choose another store\.url"
        ):
            HeadStore(f"file://{tmp_path}", "tiny").check_writable()


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order, workers are told a version that loads, and the right one."""

    published = Bundle("published")

    def __init__(self) -> None:
        super().__init__()
        self.store = HeadStore(f"memory://{uuid4()}", "tiny", keep_last=2)
        self.next = 0
        self.latest: str | None = None
        self.pin: tuple[str | None] | None = None

    @rule(target=published, times=st.integers(1, 3))
    def publish(self, times: int) -> object:
        done = []
        for _ in range(times):
            predecessor = None if self.latest is None else int(self.latest[1:])
            self.store.publish(manifest(self.next, predecessor), tensors(self.next, 2))
            self.latest = name(self.next)
            done.append(self.latest)
            self.next += 1
        return multiple(*done)

    @rule(version=published)
    def pin_one(self, version: str) -> None:
        if self._there(version):
            self.store.pin(version)
            self.pin = (version,)
        else:
            with pytest.raises(StoreError, match="has no version"):
                self.store.pin(version)

    @rule()
    def close(self) -> None:
        self.store.close()
        self.pin = (None,)

    @rule()
    def unpin(self) -> None:
        self.store.unpin()
        self.pin = None

    @rule(version=published)
    def roll_back_to(self, version: str) -> None:
        if self._there(version):
            self.latest = self.store.rollback(version)
            assert self.latest == version

    @rule()
    def roll_back(self) -> None:
        before = self.latest
        try:
            self.latest = self.store.rollback()
        except StoreError:
            assert self.latest == before
        else:
            assert before is not None
            assert self.latest < before

    @invariant()
    def what_is_live_is_right_and_loads(self) -> None:
        live = self.store.live()
        assert live.version == (self.latest if self.pin is None else self.pin[0])
        assert live.closed == (self.pin == (None,))
        assert live.pinned == (self.pin is not None)
        for version in {live.version, self.latest} - {None}:
            assert version is not None
            _, weights = self.store.load(version)
            assert weights["first.classify.weight"][0, 0] == int(version[1:])

    def _there(self, version: str) -> bool:
        return version in [found.version for found in self.store.versions()]


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
