"""The dashboard: what a browser shows of a running Layercache. ``state`` is what is shown, ``collector`` gathers it."""
