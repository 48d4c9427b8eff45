"""These run in an environment of their own: without their packages they cannot even be imported."""

collect_ignore_glob = ["*_app.py"]
