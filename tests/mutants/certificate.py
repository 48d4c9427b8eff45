"""Mistakes on the way from an audit to a certificate: each would let exits open that must not."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_CODE, _TESTS = "cache_training/certifying", "tests/cache_training/certifying"
_AUDITS, _DEALING, _CERTIFICATE = f"{_CODE}/audits.py", f"{_CODE}/dealing.py", f"{_CODE}/certificate.py"
_CERTIFIER, _LIVE = f"{_CODE}/certifier.py", f"{_CODE}/live_version.py"
_AUDITS_TESTS, _DEALING_TESTS = f"{_TESTS}/test_audits.py", f"{_TESTS}/test_dealing.py"
_CERTIFICATE_TESTS, _CLASSES_TESTS = f"{_TESTS}/test_certificate.py", f"{_TESTS}/test_classes.py"
_CERTIFIER_TESTS, _LIVE_TESTS = f"{_TESTS}/test_certifier.py", f"{_TESTS}/test_live_version.py"
_TRAINER_TESTS = "tests/cache_training/test_trainer.py"

MUTANTS = (
    Mutant(
        "an audit counts twice",
        _AUDITS,
        "audit = batch.audit.astype(np.bool_) & fresh",
        "audit = batch.audit.astype(np.bool_)",
        f"{_AUDITS_TESTS} {_CERTIFIER_TESTS}",
    ),
    Mutant(
        "the latest frames are forgotten by a checkpoint, and count twice after it",
        _AUDITS,
        "return np.unique(np.concatenate((latest, self._recent, self._earlier)))",
        "return np.unique(np.concatenate((self._recent, self._earlier)))",
        _AUDITS_TESTS,
    ),
    Mutant(
        "frames that certify were learnt from",
        _AUDITS,
        "frames.rows(audit & (use == AuditUse.LEARNING))",
        "frames.rows(audit & (use != AuditUse.TUNING))",
        f"{_AUDITS_TESTS} {_CERTIFIER_TESTS}",
    ),
    Mutant(
        "a miss is learnt from although its near-copies certify",
        _AUDITS,
        "frames.rows(~batch.audit.astype(np.bool_) & fresh & learnable)",
        "frames.rows(~batch.audit.astype(np.bool_) & fresh)",
        f"{_AUDITS_TESTS} {_CERTIFIER_TESTS}",
    ),
    Mutant(
        "near-copies of what has certified certify again",
        _AUDITS,
        "certifying = audit & (use == AuditUse.CERTIFICATION) & ~self.used_blocks.known(block)",
        "certifying = audit & (use == AuditUse.CERTIFICATION)",
        f"{_AUDITS_TESTS} {_CERTIFIER_TESTS}",
    ),
    Mutant(
        "a window certifies a second time",
        _AUDITS,
        """        self.windows.certification.clear()
        self.used_blocks""",
        "        self.used_blocks",
        f"{_AUDITS_TESTS} {_CERTIFIER_TESTS}",
    ),
    Mutant(
        "near-copies of what was learnt are not seen as a leak",
        _AUDITS,
        "shared = np.isin(certifying.block, frames.block) | np.isin(certifying.position, frames.position)",
        "shared = np.isin(certifying.position, frames.position)",
        _AUDITS_TESTS,
    ),
    Mutant(
        "frames without a key are near-copies of each other",
        _DEALING,
        "return np.where(batch.key_hash == 0, own, shared)",
        "return shared",
        _DEALING_TESTS,
    ),
    Mutant(
        "near-copies are tested as if they were independent",
        _DEALING,
        "return np.sort(np.unique(block, return_index=True)[1])",
        "return np.arange(len(block))",
        _DEALING_TESTS,
    ),
    Mutant(
        "the errors of all attempts sum to more than is promised",
        _CERTIFICATE,
        "(1 - confidence) / (attempt * (attempt + 1))",
        "(1 - confidence) / (attempt * attempt)",
        _CERTIFICATE_TESTS,
    ),
    Mutant(
        "two budgets spend an attempt's error twice",
        _CERTIFICATE,
        "return cls(error - overload, overload)",
        "return cls(error, overload)",
        _CERTIFICATE_TESTS,
    ),
    Mutant(
        "the test counts one disagreement less",
        _CERTIFICATE,
        "special.bdtr(np.minimum(disagreements, frames).astype(float), frames, budget)",
        "special.bdtr(np.maximum(disagreements - 1, 0).astype(float), frames, budget)",
        _CERTIFICATE_TESTS,
    ),
    Mutant(
        "the upper bound of a risk counts one agreement more than there was",
        _CERTIFICATE,
        "special.betaincinv(disagreements + 1, frames - disagreements, 1 - error)",
        "special.betaincinv(disagreements + 1, frames - disagreements + 1, 1 - error)",
        _CERTIFICATE_TESTS,
    ),
    Mutant(
        "testing goes on after the first setting that fails",
        _CERTIFICATE,
        "passed = len(passes) if passes.all() else int(passes.argmin())",
        "passed = int(np.flatnonzero(passes).max(initial=-1)) + 1",
        _CERTIFICATE_TESTS,
    ),
    Mutant(
        "one class within its cap is enough",
        _CERTIFICATE,
        "np.all(p_values(disagreements, frames, self.budget) <= error, axis=1)",
        "np.any(p_values(disagreements, frames, self.budget) <= error, axis=1)",
        _CLASSES_TESTS,
    ),
    Mutant(
        "overload's setting is counted from where its own test began",
        _CERTIFICATE,
        "return replace(verdict, index=verdict.index + start) if verdict else None",
        "return verdict",
        _CERTIFICATE_TESTS,
    ),
    Mutant(
        "an attempt is not claimed, so that its error is spent again",
        _CERTIFIER,
        "number = self._published.store.claim_attempt()",
        "number = self._published.store.attempts() + 1",
        _TRAINER_TESTS,
    ),
    Mutant(
        "frames are looked at before it is saved that they were used",
        _CERTIFIER,
        "        self._make_durable()\n        tested",
        "        tested",
        _TRAINER_TESTS,
    ),
    Mutant(
        "the cap on classes is not tested",
        _CERTIFIER,
        "certify(attempt.wrong, promise.max_disagreement, errors.normal, cap)",
        "certify(attempt.wrong, promise.max_disagreement, errors.normal)",
        _CERTIFIER_TESTS,
    ),
    Mutant(
        "audits of another version speak of the live one",
        _LIVE,
        "if self.live is None or batch.header.heads_version != self.live.version:",
        "if self.live is None:",
        _LIVE_TESTS,
    ),
    Mutant(
        "one camera that stands still raises an alarm",
        _LIVE,
        "counts = self._tested_blocks.new(taken.block[audits]) | (batch.key_hash[audits] == 0)",
        "counts = np.ones(len(audits), np.bool_)",
        _LIVE_TESTS,
    ),
    Mutant(
        "what was certified is lost where the store was away for a moment",
        _LIVE,
        "        self._unpublished = manifest, tensors\n",
        "",
        _TRAINER_TESTS,
    ),
)
