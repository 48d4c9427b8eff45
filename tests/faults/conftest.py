"""What pytest must not import to look for examples: that module changes the process that imports it."""

collect_ignore = ["harness/forked.py"]
