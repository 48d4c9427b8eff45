"""The online trainer: full-path results in, certified cache heads out."""
