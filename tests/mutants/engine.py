"""Mistakes in the engine, the policy that trainer and worker share, and the drift test."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_ENGINE, _POLICY, _DRIFT = "early_exit/engine.py", "early_exit/policy.py", "early_exit/drift.py"
_ENGINE_TESTS, _POLICY_TESTS = "tests/early_exit/test_engine.py", "tests/early_exit/test_policy.py"
_DRIFT_TESTS = "tests/early_exit/test_drift.py"
_BLOCKS, _BLOCKS_TESTS = "early_exit/blocks.py", "tests/early_exit/test_blocks.py"
_PATH_TESTS = "tests/early_exit/compiled/test_paths.py"
_RUNTIMES, _RUNTIMES_TESTS = "early_exit/runtimes.py", "tests/early_exit/test_runtimes.py"

MUTANTS = (
    Mutant(
        "an audited frame leaves early",
        _ENGINE,
        'kept = np.ones(n, np.bool_) if self.mode == "shadow" else audits',
        'kept = np.full(n, self.mode == "shadow")',
        _ENGINE_TESTS,
    ),
    Mutant(
        "in shadow mode exits answer",
        _ENGINE,
        'kept = np.ones(n, np.bool_) if self.mode == "shadow" else audits',
        "kept = audits",
        _ENGINE_TESTS,
    ),
    Mutant(
        "a score at its threshold does not leave in the worker, as it did in the certificate",
        _ENGINE,
        "fires = score.cpu().numpy() >= self._thresholds[:, index, None]",
        "fires = score.cpu().numpy() > self._thresholds[:, index, None]",
        _ENGINE_TESTS,
    ),
    Mutant(
        "a later exit overrules the first in what is told of an audit",
        _ENGINE,
        "first = fire & (would_leave[setting, alive] < 0)",
        "first = fire",
        _ENGINE_TESTS,
    ),
    Mutant(
        "after a micro-batch has shrunk answers go to other frames",
        _ENGINE,
        "rows = alive[leaves]",
        "rows = np.flatnonzero(leaves)",
        _ENGINE_TESTS,
    ),
    Mutant(
        "logits are multiplied by the temperature",
        "early_exit/heads/scoring.py",
        "(logits.float() / temperature)",
        "(logits.float() * temperature)",
        _ENGINE_TESTS,
    ),
    Mutant(
        "OpenVINO runs the full model however its logits differ from PyTorch's",
        _RUNTIMES,
        "if not differs <= TOLERANCE * float(expected.abs().max()):",
        "if differs > TOLERANCE * float(expected.abs().max()) * 1e9:",
        _RUNTIMES_TESTS,
    ),
    Mutant(
        "OpenVINO runs the full model though it names other classes",
        _RUNTIMES,
        "if not torch.equal(expected.argmax(1), found.argmax(1)):",
        "if False:",
        _RUNTIMES_TESTS,
    ),
    Mutant(
        "a frame by itself is not compared before OpenVINO runs the full model",
        _RUNTIMES,
        "for row in range(min(_SINGLY, together)):",
        "for row in range(0):",
        _RUNTIMES_TESTS,
    ),
    Mutant(
        "past heads on its own layers the model runs as a whole",
        "early_exit/cascades.py",
        'if traced.classifier.reference.runtime != "torch" and not (heads and heads.manifest.exits):',
        'if traced.classifier.reference.runtime != "torch":',
        _RUNTIMES_TESTS,
    ),
    Mutant(
        "a compiled path serves though the settings let nothing be compiled",
        "early_exit/heads/compiled_heads.py",
        "if (why_not := refusal(traced.classifier)) is not None:",
        "if (why_not := None) is not None:",
        _PATH_TESTS,
    ),
    Mutant(
        "audits are sent as lessons, too",
        "stream/worker/answering/lessons.py",
        "(left_at == end) & ~answered.batch.audits",
        "(left_at == end)",
        "tests/stream/worker/answering/test_lessons.py",
    ),
    Mutant(
        "what a compiled path leaves is not the picture's own",
        "early_exit/cascades.py",
        "self._answer(frames[torch.from_numpy(rows)])",
        "self._answer(frames[: len(rows)])",
        _PATH_TESTS,
    ),
    Mutant(
        "a machine that computes otherwise is trusted",
        "early_exit/compiled/probes.py",
        "if not differs <= self.tolerance:",
        "if differs > 100 * self.tolerance:",
        _PATH_TESTS,
    ),
    Mutant(
        "overload's thresholds answer every day",
        _ENGINE,
        "self._in_force = 0",
        "self._in_force = len(self._thresholds) - 1",
        _ENGINE_TESTS,
    ),
    Mutant(
        "overload is audited by the everyday thresholds",
        _ENGINE,
        "overload_label=would_answer[1] if",
        "overload_label=would_answer[0] if",
        _ENGINE_TESTS,
    ),
    Mutant(
        "a score that is no number certifies as a sure one",
        _ENGINE,
        "nan=-1.0), np.stack(labels, 1)",
        "nan=1.0), np.stack(labels, 1)",
        _ENGINE_TESTS,
    ),
    Mutant(
        "joined answers name the rows of their parts",
        _ENGINE,
        "full_rows=np.concatenate([part.full_rows + begin for",
        "full_rows=np.concatenate([part.full_rows + 0 * begin for",
        _ENGINE_TESTS,
    ),
    Mutant(
        "the last exit that is sure is taken for the first",
        _POLICY,
        "fires.argmax(1), -1)",
        "fires.shape[1] - 1 - fires[:, ::-1].argmax(1), -1)",
        _POLICY_TESTS,
    ),
    Mutant(
        "partitions are audited alike",
        _POLICY,
        'blake2b(f"{topic}\\0{partition}".encode()',
        'blake2b(f"{topic}\\0".encode()',
        _POLICY_TESTS,
    ),
    Mutant(
        "whether a frame is audited, its identity and its use are one and the same draw",
        _POLICY,
        "digest_size=8, key=salt)",
        "digest_size=8, key=_AUDIT_SALT)",
        _POLICY_TESTS,
    ),
    Mutant(
        "an alarm of drift ends when evidence falls again",
        _DRIFT,
        "self.alarmed = self.alarmed or self.evidence >= 1 / self.level",
        "self.alarmed = self.evidence >= 1 / self.level",
        _DRIFT_TESTS,
    ),
    Mutant(
        "an alarm of drift ends with the process",
        _DRIFT,
        'self.alarmed = bool(state.get("alarmed"))',
        "self.alarmed = self.evidence >= 1 / self.level",
        _DRIFT_TESTS,
    ),
    Mutant(
        "many agreements count as one",
        _DRIFT,
        "bet * loss**count for",
        "bet * loss for",
        _DRIFT_TESTS,
    ),
    Mutant(
        "a camera's long blocks weigh more than an alarm's bets were made for",
        _BLOCKS,
        "counted = sorted(block.drawn)[: self._most]",
        "counted = sorted(block.drawn)",
        _BLOCKS_TESTS,
    ),
    Mutant(
        "the first audits of a block count instead of a fair choice",
        _BLOCKS,
        "block.drawn = sorted(block.drawn)[: self._most]",
        "block.drawn = block.drawn[: self._most]",
        _BLOCKS_TESTS,
    ),
    Mutant(
        "a heavy block weighs as little as a light one in the watch",
        _DRIFT,
        "share = self.budget + (disagreements - self.budget * audits) / most",
        "share = disagreements / audits",
        _DRIFT_TESTS,
    ),
    Mutant(
        "every disagreement bets capital that was bet before",
        _DRIFT,
        "stake = before - self._unspent()",
        "stake = before",
        _DRIFT_TESTS,
    ),
)
