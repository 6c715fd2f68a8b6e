"""Kimi K2 once more, in plain NumPy: what everything else is compared with."""
