"""Training: MuonClip's Muon, the schedule, INT4 quantisation-aware training, and one loop for all
stages.

Reading order: `recipe.py` (what a TOML file may say), `muon.py`, `optimizer.py`, `loss.py`,
`qat.py`, `step.py` (one optimiser step), `loop.py` (a run), `checkpoint.py`.
"""
