"""Chat: messages and tools to token ids (render), a stream of token ids to events (parse).

Read `formats` for what the K2 family differs in, `render` for the envelope, `parse` for the state machine and its
table of what models get wrong. `messages` checks input, `events` names what comes out.
"""

from k2mlx.chat.formats import FORMATS, Format, ReasoningMode, find_format, reasoning_mode
from k2mlx.chat.render import (
    Marker,
    Piece,
    Plain,
    pieces_to_ids,
    pieces_to_text,
    render,
    render_for_training,
    render_ids,
)

__all__ = [
    "FORMATS",
    "Format",
    "Marker",
    "Piece",
    "Plain",
    "ReasoningMode",
    "find_format",
    "pieces_to_ids",
    "pieces_to_text",
    "reasoning_mode",
    "render",
    "render_for_training",
    "render_ids",
]
