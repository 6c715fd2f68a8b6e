"""Following an answer: how often, to the end, and what happens when nobody follows any more."""

import asyncio
import threading
import time
from contextlib import aclosing

from apps.chat.live import Live
from k2mlx.chat import End, Text


class ScriptedTurn:
    """Events with a pause before each; `cancel` ends them."""

    def __init__(self, count, pause):
        self.cancelled = threading.Event()
        self._count, self._pause = count, pause

    def cancel(self):
        self.cancelled.set()

    def __iter__(self):
        for i in range(self._count):
            if self.cancelled.wait(self._pause):
                yield End("cancelled")
                return
            yield Text(f"{i} ")
        yield End("stop")


def test_updates_are_rationed_and_the_last_one_is_whole():
    live = Live(lambda progress: ScriptedTurn(500, 0.002), [])

    async def follow():
        async with aclosing(live.watch(updates=8)) as growing:
            return [(time.perf_counter(), answer.done) async for answer in growing]

    updates = asyncio.run(follow())
    seconds = updates[-1][0] - updates[0][0]
    assert seconds > 0.9
    assert len(updates) <= 8 * seconds + 2
    assert [done for _, done in updates] == [False] * (len(updates) - 1) + [True]
    assert live.answer.parts[0].text.split() == [str(i) for i in range(500)]


def test_the_first_word_and_the_end_do_not_wait():
    live = Live(lambda progress: ScriptedTurn(1, 0.0), [])

    async def follow():
        began = time.perf_counter()
        async with aclosing(live.watch(updates=0.1)) as growing:  # one in ten seconds
            async for _ in growing:
                pass
        return time.perf_counter() - began

    assert asyncio.run(follow()) < 5


def test_who_stops_watching_stops_the_model():
    turn = ScriptedTurn(100_000, 0.001)
    live = Live(lambda progress: turn, [])

    async def follow():
        async with aclosing(live.watch()) as growing:
            async for _ in growing:
                break

    asyncio.run(follow())
    assert turn.cancelled.is_set()


def test_cancelled_before_the_turn_has_begun():
    turn = ScriptedTurn(100_000, 0.001)
    live = Live(lambda progress: turn, [])
    live.cancel()

    async def follow():
        async with aclosing(live.watch()) as growing:
            async for _ in growing:
                pass
        return live.answer

    assert asyncio.run(follow()).finish_reason == "cancelled"


def test_progress_is_seen_until_something_is_written():
    wait = threading.Event()
    seen = []

    def begin(progress):
        progress(512, 2000)
        wait.wait(5)
        return ScriptedTurn(1, 0.0)

    live = Live(begin, [])

    async def follow():
        async with aclosing(live.watch(updates=100)) as growing:
            async for answer in growing:
                seen.append(answer.reading)
                wait.set()

    asyncio.run(follow())
    assert seen[0] == (512, 2000)
    assert seen[-1] is None
