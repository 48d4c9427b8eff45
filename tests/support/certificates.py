"""Certificates for a test's broker and clients, made when they are needed: none is checked in."""

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


@dataclass(frozen=True)
class Identity:
    """A certificate, its chain and its key, as files."""

    certificate: Path
    key: Path
    together: Path
    """Key (PKCS #8) and chain in one file, as Kafka's PEM key stores want them."""


class Authority:
    """A certificate authority of the test's own; its certificate is ``ca``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, host: str, common_name: str) -> Identity:
        """For a server that is reached as ``host``, or a client that is known as ``common_name``."""
        issued = self._authority.issue_cert(host, common_name=common_name)
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        files = [self._folder / f"{common_name}.{suffix}" for suffix in ("crt", "key", "pem")]
        for path, content in zip(files, (chain, pkcs8, pkcs8 + chain), strict=True):
            path.write_bytes(content)
        return Identity(*files)
