"""Reference: what ``import layercache`` offers, from its docstrings."""

import layercache

_HEAD = """# Python

What `import layercache` offers. Names are imported when they are first used: `import layercache` alone loads neither
torch nor Kafka.

"""


def page() -> str:
    """Markdown with a directive for mkdocstrings for each public name.

    >>> "::: layercache.HeadStore" in page()
    True
    """
    names = [name for name in layercache.__all__ if not name.startswith("_")]
    return _HEAD + "\n\n".join(f"::: layercache.{name}" for name in names) + "\n"
