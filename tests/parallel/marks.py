"""The files in which ranks of tests.parallel.rank say how far they are and how they ended."""


class Marks:
    """What is the same wherever ranks run; who inherits has `read`, which waits for a file."""

    def pid(self, rank):
        """On its host."""
        return int(self.read(rank, "pid"))

    def ended(self, rank, within):
        """(code, when, the lines of its standard error)"""
        code, when = self.read(rank, "code", within).split()
        lines = self.read(rank, "err").splitlines()
        # MLX's own, of a neighbour that is gone, as often as it tries to reach it.
        return int(code), float(when), [line for line in lines if not line.startswith("[ring]")]
