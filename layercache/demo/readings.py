"""What the demo reads from the broker: predictions, the audits among the distillation records, dead letters."""

from collections.abc import Iterator, Mapping
from types import TracebackType

from confluent_kafka import Message

from layercache.demo.versions import Versions
from layercache.measuring.tally import Answer, Audit
from layercache.schemas import dead_letter, distillation, prediction
from layercache.schemas.frame import CE_ID
from layercache.schemas.settings import Settings
from layercache.stream.kafka.following import TopicFollower
from layercache.stream.kafka.record_headers import headers_of

_BATCH = 500


class Unanswered(RuntimeError):
    """A frame became a dead letter; the demo's frames are all good, so something is wrong."""


class Readings:
    """Reads three topics from their beginning, committed records alone; no group, so nothing to wait for."""

    def __init__(self, settings: Settings, places: Mapping[str, int], versions: Versions) -> None:
        self._topics = settings.topics
        self._places = places
        self._versions = versions
        topics = (self._topics.predictions, self._topics.distillation, self._topics.dead_letters)
        self._follower = TopicFollower(settings, topics, before_end=None)

    def __enter__(self) -> "Readings":
        self._follower.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follower.close()

    def poll(self, timeout_s: float) -> tuple[list[Answer], list[Audit]]:
        """What has arrived, after ``timeout_s`` at most. Raises :class:`Unanswered` at a dead letter."""
        answers: list[Answer] = []
        audits: list[Audit] = []
        for message in self._follower.read(_BATCH, timeout_s):
            if message.topic() == self._topics.predictions:
                answers.append(self._answer(message))
            elif message.topic() == self._topics.distillation:
                audits.extend(_audits(message))
            else:
                raise Unanswered(_complaint(message))
        return answers, audits

    def _answer(self, message: Message) -> Answer:
        read = prediction.decoder.decode(message.value() or b"")
        return Answer(
            frame=self._places[read.id],
            partition=read.partition,
            offset=read.offset,
            label=read.label,
            exit=read.exit,
            audited=read.audited,
            version=read.heads_version,
            flops_share=self._versions.flops_share(read.heads_version, read.exit),
            time_share=self._versions.time_share(read.heads_version, read.exit),
            frame_ms=read.times.frame_ms,
            predicted_ms=read.times.predicted_ms,
            inference_ms=read.times.inference_ms,
        )


def _audits(message: Message) -> Iterator[Audit]:
    batch = distillation.decode(message.value() or b"")
    for row in batch.audit.nonzero()[0]:
        yield Audit(
            partition=int(batch.partition[row]),
            offset=int(batch.offset[row]),
            exits_open=bool(batch.header.exits),
            disagrees=bool(batch.live_label[row] != batch.logits[row].argmax()),
        )


def _complaint(message: Message) -> str:
    headers = dict(headers_of(message))
    name, reason, said = (
        (headers.get(header) or b"?").decode(errors="replace")
        for header in (CE_ID, dead_letter.REASON, dead_letter.MESSAGE)
    )
    return f"frame {name} was not answered ({reason}): {said}"
