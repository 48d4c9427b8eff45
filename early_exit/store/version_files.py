"""The files of one version of heads: writes and signs them, and checks them before they are used."""

import re
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from layercache.early_exit.store.blobs import Blobs, StoreError
from layercache.early_exit.store.signing import SignatureError, Signer
from layercache.schemas import manifest as schema
from layercache.schemas.manifest import Manifest

HEADS, MANIFEST, SIGNATURE = "heads.safetensors", "manifest.json", "manifest.sig"
#: Before the name of a compiled graph among a version's tensors: its file's bytes, uint8 ``[size]``.
GRAPH = "graph/"

#: The largest files that are read: write access to the store must not be enough to fill a worker's memory.
MAX_HEADS_BYTES, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, MAX_GRAPH_BYTES = 1 << 30, 1 << 20, 1_000, 1 << 30
#: The largest header (names, shapes and places of the tensors); safetensors itself allows a hundred megabytes.
MAX_HEADER_BYTES = 4 << 20


_GRAPH_ENDING = ".safetensors"


class VersionFiles:
    """``<version>/heads.safetensors``, ``manifest.json`` and, with a ``signer``, ``manifest.sig``; and compiled graphs.

    Graphs stand in a folder of their own, each named by its SHA-256: versions that share one store it once. A manifest
    names its graphs, so that its signature covers them.

    With a signer every reading method raises :class:`SignatureError` for a version without a valid signature, before it
    looks at the version's content. All methods raise :class:`StoreError`.
    """

    def __init__(self, blobs: Blobs, graphs: Blobs, signer: Signer | None) -> None:
        self._blobs = blobs
        self._graphs = graphs
        self._signer = signer

    def write(self, manifest: Manifest, tensors: Mapping[str, Tensor]) -> Manifest:
        """Stores a version and returns its manifest with the heads' hash; the manifest is written last.

        The same version may be written again, but not changed.
        """
        heads = safetensors.torch.save(
            {name: _plain(tensor) for name, tensor in tensors.items() if not name.startswith(GRAPH)}
        )
        manifest = msgspec.structs.replace(manifest, heads_sha256=sha256(heads).hexdigest())
        encoded = schema.encode(manifest)
        there = self._blobs.read(f"{manifest.version}/{MANIFEST}", MAX_MANIFEST_BYTES)
        if there is not None and there != encoded:
            raise StoreError(
                f"{self._blobs.url} already has another version {manifest.version}; versions are never changed"
            )
        if there is None:
            self._write_graphs(manifest, tensors)
            self._blobs.put(f"{manifest.version}/{HEADS}", heads)
        self._write_signature(manifest.version, encoded)
        if there is None:
            self._blobs.put(f"{manifest.version}/{MANIFEST}", encoded)
        return manifest

    def sign(self, version: str) -> None:
        """Signs a stored version; the caller must know that the trainer published it.

        For versions that are older than the first key, and for those that are kept when a key is changed.
        """
        if self._signer is None:
            raise StoreError("no key to sign with: set store.signing_key_file, or LAYERCACHE_STORE__SIGNING_KEY")
        data = self._read(version)
        manifest = self._decode(version, data)
        self._read_heads(manifest)
        for digest in graphs_of(manifest):
            self._read_graph(digest)
        self._write_signature(version, data)

    def manifest(self, version: str) -> Manifest:
        """A version's manifest."""
        data = self._read(version)
        self._check_signature(version, data)
        return self._decode(version, data)

    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]:
        """A version's manifest and tensors, graphs among them; all match the manifest's hashes."""
        manifest = self.manifest(version)
        data = self._read_heads(manifest)
        path = f"{self._blobs.url}/{version}/{HEADS}"
        if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
            raise StoreError(f"{path} is corrupt: no heads have so long a header; roll back to another version")
        try:
            tensors = safetensors.torch.load(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise StoreError(f"{path} is corrupt: {error}; roll back to another version") from error
        return manifest, tensors | {f"{GRAPH}{digest}": self._read_graph(digest) for digest in graphs_of(manifest)}

    def exists(self, version: str) -> bool:
        """Whether there is a manifest, readable or not."""
        return MANIFEST in self._blobs.list(version)

    def delete(self, version: str) -> None:
        """Deletes a version, its manifest first: from then on the version does not exist."""
        files = self._blobs.list(version)
        for file in sorted(files, key=lambda file: file != MANIFEST):
            self._blobs.remove(f"{version}/{file}")
        self._blobs.remove(version)

    def graphs(self) -> list[str]:
        """Names of the graphs that are there, of whatever version."""
        return [name.removesuffix(_GRAPH_ENDING) for name in self._graphs.list() if name.endswith(_GRAPH_ENDING)]

    def graph_written(self, digest: str) -> datetime | None:
        """When a graph was stored; None if it is not there or the store does not say."""
        return self._graphs.modified(f"{digest}{_GRAPH_ENDING}")

    def delete_graph(self, digest: str) -> None:
        """Deletes a graph that no version names."""
        self._graphs.remove(f"{digest}{_GRAPH_ENDING}")

    def _write_graphs(self, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
        for digest in sorted(graphs_of(manifest)):
            data = _plain(tensors[f"{GRAPH}{digest}"]).numpy().tobytes()
            if sha256(data).hexdigest() != digest:
                raise StoreError(f"version {manifest.version} names graph {digest[:12]}, and brings another")
            # Written anew where it is there: so it is as young as this version, and no cleaner takes it away.
            self._graphs.put(f"{digest}{_GRAPH_ENDING}", data)

    def _read_graph(self, digest: str) -> Tensor:
        """A graph's bytes, which match its name."""
        path = f"{self._graphs.url}/{digest}{_GRAPH_ENDING}"
        data = self._graphs.read(f"{digest}{_GRAPH_ENDING}", MAX_GRAPH_BYTES)
        if data is None:
            raise StoreError(f"{path} is missing; roll back to another version")
        if sha256(data).hexdigest() != digest:
            raise StoreError(f"{path} is corrupt: its hash is not its name; roll back, or copy it anew")
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def _write_signature(self, version: str, manifest: bytes) -> None:
        if self._signer is not None:
            self._blobs.put(f"{version}/{SIGNATURE}", self._signer.sign(manifest))

    def _check_signature(self, version: str, manifest: bytes) -> None:
        if self._signer is None:
            return
        signature = self._blobs.read(f"{version}/{SIGNATURE}", MAX_SIGNATURE_BYTES)
        if signature is None or not self._signer.accepts(manifest, signature):
            what = "is not signed" if signature is None else "is not signed by any key that is accepted here"
            raise SignatureError(
                f"{self._blobs.url}/{version} {what}: it is not used. If it is the trainer's own, give both the same "
                f"store.signing_key, or sign it: layercache heads sign {version}"
            )

    def _read(self, version: str) -> bytes:
        data = self._blobs.read(f"{check_name(version)}/{MANIFEST}", MAX_MANIFEST_BYTES)
        if data is None:
            raise StoreError(
                f"{self._blobs.url} has no version {version}; `layercache heads list` shows those that there are"
            )
        return data

    def _read_heads(self, manifest: Manifest) -> bytes:
        """The bytes of a version's heads, which match the manifest's hash and are so covered by its signature."""
        path = f"{manifest.version}/{HEADS}"
        data = self._blobs.read(path, MAX_HEADS_BYTES)
        if data is None:
            raise StoreError(f"{self._blobs.url}/{path} is missing; roll back to another version")
        if self._signer is not None and not manifest.heads_sha256:
            raise SignatureError(
                f"{self._blobs.url}/{manifest.version} has no hash of its heads for a signature to cover"
            )
        if manifest.heads_sha256 and sha256(data).hexdigest() != manifest.heads_sha256:
            raise StoreError(
                f"{self._blobs.url}/{path} is corrupt: its hash is not the manifest's; roll back, or copy it anew"
            )
        return data

    def _decode(self, version: str, data: bytes) -> Manifest:
        path = f"{self._blobs.url}/{version}/{MANIFEST}"
        try:
            manifest = schema.decode(data)
        except schema.LaterFormat as error:
            raise StoreError(f"{path} is {error}: upgrade this process, or roll back to another version") from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{path} is corrupt: {error}; roll back to another version") from error
        if manifest.version != version:
            raise StoreError(f"{path} is version {manifest.version}'s; roll back to another version")
        return manifest


def graphs_of(manifest: Manifest) -> frozenset[str]:
    """The graphs that a version names, by their SHA-256. Raises :class:`StoreError` for what is no such name.

    >>> graphs_of(heads.manifest)
    frozenset()
    """
    graphs = frozenset(manifest.path.graphs if manifest.path else ())
    for digest in graphs:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise StoreError(f"version {manifest.version} names a graph {digest[:80]!r}; roll back to another version")
    return graphs


def check_name(version: str) -> str:
    """Returns a version's name if it can name a folder. Raises :class:`StoreError` if not.

    >>> check_name("v00012")
    'v00012'
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", version) or version in ("LATEST", "PIN", "attempts"):
        raise StoreError(f"{version[:200]!r} is no name for a version: use letters, digits, '_', '.' and '-'")
    return version


def _plain(tensor: Tensor) -> Tensor:
    """The tensor as safetensors can store it: on the CPU, and sharing no memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
