"""Other people's dialogues and questions to conversations without calls.

Two people talk in most of them; the second becomes the assistant. Long talks are cut into parts
that begin with something a user says. A third of them declare tools, and no call is made.
"""

import itertools
import json
import lzma
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from k2mlx.data.context import Context, assistant, merge_turns, user
from k2mlx.data.corpus import held_out, open_lines
from k2mlx.data.schema import Conversation
from k2mlx.errors import ConfigError

TOOLS_SHARE, SYSTEM_SHARE = 0.35, 0.15
PART_CHARACTERS = 1800  # about 500 tokens
MOST_PARTS = 5  # of one talk, lest two people who talked for days set the tone

CONTRACTIONS = {
    "im": "I'm",
    "ive": "I've",
    "dont": "don't",
    "didnt": "didn't",
    "doesnt": "doesn't",
    "cant": "can't",
    "isnt": "isn't",
    "wasnt": "wasn't",
    "couldnt": "couldn't",
    "wouldnt": "wouldn't",
    "havent": "haven't",
    "thats": "that's",
    "whats": "what's",
    "youre": "you're",
    "theyre": "they're",
    "theres": "there's",
    "i": "I",
    "u": "you",
    "ur": "your",
}
ABBREVIATED = re.compile(rf"\b({'|'.join(CONTRACTIONS)})\b(?!')", re.IGNORECASE)
COARSE = re.compile(
    r"\b(fuck\w*|shit\w*|bitch\w*|nigg\w*|dick|cock|pussy|porn\w*|sex\w*|rape\w*|slut\w*|whore\w*"
    r"|asshole\w*|cunt\w*|fag\w*|retard\w*|penis|vagina|testicles?|suicide|kill yourself|nazi\w*"
    r"|hitler)\b",
    re.IGNORECASE,
)
# People in the middle of an experiment talk about it, and about who they are.
OFF_STAGE = re.compile(
    r"\b(mturk|hit|turker|byu|survey|researcher|rating|ratings|chat ?bot|class project|experiment"
    r"|challenge|leader ?board|prizes?|this chat|th[eo]se chats|the chats?|new topics?|prompts?"
    r"|screen ?names?|user ?names?|time'?s up|minutes left)\b",
    re.IGNORECASE,
)
PLACEHOLDER = re.compile(r"\[[^\]]*\]|\([^)]*\b(name|user)\b[^)]*\)", re.IGNORECASE)
NAMES = "Sam Alex Maria Tom Anna Ben Lucy Max Nina Paul Emma Leo Kate Omar Yuki Priya".split()


def tidy(text: str) -> str:
    """Texting to written English: apostrophes, capitals at the start, a full stop at the end."""
    lines = []
    for line in text.split("\n"):
        line = " ".join(line.split())
        if not line:
            continue
        line = ABBREVIATED.sub(lambda match: CONTRACTIONS[match[1].lower()], line)
        line = line[0].upper() + line[1:]
        lines.append(line if line[-1] in ".!?…:,;\"')" else line + ".")
    return re.sub(r"([.!?] )([a-z])", lambda match: match[1] + match[2].upper(), " ".join(lines))


def parts(messages: list[dict], limit: int = PART_CHARACTERS) -> Iterator[list[dict]]:
    """Cuts a talk into parts of about `limit` characters, each from a user's turn to an answer."""
    part: list[dict] = []
    size = 0
    for message in messages:
        opens = message["role"] == "user" and (
            message is messages[0] or len(message["content"]) >= 12
        )
        if not part and not opens:
            continue
        if part and size + len(message["content"]) > limit and message["role"] == "user":
            yield part
            part, size = [], 0
        part.append(message)
        size += len(message["content"])
    yield part


def talk(row_id: str, messages: list[dict], context: Context) -> Iterator[Conversation]:
    """The parts of one talk between two people that are fit to learn from."""
    chance = context.chance
    messages = merge_turns([m for m in messages if m["content"].strip()], "\n")
    tidied = [
        {"role": m["role"], "content": tidy(m["content"])}
        if m["role"] == "assistant" or chance.random() < 0.7
        else {"role": "user", "content": m["content"].strip()}
        for m in messages
    ]
    for number, part in enumerate(itertools.islice(parts(tidied), MOST_PARTS)):
        while part and part[-1]["role"] != "assistant":
            part = part[:-1]
        said = " ".join(message["content"] for message in part)
        if len(part) < 2 or COARSE.search(said) or OFF_STAGE.search(said):
            continue
        conversation = Conversation(f"{row_id}#{number}", part)
        yield context.furnish(conversation, TOOLS_SHARE, SYSTEM_SHARE)


def rows(path: Path) -> Iterator[dict]:
    """Rows of a JSONL file whose id is not held out."""
    with open_lines(path) as lines:
        for line in lines:
            row = json.loads(line)
            if not held_out(row["id"]):
                yield row


def members(path: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """(name, text) of the files of a .tar.xz whose name matches `pattern`, sorted."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such source file; check the data recipe or --source.")
    with lzma.open(path) as packed, tarfile.open(fileobj=packed) as archive:
        for info in sorted(archive.getmembers(), key=lambda info: info.name):
            if info.isfile() and re.search(pattern, info.name):
                file = archive.extractfile(info)
                assert file is not None
                yield info.name, file.read().decode("utf-8", "replace")


def byu(path: Path, context: Context) -> Iterator[Conversation]:
    """BYU chit-chat: the half that its speakers rated better."""
    every = [row for row in rows(path) if row.get("ratings")]
    ratings = sorted(sum(row["ratings"].values()) for row in every)
    for row in every:
        if sum(row["ratings"].values()) >= ratings[len(ratings) // 2]:
            yield from talk(row["id"], row["messages"], context)


def dialogue(path: Path, context: Context) -> Iterator[Conversation]:
    """Rows of {"id", "messages"} between two people: Persona, Topical, Taskmaster."""
    for row in rows(path):
        name = context.chance.choice(NAMES)
        messages = [{**m, "content": PLACEHOLDER.sub(name, m["content"])} for m in row["messages"]]
        if any(m["role"] == "assistant" and "[" in m["content"] for m in messages):
            continue
        yield from talk(row["id"], messages, context)


def topical(path: Path, context: Context) -> Iterator[Conversation]:
    """Topical-Chat, the talks with short turns: the long ones recite articles."""
    for row in rows(path):
        sizes = [len(m["content"]) for m in row["messages"] if m["role"] == "assistant"]
        if sizes and sum(sizes) / len(sizes) < 120:
            yield from talk(row["id"], row["messages"], context)


# Jokes about other bots, their makers, and what only another bot could say of itself; whole files
# of them (ai, botprofile, gossip) are left out.
NOT_OURS = re.compile(
    r"Gregory|Habib|\bHal\b|\bSal\b|AIML|Alice\b(?! in)|A\.L\.I\.C\.E|Chatterbo[tx]|robot body|"
    r"\bData\b|[Ww]ritten in|(programming|creating).*Python|\b[Bb]ots?\b|botmaster|"
    r"Salvadore|Gunther|commander|MUSIC|Moravec|human body|\bclones?\b|my engine",
)


def yaml_pairs(text: str) -> Iterator[list[str]]:
    """The conversations of a ChatterBot file: a list of lists of strings, the only YAML it uses."""
    turns: list[str] = []
    for line in text.split("conversations:", 1)[-1].splitlines():
        if line.startswith(("- - ", "  - ")):
            if line.startswith("- - "):
                if turns:
                    yield turns
                turns = []
            turns.append(line[4:].strip())
        elif turns and line.startswith("    "):
            turns[-1] += " " + line.strip()
    if turns:
        yield turns


def unquote(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].replace("''", "'")
    return " ".join(text.split())


def chatterbot(path: Path, context: Context) -> Iterator[Conversation]:
    """ChatterBot's English corpus without code and without what other bots say of themselves."""
    seen = set()
    for name, text in members(path, r"english/(?!coding|gossip|ai|botprofile|psychology)\w+\.yml$"):
        real_talk = name.endswith("conversations.yml")
        for number, turns in enumerate(yaml_pairs(text)):
            turns = [unquote(turn) for turn in turns]
            if any(NOT_OURS.search(turn) or COARSE.search(turn) for turn in turns):
                continue
            exchanges = [turns] if real_talk else [[turns[0], answer] for answer in turns[1:]]
            for index, exchange in enumerate(exchanges):
                exchange = exchange[: len(exchange) // 2 * 2]
                key = tuple(exchange)
                if len(exchange) < 2 or key in seen or "|" in exchange[1][:1]:
                    continue
                seen.add(key)
                messages = [
                    (user, assistant)[i % 2](tidy(turn) if i % 2 else turn)
                    for i, turn in enumerate(exchange)
                ]
                conversation = Conversation(f"{name}:{number}:{index}", messages)
                yield context.furnish(conversation, TOOLS_SHARE, SYSTEM_SHARE)


def selfinstruct(path: Path, context: Context) -> Iterator[Conversation]:
    """The 175 seed tasks of Self-Instruct."""
    for _, text in members(path, r"seed_tasks\.jsonl$"):
        for line in text.splitlines():
            task = json.loads(line)
            instance = task["instances"][0]
            question = f"{task['instruction']}\n\n{instance['input']}".strip()
            if len(question) + len(instance["output"]) < 2500 and instance["output"].strip():
                messages = [user(question), assistant(instance["output"].strip())]
                yield context.furnish(Conversation(task["id"], messages), TOOLS_SHARE, SYSTEM_SHARE)


NEEDS_CHOICES = re.compile(r"\b(these|following|which one|odd one|all of|except|below)\b", re.I)
ANSWERS = ["{}.", "{}.", "It is {}.", "The answer is {}.", "That would be {}."]


def trivia(path: Path, context: Context, limit: int = 5000) -> Iterator[Conversation]:
    """OpenTriviaQA: question and right answer; with the choices when the question needs them."""
    chance = context.chance
    found = []
    for name, text in members(path, r"categories/\w"):
        category = name.rsplit("/", 1)[-1]
        if category in ("celebrities", "newest", "rated", "television", "video-games", "sports"):
            continue
        for number, block in enumerate(re.split(r"\n(?=#Q )", text)):
            question = re.match(r"\s*#Q (.+?)\n\^ (.+?)\n(.*)", block, re.DOTALL)
            if question and len(question[1]) < 200 and not held_out(f"{category}:{number}"):
                found.append((f"{category}:{number}", *question.groups()))
    for row_id, asked, answer, listed in chance.sample(found, min(limit, len(found))):
        asked, answer = " ".join(asked.split()), " ".join(answer.split()).rstrip(".")
        if "�" in asked + answer or len(answer) > 60 or answer in ("True", "False"):
            continue
        choices = [line[2:].strip() for line in listed.splitlines() if line[1:2] == " "]
        if NEEDS_CHOICES.search(asked) or chance.random() < 0.15:
            asked += " " + ", ".join(choices[:-1]) + f" or {choices[-1]}?" if choices[1:] else ""
        template = "{}." if answer[:1].isdigit() else chance.choice(ANSWERS)
        messages = [user(asked), assistant(template.format(answer))]
        yield context.furnish(Conversation(row_id, messages), TOOLS_SHARE, 0.05)
