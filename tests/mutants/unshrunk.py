"""A plugin for pytest: Hypothesis looks for no smaller example, since any that fails has caught the mutant."""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile(
    "unshrunk", phases=(Phase.explicit, Phase.generate), database=None, report_multiple_bugs=False
)
