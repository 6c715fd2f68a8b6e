"""The three tools of k2mlx as the generators use them: declared, and run for their real results."""

from datetime import UTC, datetime, timedelta
from random import Random

from k2mlx.agent.tools import builtin_tools
from k2mlx.synth.talk import Call

NAMES = ("calculator", "clock", "convert_units")
_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_YEARS_IN_MINUTES = 8 * 365 * 24 * 60


class Toolbox:
    """Runs the tools; its clock shows one time, drawn from `rng`, for a whole conversation."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._now = _EPOCH
        self._tools = builtin_tools(lambda: self._now)
        self.new_time()

    def new_time(self) -> None:
        self._now = _EPOCH + timedelta(minutes=self.rng.randrange(_YEARS_IN_MINUTES))

    def run(self, name: str, **arguments: object) -> Call:
        """Calls a tool; errors come back in the result as text, as they do in the agent loop."""
        return Call(name, arguments, self._tools[name].run(arguments))

    def specs(self, *names: str) -> list[dict]:
        """The declarations of some tools (all three when none is named), in random order."""
        specs = [self._tools[name].spec for name in names or NAMES]
        self.rng.shuffle(specs)
        return specs
