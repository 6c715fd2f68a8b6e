"""Evaluation: how often a model calls the right tool, rightly, and answers right after it.

Reading order: `heldout.py` (what training may not contain), `questions.py` (held-out questions),
`scoring.py` and `tools.py` (`k2mlx eval tools`), `matching.py` and `calls.py` (`k2mlx eval calls`).
"""
