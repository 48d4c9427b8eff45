"""Shared by several commands: text without the settings' secrets (:mod:`redaction`), and versions of heads
(:mod:`heads_view`).
"""
