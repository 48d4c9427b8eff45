"""What several commands show alike: settings without their secrets (:mod:`redaction`), and versions of heads
(:mod:`heads_view`).
"""
