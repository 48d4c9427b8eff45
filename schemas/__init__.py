"""Everything that crosses a process boundary: messages, files and settings, one module each."""
