"""Evaluation: how often a model calls the right tool and answers rightly after it, how well it
predicts text, and how it talks.

Reading order: `heldout.py` (what training may not contain), `questions.py` (held-out questions),
`scoring.py` and `tools.py` (`k2mlx eval tools`), `matching.py` and `calls.py` (`k2mlx eval calls`),
`text.py` (`k2mlx eval text`), `openings.py` and `chat.py` (`k2mlx eval chat`), `overlap.py`
(`k2mlx eval overlap`).
"""
