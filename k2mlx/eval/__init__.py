"""Evaluation: how often a model calls the right tool, rightly, and answers right after it.

Reading order: `heldout.py` (what training may not contain), `questions.py` (the held-out tool
questions), `tools.py` (`k2mlx eval tools`), `calls.py` (`k2mlx eval calls`: any function-calling set).
"""
