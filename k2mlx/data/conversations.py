"""Conversations to a shard of token ids and learn flags.

A shard is NAME.bin (uint16 ids, conversations end to end), NAME.loss.bin (uint8, 1 where the token
is for the assistant to produce), NAME.idx (uint64: where each conversation starts, and the end) and
NAME.json. Conversations over the token limit are cut after a whole assistant turn, or left out.
"""

import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from k2mlx.chat import render_for_training
from k2mlx.data.schema import Conversation
from k2mlx.tokenizer import Tokenizer

FORMAT = "k2-nano"
TURN_END = "<|im_end|>"


def name_results(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages, with tool results labelled by their tool's name in most conversations.

    Our own loop writes the name; other clients may not, so a quarter of the conversations do not.
    The choice hangs on the conversation's id.
    """
    named = random.Random(conversation.id).random() < 0.75
    names = {
        call["id"]: call["function"]["name"]
        for message in conversation.messages
        for call in message.get("tool_calls") or ()
    }
    messages = []
    for message in conversation.messages:
        if message["role"] == "tool":
            message = {key: value for key, value in message.items() if key != "name"}
            if named:
                message["name"] = names[message["tool_call_id"]]
        messages.append(message)
    return messages


def encode(
    conversation: Conversation, tokenizer: Tokenizer, limit: int
) -> tuple[list[int], list[bool]] | None:
    """Ids and learn flags, at most `limit`; None if no assistant turn ends within the limit.

    A turn of k2-nano's format does not depend on what follows it, so a prefix of the conversation
    is a prefix of its ids, and each turn ends at its <|im_end|>.
    """
    ids, learn = render_for_training(
        name_results(conversation), conversation.tools, tokenizer, format=FORMAT
    )
    if len(ids) > limit:
        end = tokenizer.special[TURN_END]
        ends = [index + 1 for index, token in enumerate(ids) if token == end]
        ends = ends[1:] if conversation.tools else ends  # the first ends the declaration
        assert len(ends) == len(conversation.messages), conversation.id
        cuts = [
            at
            for at, message in zip(ends, conversation.messages, strict=True)
            if at <= limit and message["role"] == "assistant" and not message.get("tool_calls")
        ]
        if not cuts:
            return None
        ids, learn = ids[: cuts[-1]], learn[: cuts[-1]]
    return (ids, learn) if any(learn) else None


def write_chat_shard(
    name: str,
    conversations: Iterable[Conversation],
    limits: list[int],
    tokenizer: Tokenizer,
    out: Path,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Writes one shard; each conversation draws its token limit from `limits`.

    Conversations of the same tokens are written once.

    `facts` (licences, sources) are added to what NAME.json says; returns all of it.
    """
    seen: set[bytes] = set()
    offsets, left_out, duplicates, learned = [0], 0, 0, 0
    sha = hashlib.sha256()
    with (out / f"{name}.bin").open("wb") as tokens, (out / f"{name}.loss.bin").open("wb") as loss:
        for conversation in conversations:
            limit = random.Random("limit:" + conversation.id).choice(limits)
            encoded = encode(conversation, tokenizer, limit)
            if encoded is None:
                left_out += 1
                continue
            packed = np.asarray(encoded[0], "<u2").tobytes()
            digest = hashlib.sha256(packed).digest()
            if digest in seen:
                duplicates += 1
                continue
            seen.add(digest)
            sha.update(packed)
            tokens.write(packed)
            loss.write(np.asarray(encoded[1], "u1").tobytes())
            offsets.append(offsets[-1] + len(encoded[0]))
            learned += sum(encoded[1])
    (out / f"{name}.idx").write_bytes(np.asarray(offsets, "<u8").tobytes())
    written = {
        "name": name,
        "kind": "chat",
        "format": FORMAT,
        "tokens": offsets[-1],
        "learned_tokens": learned,
        "conversations": len(offsets) - 1,
        "left_out": left_out,
        "duplicates": duplicates,
        "longest": int(np.diff(offsets).max(initial=0)),
        "sha256": sha.hexdigest(),
        **facts,
    }
    (out / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    return written
