"""Signatures over manifests: workers use only heads that a holder of the key has published.

A manifest holds its heads' SHA-256, so a signature over the manifest's bytes covers both files. The signature is
symmetric (HMAC-SHA256, RFC 2104): workers and trainer share a key, which write access to the store does not reveal.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

from layercache.early_exit.store.blobs import StoreError
from layercache.schemas.settings import Store, read_secret

#: The fewest characters of a key: as many as an HMAC-SHA256 key should have bytes (RFC 2104, section 3).
SHORTEST_KEY = 32

#: The signed bytes begin with this, so that another use of the same key never makes a signature that is valid here.
_PURPOSE = b"layercache manifest 1\n"
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


class SignatureError(StoreError):
    """Heads that no accepted key has signed: they must not be used."""


class Signer:
    """Signs with the first key and accepts signatures of all ``keys``, so that a key can be changed while workers run.

    >>> old, new = b"o" * 32, b"n" * 32
    >>> signature = Signer([old]).sign(b"manifest")
    >>> Signer([new, old]).accepts(b"manifest", signature), Signer([new]).accepts(b"manifest", signature)
    (True, False)
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Raises ``ValueError`` without a key, or for a key shorter than 32 bytes."""
        if not keys or min(map(len, keys)) < SHORTEST_KEY:
            raise ValueError(f"signing keys have {SHORTEST_KEY} characters at least; `openssl rand -hex 32` makes one")
        self._keys = tuple(keys)

    def sign(self, manifest: bytes) -> bytes:
        """The signature of a manifest's bytes, hexadecimal."""
        return _mac(self._keys[0], manifest).encode()

    def accepts(self, manifest: bytes, signature: bytes) -> bool:
        """Whether one of the keys made the signature; tries every key, in constant time."""
        text = signature.decode("ascii", "replace").strip()
        if not _SIGNATURE.fullmatch(text):
            return False
        return any([hmac.compare_digest(_mac(key, manifest), text) for key in self._keys])


def signer(settings: Store) -> Signer | None:
    """The signer with the settings' keys; None without keys. Raises :class:`StoreError` for unusable keys.

    >>> signer(Store()) is None
    True
    """
    text = settings.signing_key.get_secret_value() if settings.signing_key else ""
    if settings.signing_key_file is not None:
        try:
            text = f"{text}\n{read_secret(settings.signing_key_file)}"
        except ValueError as error:
            raise StoreError(f"store.signing_key_file: {error}") from error
    if settings.signing_key is None and settings.signing_key_file is None:
        return None
    try:
        return Signer([line.strip().encode() for line in text.splitlines() if line.strip()])
    except ValueError as error:
        raise StoreError(f"store.signing_key: {error}") from error


def _mac(key: bytes, manifest: bytes) -> str:
    return hmac.new(key, _PURPOSE + manifest, hashlib.sha256).hexdigest()
