"""Tools that a model may call, and the loop that runs a conversation turn with them.

Reading order: `tools.py` (what a tool is), `calculator.py`, `clock.py`, `units.py`, then `loop.py`.
"""
