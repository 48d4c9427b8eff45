"""With a key, heads are used only where somebody who has it signed them."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from layercache.early_exit.store.head_store import HeadStore, SignatureError, StoreError, open_store
from layercache.early_exit.store.signing import Signer, signer
from layercache.early_exit.store.version_files import MAX_MANIFEST_BYTES
from layercache.schemas.settings import Store
from tests.support.manifests import manifest, name, tensors

OLD, NEW = b"old-" * 8, b"new-" * 8


def store(folder: Path, *keys: bytes) -> HeadStore:
    return HeadStore(f"file://{folder}", "tiny", keep_last=3, signer=Signer(keys) if keys else None)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The folder of a version signed with the old key."""
    store(tmp_path, OLD).publish(manifest(0), tensors(0))
    return tmp_path / "tiny" / name(0)


def test_who_has_the_key_reads_what_was_signed_with_it(version: Path, tmp_path: Path) -> None:
    found, weights = store(tmp_path, OLD).load(name(0))
    assert found.version == name(0)
    assert weights.keys() == tensors(0).keys()
    assert [one.version for one in store(tmp_path, OLD).versions()] == [name(0)]
    assert store(tmp_path).load(name(0))[0] == found  # without a key nothing is asked for


def test_the_wrong_key_and_no_signature_are_refused(version: Path, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match=r"tiny/v0000 is not signed by any key that is accepted here: it is not "):
        store(tmp_path, NEW).load(name(0))
    (version / "manifest.sig").unlink()
    with pytest.raises(SignatureError, match=r"tiny/v0000 is not signed: it is not used\. .* heads sign v0000"):
        store(tmp_path, OLD).load(name(0))
    with pytest.raises(SignatureError):
        store(tmp_path, OLD).pin(name(0))
    with pytest.raises(SignatureError):
        store(tmp_path, OLD).rollback(name(0))
    assert store(tmp_path, OLD).versions() == []


@pytest.mark.parametrize("signature", [b"", b"\xff\xfe", b"0" * 63, b"g" * 64, "é".encode() * 64, b"0" * 64])
def test_what_is_no_signature_is_refused(signature: bytes, version: Path, tmp_path: Path) -> None:
    (version / "manifest.sig").write_bytes(signature)
    with pytest.raises(SignatureError, match="not signed by any key"):
        store(tmp_path, OLD).load(name(0))


def test_a_manifest_is_not_even_decoded_before_its_signature_is_checked(version: Path, tmp_path: Path) -> None:
    (version / "manifest.json").write_text("{broken")
    with pytest.raises(SignatureError):
        store(tmp_path, OLD).load(name(0))


def test_every_change_to_a_manifest_breaks_its_signature(version: Path, tmp_path: Path) -> None:
    text = (version / "manifest.json").read_bytes()
    for place in range(0, len(text), 7):
        (version / "manifest.json").write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        with pytest.raises(SignatureError):
            store(tmp_path, OLD).load(name(0))


def test_other_heads_under_a_signed_manifest_are_refused(version: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    store(other, OLD).publish(manifest(0), tensors(5))
    (version / "heads.safetensors").write_bytes((other / "tiny" / name(0) / "heads.safetensors").read_bytes())
    with pytest.raises(StoreError, match="its hash is not the manifest's"):
        store(tmp_path, OLD).load(name(0))


def test_a_signed_manifest_without_a_hash_vouches_for_nothing(version: Path, tmp_path: Path) -> None:
    fields = json.loads((version / "manifest.json").read_text()) | {"heads_sha256": ""}
    (version / "manifest.json").write_text(json.dumps(fields))
    (version / "manifest.sig").write_bytes(Signer([OLD]).sign((version / "manifest.json").read_bytes()))
    with pytest.raises(SignatureError, match="has no hash of its heads"):
        store(tmp_path, OLD).load(name(0))


def test_a_signature_does_not_carry_over_to_another_version(version: Path, tmp_path: Path) -> None:
    moved = version.with_name(name(1))
    version.rename(moved)
    with pytest.raises(StoreError, match="is version v0000's"):
        store(tmp_path, OLD).load(name(1))


def test_keys_are_changed_while_all_work(version: Path, tmp_path: Path) -> None:
    assert store(tmp_path, OLD, NEW).load(name(0))  # 1. readers learn the new key
    store(tmp_path, NEW, OLD).publish(manifest(1), tensors(1))  # 2. the trainer signs with it
    assert store(tmp_path, OLD, NEW).load(name(1))
    store(tmp_path, NEW, OLD).sign(name(0))  # 3. what shall stay is signed anew
    for number in (0, 1):
        assert store(tmp_path, NEW).load(name(number))  # 4. the old key goes
    with pytest.raises(SignatureError):
        store(tmp_path, OLD).load(name(1))


def test_versions_from_before_there_was_a_key_can_be_signed_but_damaged_ones_cannot(tmp_path: Path) -> None:
    for number in (0, 1):
        store(tmp_path).publish(manifest(number), tensors(number))
    store(tmp_path, NEW).sign(name(0))
    assert store(tmp_path, NEW).load(name(0))
    with pytest.raises(SignatureError):
        store(tmp_path, NEW).load(name(1))
    heads = tmp_path / "tiny" / name(1) / "heads.safetensors"
    heads.write_bytes(heads.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="is corrupt"):
        store(tmp_path, NEW).sign(name(1))
    with pytest.raises(StoreError, match="no key to sign with"):
        store(tmp_path).sign(name(0))


def test_publishing_again_signs_what_a_crash_or_an_older_trainer_left_unsigned(tmp_path: Path) -> None:
    store(tmp_path).publish(manifest(0), tensors(0))
    store(tmp_path, NEW).publish(manifest(0), tensors(0))
    assert store(tmp_path, NEW).load(name(0))


class TestSettings:
    """Keys come from a variable, a file, or both."""

    def test_a_file_with_two_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_bytes(NEW + b"\n\n  " + OLD + b"\n")
        found = signer(Store(signing_key_file=path))
        assert found is not None
        assert found.sign(b"x") == Signer([NEW]).sign(b"x")
        assert found.accepts(b"x", Signer([OLD]).sign(b"x"))

    def test_a_variable_goes_before_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "keys"
        path.write_bytes(OLD)
        found = signer(Store(signing_key=SecretStr(NEW.decode()), signing_key_file=path))
        assert found is not None
        assert found.sign(b"x") == Signer([NEW]).sign(b"x")

    @pytest.mark.parametrize("text", ["short", "long-enough-" * 4 + "\nshort"])
    def test_a_key_too_short_to_keep_a_secret_is_refused_and_not_shown(self, text: str) -> None:
        with pytest.raises(StoreError, match="32 characters at least") as caught:
            open_store(Store(url="memory://x", signing_key=SecretStr(text)), "tiny", "ab" * 32)
        assert "short" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"store\.signing_key_file: cannot read .*nowhere: No such file"):
            open_store(Store(url="memory://x", signing_key_file=tmp_path / "nowhere"), "tiny", "ab" * 32)


class TestLimits:
    """Whoever may write to the store cannot fill the memory of who reads it."""

    def test_files_larger_than_any_of_ours_are_not_read(self, version: Path, tmp_path: Path) -> None:
        huge = b" " * (MAX_MANIFEST_BYTES + 1)
        (version / "manifest.json").write_bytes(huge)
        with pytest.raises(StoreError, match=r"v0000/manifest\.json has more than 1,048,576 bytes"):
            store(tmp_path).load(name(0))
        assert store(tmp_path).versions() == []
        for pointer in ("LATEST", "PIN"):
            (tmp_path / "tiny" / pointer).write_bytes(huge)
        with pytest.raises(StoreError, match="LATEST has more than"):
            store(tmp_path).latest()
        with pytest.raises(StoreError, match="PIN has more than"):
            store(tmp_path).live()

    def test_heads_that_are_larger_than_any_are_not_read(
        self, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("layercache.early_exit.store.version_files.MAX_HEADS_BYTES", 300)
        with pytest.raises(StoreError, match=r"heads\.safetensors has more than 300 bytes"):
            store(tmp_path).load(name(0))

    def test_a_header_of_tensors_longer_than_any(self, version: Path, tmp_path: Path) -> None:
        fields = json.loads((version / "manifest.json").read_text()) | {"heads_sha256": ""}
        (version / "manifest.json").write_text(json.dumps(fields))
        (version / "heads.safetensors").write_bytes((5 << 20).to_bytes(8, "little") + b"{" * (5 << 20))
        with pytest.raises(StoreError, match="no heads have so long a header"):
            store(tmp_path).load(name(0))


@pytest.mark.parametrize("data", [b"\xff", b'{"x":' + b"[" * 50_000, b'{"version":"\xff"}', b"", b"null"])
def test_json_that_is_none_is_a_damaged_store_and_no_crash(data: bytes, version: Path, tmp_path: Path) -> None:
    (version / "manifest.json").write_bytes(data)
    with pytest.raises(StoreError, match="is corrupt"):
        store(tmp_path).load(name(0))
    (tmp_path / "tiny" / "PIN").write_bytes(data)
    with pytest.raises(StoreError, match="PIN is corrupt"):
        store(tmp_path).live()
