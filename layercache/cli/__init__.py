"""The command line: ``layercache COMMAND``, a module for each command, and :mod:`main` that puts them together."""
