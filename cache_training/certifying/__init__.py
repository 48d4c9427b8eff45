"""Which heads may open.

In the order that an audit meets them: :mod:`dealing` gives it one use, :mod:`audits` takes it in, by what
:mod:`seen_numbers` remembers, and :mod:`scenes` compares it with others of its key, :mod:`windows` keep it,
:mod:`readiness` says when there are enough, :mod:`options` scores heads and compiled paths on tuning audits,
:mod:`choosing` chooses among them, :mod:`threshold_family` their thresholds, :mod:`attempt` runs certification audits
through them, with :mod:`classes` apart, :mod:`certificate` tests, by :mod:`binomial`, or by :mod:`samples` where
several frames of a block count, at several :mod:`looks` while an :mod:`open_attempt` waits for more frames, at the
error that :mod:`error_shares` allows by what :mod:`attempt_ledger` finds in the store, :mod:`certifier` decides when,
by what :mod:`savings` are worth it, :mod:`versions` makes a version of the outcome, to be audited as often as
:mod:`audit_rates` says, :mod:`live_version` watches the version that is live, with :mod:`audit_tally` by class
and key.
"""
