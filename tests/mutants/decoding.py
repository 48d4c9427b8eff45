"""Mistakes with bytes from outside: pictures that must not be decoded, and references that must not be followed."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_DECODING, _POOL, _ENVELOPE = (f"stream/frames/{name}.py" for name in ("decoding", "decode_pool", "envelope"))
_PREFIXES, _READING, _FETCHING = (f"stream/references/{name}.py" for name in ("prefixes", "reading", "fetching"))
_FRAMES_TESTS, _REFERENCES_TESTS = "tests/stream/frames", "tests/stream/references"
_DECODING_TESTS, _ENVELOPE_TESTS = f"{_FRAMES_TESTS}/test_decoding.py", f"{_FRAMES_TESTS}/test_envelope.py"
_PREFIXES_TESTS, _READING_TESTS = f"{_REFERENCES_TESTS}/test_prefixes.py", f"{_REFERENCES_TESTS}/test_reading.py"
_FETCHING_TESTS = f"{_REFERENCES_TESTS}/test_fetching.py"

MUTANTS = (
    Mutant(
        "a PNG of 30,000 x 30,000 pixels is decoded",
        _DECODING,
        "if height * width > limits.max_pixels:",
        "if max(height, width) > limits.max_pixels:",
        _DECODING_TESTS,
    ),
    Mutant(
        "a frame of any number of bytes is decoded",
        _DECODING,
        "if len(value) > limits.max_bytes:",
        "if len(value) > limits.max_pixels * limits.max_bytes:",
        _DECODING_TESTS,
    ),
    Mutant(
        "a sliver grows to any length when it is resized",
        _DECODING,
        "if fitted > max(limits.max_pixels, resize**2):",
        "if fitted > max(limits.max_pixels, resize**2) ** 2:",
        _DECODING_TESTS,
    ),
    Mutant(
        "a content type that contradicts the bytes is believed",
        _DECODING,
        "if claimed in CONTENT_TYPES and claimed != kind:",
        "if claimed and claimed not in CONTENT_TYPES:",
        _DECODING_TESTS,
    ),
    Mutant(
        "a turned JPEG stays turned",
        _DECODING,
        "apply_exif_orientation=True",
        "apply_exif_orientation=False",
        _DECODING_TESTS,
    ),
    Mutant(
        "an array in Fortran's order is read row by row",
        _DECODING,
        'order="F" if header.fortran_order else "C"',
        'order="C"',
        _DECODING_TESTS,
    ),
    Mutant(
        "an array of signed numbers is read as if they were pixels",
        _DECODING,
        "if header.dtype != np.uint8:",
        "if header.dtype.itemsize != 1:",
        _DECODING_TESTS,
    ),
    Mutant(
        "a worker without memory makes dead letters of good frames",
        _DECODING,
        "if is_the_machines(error):",
        "if is_the_machines(error) and kind == image_header.NPY:",
        _DECODING_TESTS,
    ),
    Mutant(
        "frames of one task get the first one's picture",
        _POOL,
        "return [chunks[one.chunk][one.index] for one in pending]",
        "return [chunks[one.chunk][0] for one in pending]",
        f"{_FRAMES_TESTS}/test_frame.py",
    ),
    Mutant(
        "headers of any size are taken",
        _ENVELOPE,
        'size += len(name) + len(value or b"")',
        "size += len(name)",
        _ENVELOPE_TESTS,
    ),
    Mutant(
        "a dead letter is larger than its topic takes",
        _ENVELOPE,
        "if smaller.size <= topic_bytes:",
        'if len(smaller.value or b"") <= topic_bytes:',
        _ENVELOPE_TESTS,
    ),
    Mutant(
        "a prefix's neighbour, whose name only begins alike, is read",
        _PREFIXES,
        "and location.segments[: len(own.segments)] == own.segments",
        'and "/".join(location.segments).startswith("/".join(own.segments))',
        _PREFIXES_TESTS,
    ),
    Mutant(
        "two dots lead out of a prefix",
        _PREFIXES,
        'if name in ("", ".", ".."):',
        'if name in ("", "."):',
        _PREFIXES_TESTS,
    ),
    Mutant(
        "a slash behind an escape hides a path",
        _PREFIXES,
        'if _CONTROL.search(name) or "/" in name or',
        "if _CONTROL.search(name) or",
        _PREFIXES_TESTS,
    ),
    Mutant(
        "the shortest prefix's credentials are used",
        _PREFIXES,
        "key=lambda prefix: len(prefix.location.segments), reverse=True)",
        "key=lambda prefix: len(prefix.location.segments))",
        _PREFIXES_TESTS,
    ),
    Mutant(
        "a link below a prefix is followed to any file",
        _READING,
        "os.O_RDONLY | os.O_NOFOLLOW |",
        "os.O_RDONLY |",
        _READING_TESTS,
    ),
    Mutant(
        "a redirect leads anywhere",
        _READING,
        'return {"allow_redirects": False, "encoded": True, "get_client": client}',
        'return {"encoded": True}',
        _READING_TESTS,
    ),
    Mutant(
        "a file that is larger than it says is cut off unnoticed",
        _READING,
        "found = _up_to(most + 1, file)",
        "found = _up_to(most, file)",
        _READING_TESTS,
    ),
    Mutant(
        "an error tells a password",
        _READING,
        'text = text.replace(secret, "***")',
        "text = text.replace(secret, secret[:3])",
        _READING_TESTS,
    ),
    Mutant(
        "reads that hang are left behind without bound",
        _FETCHING,
        "self.left_behind += read.cancelled()",
        "self.left_behind += not read.done()",
        _FETCHING_TESTS,
    ),
    Mutant(
        "a link that leads out of a prefix is tried again, as if it might be readable later",
        _FETCHING,
        'raise DecodeError(Reason.REFERENCE_REFUSED, f"{location} is not followed: {error}") from None',
        'raise Unreadable(f"{location}: {error}") from None',
        f"{_REFERENCES_TESTS}/test_fetching_pool.py {_FETCHING_TESTS}",
    ),
)
