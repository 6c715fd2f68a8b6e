"""Chat: messages and tools to token ids (render), a stream of token ids to events (parse).

Read `formats` for what the K2 family differs in, `render` for the envelope, `parse` for the state
machine and its table of what models get wrong. `messages` checks input, `call_ids` gives foreign
calls K2's ids, `typescript` declares tools to K2.5, `events` names what comes out, `template`
compares a checkpoint's own chat template with ours.
"""

from k2mlx.chat.call_ids import RenamedCalls, rename_calls
from k2mlx.chat.events import (
    ArgumentDelta,
    CallBegin,
    CallEnd,
    End,
    Event,
    Reasoning,
    SampledMessage,
    Text,
    assistant_message,
)
from k2mlx.chat.formats import FORMATS, Format, ReasoningMode, find_format, reasoning_mode
from k2mlx.chat.messages import check_messages, check_tools
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
    split_runs,
)
from k2mlx.chat.typescript import declare_tools

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
    "RenamedCalls",
    "SampledMessage",
    "StreamParser",
    "Text",
    "assistant_message",
    "check_messages",
    "check_tools",
    "declare_tools",
    "find_format",
    "parse_text",
    "pieces_to_ids",
    "pieces_to_text",
    "reasoning_mode",
    "rename_calls",
    "render",
    "render_for_training",
    "render_ids",
    "split_runs",
    "stop_ids",
]
