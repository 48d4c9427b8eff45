"""The Kafka side: frames come in, answers go out, each exactly once.

In the order that a frame meets them: :mod:`publishing` sends it, :mod:`worker` answers it, with what :mod:`frames`
makes of its bytes and :mod:`references` fetches where it only refers to a picture, and :mod:`watching` shows the
answer. :mod:`kafka` is the ground under all of them, and under the trainer, the API, the doctor and the dashboard.
:mod:`offline` is a worker's path from bytes to predictions without Kafka.
"""
