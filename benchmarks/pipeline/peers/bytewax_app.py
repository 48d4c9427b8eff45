"""The job on bytewax: frame by frame, or in the batches that its source reads. At least once, by its recovery store."""

from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax._bytewax import cli_main
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir

from benchmarks.pipeline.peers.job import NOTHING, Config, build_job, frame_id

#: Bytewax's own default where frames take no time: the sink flushes after every batch, so that small ones cost. Where a
#: model runs, a whole batch waits for its last frame.
_READ_AT_ONCE = 1_000


def main() -> None:
    config = Config.from_arguments()
    job = build_job(config)

    def answer(frames: "list[KafkaSourceMessage[bytes, bytes]]") -> "list[KafkaSinkMessage[bytes, bytes]]":
        answers = job.answer([frame.value or b"" for frame in frames], [frame_id(frame.headers) for frame in frames])
        return [KafkaSinkMessage(frame.key, value) for frame, value in zip(frames, answers, strict=True)]

    flow = Dataflow("predictions")
    at_once = _READ_AT_ONCE if config.model == NOTHING else config.batch
    servers = [config.servers]
    frames = kop.input("frames", flow, brokers=servers, topics=[config.frames], batch_size=at_once).oks
    if config.batched:
        answered = op.flat_map_batch("predict", frames, answer)
    else:
        answered = op.map("predict", frames, lambda frame: answer([frame])[0])
    kop.output("predictions", answered, brokers=servers, topic=config.predictions)
    recovery = Path(config.state_dir) / "recovery"
    recovery.mkdir(parents=True, exist_ok=True)
    init_db_dir(recovery, 1)
    cli_main(flow, recovery_config=RecoveryConfig(str(recovery)), epoch_interval=timedelta(seconds=10))


if __name__ == "__main__":
    main()
