"""What was measured: speed and memory of the same weights in k2mlx and in mlx-lm.

Each engine lives in a process of its own (`worker`), so neither sees the other's caches, and rounds
alternate between them, so both see the same weather. `compare` drives them; `peer` gives mlx-lm our
weights. A ratio above 1 always means that k2mlx is better, also for memory.
"""

from k2mlx.bench.rounds import Plan, compare

__all__ = ["Plan", "compare"]
