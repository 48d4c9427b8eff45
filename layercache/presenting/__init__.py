"""Shared by several commands: text without the settings' secrets (:mod:`redaction`), versions of heads
(:mod:`heads_view`), what a certificate was tested on (:mod:`certificates`) and what exits save (:mod:`savings`), in
words.
"""
