"""Which heads may open.

In the order that an audit meets them: :mod:`dealing` gives it one use, :mod:`audits` keeps it, :mod:`choosing` chooses
heads and thresholds on tuning audits, :mod:`attempt` runs certification audits through them, with :mod:`classes` apart,
:mod:`certificate` tests, :mod:`certifier` decides when, :mod:`versions` makes a version of the outcome,
:mod:`live_version` watches the version that is live, with :mod:`audit_tally` by class and key.
"""
