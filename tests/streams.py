"""Messages, model outputs and events in a short form, for the tests of k2mlx.chat."""

from k2mlx.chat import ArgumentDelta, CallEnd, End, Reasoning, StreamParser, Text


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def call(name="f", arguments="{}", **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


# Short names for the markers, to keep tables readable: S section, C call, A arguments.
SHORT = {
    "[S]": "<|tool_calls_section_begin|>",
    "[/S]": "<|tool_calls_section_end|>",
    "[C]": "<|tool_call_begin|>",
    "[A]": "<|tool_call_argument_begin|>",
    "[/C]": "<|tool_call_end|>",
    "[END]": "<|im_end|>",
}


def spell(text):
    for short, marker in SHORT.items():
        text = text.replace(short, marker)
    return text


def merged(events):
    """Events with adjacent deltas of one kind joined: where they are cut has no meaning."""
    out = []
    for event in events:
        last = out[-1] if out else None
        match last, event:
            case (Text(a), Text(b)):
                out[-1] = Text(a + b)
            case (Reasoning(a), Reasoning(b)):
                out[-1] = Reasoning(a + b)
            case (ArgumentDelta(i, a), ArgumentDelta(j, b)) if i == j:
                out[-1] = ArgumentDelta(i, a + b)
            case _:
                out.append(event)
    return out


def short(events):
    """Events as a line each; a call in one, with its error's first words."""
    lines = []
    for event in merged(events):
        match event:
            case Text(text):
                lines.append(f"text {text}")
            case Reasoning(text):
                lines.append(f"think {text}")
            case CallEnd(_, call_id, _, arguments, error):
                lines.append(f"call {call_id} {arguments}" + (f" !{error}" if error else ""))
            case End(reason):
                lines.append(f"end {reason}")
    return lines


def as_ids(parts, tokenizer):
    return [
        token
        for part in parts
        for token in (
            [tokenizer.special[part]] if part in tokenizer.special else tokenizer.encode(part)
        )
    ]


def parse_ids(ids, tokenizer, mode, reason):
    parser = StreamParser(tokenizer, reasoning=mode)
    events = [event for token in ids for event in parser.push(token)]
    return events + parser.finish(reason)
