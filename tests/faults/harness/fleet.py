"""The workers: started, killed and looked after as an orchestrator would."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from layercache.schemas.settings import Settings
from tests.faults.harness.entry import HOLDS
from tests.faults.harness.lives import Life

#: Longest that a worker may take to end after SIGTERM.
STOP_S = 60.0
_SAID = 400
#: What a worker logs before an error that nobody foresaw.
_UNFORESEEN = "the worker failed"


@dataclass
class Ended:
    """A worker that ended by itself: which, with what exit code, and its last words."""

    worker: str
    code: int
    said: str
    is_clean: bool
    """It said why, and ended with exit code 1; else it crashed, or failed by an error that nobody foresaw."""


@dataclass
class Member:
    """One replica: its settings stay, its processes come and go."""

    name: str
    settings: Settings
    life: Life | None = None
    starts: int = 0

    @property
    def runs(self) -> bool:
        return self.life is not None

    @property
    def is_static(self) -> bool:
        """Whether it is a static member of its group (KIP-345)."""
        return self.settings.worker.static_membership

    @property
    def held(self) -> list[frozenset[int]]:
        """The partitions that it held after each change of its assignment."""
        return self.life.told(HOLDS) if self.life is not None else []


@dataclass
class Fleet:
    """Replicas 0 to ``size`` - 1; every other one has a ``worker_id``, so that its transactional.id is stable.

    Those are static members of the group where ``static`` says so.
    """

    settings: Settings
    folder: Path
    size: int
    static: bool = False
    members: list[Member] = field(init=False)
    ended: list[Ended] = field(default_factory=list)
    """Those that ended by themselves."""
    codes: Counter[int] = field(default_factory=Counter)
    """Exit codes of those that were asked to end."""
    stubborn: int = 0
    """Those that had to be killed because they did not end on SIGTERM."""

    def __post_init__(self) -> None:
        self.members = [Member(f"worker-{number}", self._settings_of(number)) for number in range(self.size)]

    @property
    def running(self) -> list[Member]:
        return [member for member in self.members if member.runs]

    @property
    def idle(self) -> list[Member]:
        return [member for member in self.members if not member.runs]

    def start(self, member: Member, gated: bool = False) -> None:
        member.starts += 1
        # A log for each life: what a worker said is not what the one before it said.
        member.life = Life.start(member.settings, self.folder, f"{member.name}-{member.starts}", gated)

    def kill(self, member: Member) -> None:
        """SIGKILL, also of a stopped one."""
        if member.life is not None:
            member.life.signal(signal.SIGKILL)
            assert member.life.wait(30), f"{member.name} outlives SIGKILL"
            member.life = None

    def kill_while_committing(self, member: Member, seconds: float) -> Life:
        """Has it killed between its two calls; returns the life that has ended. It fails where nothing is committed."""
        life = member.life
        assert life is not None
        with life.dying_while_committing():
            assert life.wait(seconds), f"{member.name} committed nothing for {seconds:.0f} s"
        assert life.code == -signal.SIGKILL, f"{member.name} ended by itself before it could be killed"
        member.life = None
        return life

    def pause(self, member: Member) -> None:
        if member.life is not None:
            member.life.signal(signal.SIGSTOP)

    def resume(self, member: Member) -> None:
        if member.life is not None:
            member.life.signal(signal.SIGCONT)

    def stop(self, member: Member) -> None:
        """SIGTERM, and waits for the end."""
        if member.life is None:
            return
        member.life.signal(signal.SIGTERM)
        if member.life.wait(STOP_S):
            self.codes[member.life.code or 0] += 1
            member.life = None
        else:
            self.stubborn += 1
            self.kill(member)

    def tend(self) -> None:
        """Starts again whoever has ended by itself, as an orchestrator would, and notes it."""
        for member in self.running:
            assert member.life is not None
            code = member.life.code
            if code is not None:
                self.ended.append(_ended(member.life, code))
                self.start(member)

    def partitions_of(self, member: Member) -> frozenset[int]:
        """The partitions that this worker last said it holds.

        Not those that the group's coordinator would name: librdkafka's admin client aborts the process that asks about
        a group while the broker is away.
        """
        held = member.held
        return held[-1] if held else frozenset()

    def close(self) -> None:
        """Ends all at once; killed if need be."""
        for member in self.running:
            self.kill(member)

    def stop_all(self) -> None:
        """SIGTERM to all, one after another."""
        for member in self.running:
            self.stop(member)

    def wait(self, condition: Callable[[], bool], seconds: float, step_s: float = 0.1) -> bool:
        """Tends until ``condition`` holds; False where it does not within ``seconds``."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.tend()
            time.sleep(step_s)
        return True

    def _settings_of(self, number: int) -> Settings:
        """Its name as client.id, for whoever reads the broker's log; ``worker_id`` for the even ones."""
        name = f"worker-{number}"
        kafka = self.settings.kafka.model_copy(update={"options": {**self.settings.kafka.options, "client.id": name}})
        own = {} if number % 2 else {"worker_id": name, "static_membership": self.static}
        worker = self.settings.worker.model_copy(update=own)
        return self.settings.model_copy(update={"kafka": kafka, "worker": worker})


def _ended(worker: Life, code: int) -> Ended:
    lines = worker.text().strip().splitlines()
    errors = [line for line in lines if " ERROR " in line] or lines or [""]
    is_clean = code == 1 and not any(_UNFORESEEN in line for line in lines)
    return Ended(worker.log.stem, code, (errors if is_clean else lines)[-1][-_SAID:], is_clean)
