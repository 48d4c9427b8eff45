"""Mistakes in the store of heads: versions are seen whole or not at all, and an operator's word counts."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_HEAD_STORE, _FILES = "early_exit/store/head_store.py", "early_exit/store/version_files.py"
_BLOBS, _SIGNING = "early_exit/store/blobs.py", "early_exit/store/signing.py"
_TESTS, _SIGNING_TESTS = "tests/early_exit/store/test_head_store.py", "tests/early_exit/store/test_signing.py"
_BLOBS_TESTS = "tests/early_exit/store/test_blobs.py"

MUTANTS = (
    Mutant(
        "a torn LATEST is read",
        _HEAD_STORE,
        "return check_name(name.decode().strip())",
        "return name.decode().strip()",
        _TESTS,
    ),
    Mutant(
        "LATEST names a version before its files are there",
        _HEAD_STORE,
        """        manifest = self._files.write(manifest, tensors)
        self._blobs.put(LATEST, manifest.version.encode())
""",
        """        self._blobs.put(LATEST, manifest.version.encode())
        manifest = self._files.write(manifest, tensors)
""",
        _TESTS,
    ),
    Mutant(
        "a manifest is there before its graphs are",
        _FILES,
        """            self._write_graphs(manifest, tensors)
            self._blobs.put(f"{manifest.version}/{HEADS}", heads)
        self._write_signature(manifest.version, encoded)
        if there is None:
            self._blobs.put(f"{manifest.version}/{MANIFEST}", encoded)
""",
        """            self._blobs.put(f"{manifest.version}/{HEADS}", heads)
        self._write_signature(manifest.version, encoded)
        if there is None:
            self._blobs.put(f"{manifest.version}/{MANIFEST}", encoded)
            self._write_graphs(manifest, tensors)
""",
        _TESTS,
    ),
    Mutant(
        "a graph of another name is used",
        _FILES,
        """        if sha256(data).hexdigest() != digest:
            raise StoreError(f"{path} is corrupt: its hash is not its name;""",
        """        if False:
            raise StoreError(f"{path} is corrupt: its hash is not its name;""",
        _TESTS,
    ),
    Mutant(
        "a graph that a version names is cleaned away",
        "early_exit/store/head_store.py",
        "set(graphs).difference(*map(graphs_of, versions))",
        "set(graphs)",
        _TESTS,
    ),
    Mutant(
        "a manifest is there before its heads are",
        _FILES,
        """            self._blobs.put(f"{manifest.version}/{HEADS}", heads)
        self._write_signature(manifest.version, encoded)
        if there is None:
            self._blobs.put(f"{manifest.version}/{MANIFEST}", encoded)
""",
        """            self._blobs.put(f"{manifest.version}/{MANIFEST}", encoded)
        self._write_signature(manifest.version, encoded)
        if there is None:
            self._blobs.put(f"{manifest.version}/{HEADS}", heads)
""",
        _TESTS,
    ),
    Mutant(
        "a file is overwritten in place, so that a crash leaves half of it",
        _BLOBS,
        "                _replace(Path(self._at(path)), data)",
        "                Path(self._at(path)).parent.mkdir(parents=True, exist_ok=True)\n"
        "                Path(self._at(path)).write_bytes(data)",
        _BLOBS_TESTS,
    ),
    Mutant(
        "heads are used although their hash is not the manifest's",
        _FILES,
        "if manifest.heads_sha256 and sha256(data).hexdigest() != manifest.heads_sha256:",
        "if manifest.heads_sha256 and not sha256(data).hexdigest():",
        f"{_TESTS} {_SIGNING_TESTS}",
    ),
    Mutant(
        "heads that nobody signed are used",
        _FILES,
        "if signature is None or not self._signer.accepts(manifest, signature):",
        "if signature is not None and not self._signer.accepts(manifest, signature):",
        _SIGNING_TESTS,
    ),
    Mutant(
        "a signature must be of all keys, so that none can be changed while workers run",
        _SIGNING,
        "return any([hmac",
        "return all([hmac",
        _SIGNING_TESTS,
    ),
    Mutant(
        "two trainers get the same attempt",
        _BLOBS,
        """            except FileExistsError:
                return False
""",
        """            except FileExistsError:
                return True
""",
        _TESTS,
    ),
    Mutant(
        "an attempt's outcome is written again, and passes on what it did not",
        _HEAD_STORE,
        'return self._blobs.create(f"{ATTEMPTS}/{number}{_OUTCOME}", attempt_schema.encoder.encode(outcome))',
        'self._blobs.put(f"{ATTEMPTS}/{number}{_OUTCOME}", attempt_schema.encoder.encode(outcome)); return True',
        _TESTS,
    ),
    Mutant(
        "an operator closes all exits, and they open again",
        _HEAD_STORE,
        "    if pin is not None:\n        return Live(",
        "    if pin is not None and pin.version is not None:\n        return Live(",
        _TESTS,
    ),
    Mutant(
        "the version that an operator holds is deleted with the old ones",
        _HEAD_STORE,
        "keep |= {pin.version} if pin else set()",
        "keep |= {latest} if pin else set()",
        _TESTS,
    ),
    Mutant(
        "what a trainer is still writing is deleted as a crash's remains",
        _HEAD_STORE,
        "self._now() - written > _ABANDONED",
        "self._now() > written",
        _TESTS,
    ),
)
