"""Chat: messages and tools to token ids (render), a stream of token ids to events (parse).

Read `formats` for what the K2 family differs in, `render` for the envelope, `parse` for the state
machine and its table of what models get wrong. `messages` checks input, `events` names what comes
out.
"""

from k2mlx.chat.events import (
    ArgumentDelta,
    CallBegin,
    CallEnd,
    End,
    Event,
    Reasoning,
    Text,
    assistant_message,
)
from k2mlx.chat.formats import FORMATS, Format, ReasoningMode, find_format, reasoning_mode
from k2mlx.chat.messages import check_messages, check_tools, count_calls
from k2mlx.chat.parse import END_MARKERS, StreamParser, parse_text, stop_ids
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
    "END_MARKERS",
    "FORMATS",
    "ArgumentDelta",
    "CallBegin",
    "CallEnd",
    "End",
    "Event",
    "Format",
    "Marker",
    "Piece",
    "Plain",
    "Reasoning",
    "ReasoningMode",
    "StreamParser",
    "Text",
    "assistant_message",
    "check_messages",
    "check_tools",
    "count_calls",
    "find_format",
    "parse_text",
    "pieces_to_ids",
    "pieces_to_text",
    "reasoning_mode",
    "render",
    "render_for_training",
    "render_ids",
    "stop_ids",
]
