"""Exits in one's own loop, without Kafka: the demo's classifier, its pictures, and a trainer that opens the exits.

python examples/own_loop.py
"""

import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

import layercache

HERE = Path(__file__).parent
BATCH = 50


def pictures() -> list[bytes]:
    """The demo's 10,000 pictures, encoded as WebP."""
    with ZipFile(HERE / "fashion-mnist-frames.zip") as archive:
        return [archive.read(name) for name in sorted(archive.namelist())]


def main(count: int = 10_000, learning_s: float = 0.5) -> None:
    """Streams the first ``count`` pictures; after every batch the trainer learns for ``learning_s`` seconds."""
    frames = pictures()[:count]
    with tempfile.TemporaryDirectory() as folder:
        model = layercache.EarlyExitModel.from_spec(
            f"{HERE}/fashion_mnist.py:build",
            store=f"file://{folder}",
            promise=layercache.Promise(max_disagreement=0.01),
        )
        plain = layercache.EarlyExitModel(model.classifier)  # without exits: to hold the answers against
        trainer = layercache.OnlineTrainer(model)
        before, others, since = model.statistics(), 0, 0
        for start in range(0, len(frames), BATCH):
            batch = frames[start : start + BATCH]
            answers = model(batch)  # pictures of their own, so they have no key; a camera's frames would
            trainer.observe(answers)
            if version := trainer.step(learning_s):
                print(f"{start + len(batch):6,} frames: {version} exits at {', '.join(model.exits) or 'nothing'}")
            others += int((answers.labels != plain(batch).labels).sum())
            if (start + len(batch)) % 1_000 < BATCH or start + len(batch) == len(frames):
                now = model.statistics()
                new = now.frames - before.frames
                flops = (now.flops_share * now.frames - before.flops_share * before.frames) / new
                time = (now.time_share * now.frames - before.time_share * before.frames) / new
                early = 1 - (now.exits.get("full", 0) - before.exits.get("full", 0)) / new
                print(
                    f"{now.frames:6,} frames: of the last {new:,}, {early:.0%} left early, "
                    f"{time:.0%} of the time and {flops:.0%} of the FLOPs were spent, "
                    f"and {others - since} had another label than the full model's"
                )
                before, since = now, others
        model.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
