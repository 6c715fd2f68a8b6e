"""Checkpoints on disk: their names and shapes, reading them safely, writing them whole."""
