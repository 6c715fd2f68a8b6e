"""A request for a declared tool: the user's words, the call they ask for, its result and the answer."""

# ruff: noqa: E501  (a phrase reads best on one line)

import json
import re
from dataclasses import dataclass
from random import Random

from k2mlx.synth.arithmetic import in_words
from k2mlx.synth.catalogue import Parameter
from k2mlx.synth.declare import Declared, fill, result_of
from k2mlx.synth.phrasing import Scope, render, slots, typed
from k2mlx.synth.talk import Call

IMPERATIVE: tuple[str, ...] = (
    "{X}", "{X}", "{X}", "{X}.", "please {X}", "{X} please", "{X}, please.", "can you {X}?", "can you {X}?",
    "could you {X}?", "could you please {X}?", "would you {X}?", "I want you to {X}", "I'd like you to {X}.",
    "[hey|hi|hello], {X}", "[hey|hi|hello], can you {X}?", "I need you to {X}", "go ahead and {X}",
    "can you {X} for me?", "would you mind? {X}", "I want to {X}", "I need to {X}.", "I would like to {X}",
    "help me {X}", "let's {X}", "ok, {X}", "now {X}", "[quickly|just] {X}", "{X}, thanks", "time to {X}",
    "will you {X}?", "is it possible to {X}?", "it would be great if you could {X}", "{X} now",
)  # fmt: skip
NOUN: tuple[str, ...] = (
    "what is {X}?", "what's {X}?", "tell me {X}", "show me {X}", "give me {X}", "I need {X}", "{X}", "{X}?",
    "{X} please", "can you tell me {X}?", "could you find {X}?", "find {X}", "get {X}", "get me {X}",
    "I want to know {X}", "I'd like to know {X}.", "look up {X}", "check {X}", "can you check {X}?",
    "do you know {X}?", "please tell me {X}", "[hi|hey|hello], what is {X}?", "let me see {X}",
    "can you get me {X}?", "I am looking for {X}", "can I have {X}?", "could you give me {X}?",
)  # fmt: skip
_CLOSERS = ("Done.", "It is done.", "Okay, done.", "All right, that is done.", "Done!")
# What stands around a request and asks for nothing. One that ends in a comma, a colon or a dash runs
# on into the request; so does an _AFTER that starts with one.
_BEFORE: tuple[str, ...] = (
    "I am in a hurry.", "My {relative} is visiting[ next week|].", "I have a busy day.", "I'm planning my week.", "We have guests tonight.",
    "I am quite tired today.", "This is important.", "I forgot about it.", "I hope you can help me.", "It is for my {relative}.",
    "I just got home.", "My {relative} asked me.", "I was thinking about it all day.", "Good morning!", "Hello!", "Hi there.",
    "We are leaving soon.", "I have a question.", "I need some help.", "I can't find it myself.", "One more thing.",
    "So, I talked to my {relative}.", "I am new here.", "It's my first time using this.", "I don't have much time.",
    "Sorry to bother you again,", "[Sorry|Apologies] for asking so much today.", "I was never good at this.", "I never learned how to do this.",
    "My [tea|coffee|soup] is getting cold, so quickly:", "[Okay|Ok|Alright] here's the thing, my {relative} and I have a bet.", "Settle an argument:",
    "[Help us|Help me] settle [a bet|an argument|this]:", "For a [school project|presentation|report|quiz|class|friend|colleague|trip I am planning],",
    "If you have a [second|moment|minute]:", "If it's not too much trouble,", "When you get a chance,", "Whenever you're ready:", "Before I forget,",
    "Before I go to bed,", "Before [the meeting|class|lunch|we leave] starts,", "Just out of curiosity,", "Out of interest,", "Just checking:", "Just wondering,",
    "Just a quick one:", "Quick one -", "Quick question -", "Quick question:", "Small question:", "Silly question, I know, but", "This may be a stupid question, but",
    "Stupid question maybe:", "Not sure if you can do this, but", "I don't know if this works, but", "I know you are busy, but", "I know it's late, but", "Sorry, but",
    "I hate to ask, but", "I keep forgetting this, so", "My [phone|laptop|watch|tablet] just died, so", "My hands are full, so", "I left my glasses at home, so", "I'm on the phone, so",
    "I'm driving right now, so", "I'm cooking and my hands are wet, so", "The [baby|dog|boss] is waiting, so", "We are in the middle of something, so",
    "Here is what I need:", "Here's what I want to know:", "My question is this:", "What I'd like to know is this:", "My task for today:", "Next on my list:", "First things first:",
    "Next one:", "And another one:", "Another question:", "Now for something else:", "Different topic:", "New topic.", "Change of plan.", "By the way,", "BTW", "Oh, and",
    "Oh, one more thing:", "Oh wait,", "Hmm,", "Ehm,", "Well,", "Alright,", "Right then,", "Okay so", "So,", "Listen,", "Look,", "Hey there!", "Good evening,", "Good afternoon.", "Morning!",
    "Hey, it's me again.", "Hi, {person} here.", "Hello, this is {person} {surname}.", "Hi, I'm {person}.", "[Dear|Hello] assistant,", "Hey assistant,", "Hi bot!", "Hey you,",
    "{person} told me to ask you.", "{person} says you are good at this.", "A friend of {person} said you could help.", "My {relative} won't stop asking me.", "My {relative} says I am wrong. Prove it!",
    "My {relative} thinks this is easy.", "My {relative} and I can't agree.", "My {relative} needs this by tonight.", "I promised my {relative} an answer.", "It's for my {relative}, who is not good with computers.",
    "My boss wants this on the table in five minutes.", "Our teacher gave us this one.", "I am filling in a form.", "I'm working on a small project.", "I'm writing it all down.", "I'm making a list.",
    "I'm in the car with my {relative}.", "I'm standing in a queue.", "I'm sitting in a cafe.", "I'm at work and can't look it up.", "I'm on the train and the signal is bad.", "I'm half asleep.", "I just woke up.",
    "It has been a long day.", "What a day! Anyway,", "The weather is awful today. Anyway,", "Long story short:", "Never mind what I said before.", "Forget the last one.",
    "Thanks for the last one.", "That was great, thank you.", "Great work so far!", "You were right last time.", "I tried it on paper and gave up.", "I tried everything. Nothing worked.",
    "I've been staring at this for an hour.", "I looked everywhere and found nothing.", "I asked {person}, but nobody knew.", "Nobody in this room knows.", "The whole office is puzzled.", "It's been bugging me all day:",
    "Can you do me a favour?", "Do me a favour:", "Could you help me with something?", "May I ask you something?", "Can I ask you something quickly?", "Are you there?", "You there? Good.", "Got a minute?", "Mind helping me out?",
    "I could use some help here:", "I need your help with this:", "A little help please:", "Help!", "Urgent:", "URGENT!", "Please be quick:", "No rush, but", "Take your time:", "Tell me honestly:", "Now be honest:",
    "Let me ask you this:", "Let me try this:", "Let's test you.", "Let's see what you can do:", "Test:", "For the record:", "For my notes:", "To be on the safe side,", "To make sure:", "Just so I get it right:",
    "I'm no expert. That is why I ask:", "English is not my first language.", "Please don't laugh.", "I promise this is the last one.", "I'm back!", "Me again.", "Round two:", "Okay, next.",
    "We moved last month and everything is new to us.", "It is our anniversary and I have forgotten everything.", "Our holiday starts soon. There is so much to do!", "I am {n:60..92} and learning to use this.", "It took me {n:3..50} tries to log in, but here I am.",
    "My {relative} turned {n:20..80} and we had a party. Now back to work:",
)  # fmt: skip
_AFTER: tuple[str, ...] = (
    "Thanks!", "Thank you.", "It is urgent.", "Thanks in advance.", "Please be quick.", "That would help me a lot.", "I am waiting.",
    "Cheers!", "Much appreciated.", "Thank you so much!", "Many thanks.", "No hurry.", "Take your time.", "I'm curious.", "Just curious.", "I really need to know.", "I always forget.", "I have no idea.",
    "I can't work it out.", "My {relative} wants to know.", "It's for my {relative}.", "We have a bet.", "I bet you know.", "You're the best!", "Sorry for the trouble.", "Sorry if that is a silly question.",
    "It's for [work|school|a project|a friend|a trip].", "I'll explain later.", "Then I'll leave you alone.", "Last one, I promise.", "I need it for a form.", "Don't keep me waiting.", "Short answer please.", "No explanations please.",
    "Just the answer, please.", "I will write it down.", "My {relative} is waiting.", "Nobody here knows.", "It has been bothering me all day.", "Anyone?", "Hello?", "Got it?", "Can you do that?", "Would that be possible?", "Is that okay?",
    ", please", ", thanks", ", thank you", ", if you don't mind", ", if you can", ", if possible", ", if that's okay", ", would you", ", please and thank you", ", quickly", " - thanks", " - I'm in a hurry", " - my {relative} wants to know", " - just curious",
)  # fmt: skip
_BEFORE_SHARE, _AFTER_SHARE = 0.20, 0.09
# Words that a request starts with, which may lose their capital; a value never does.
_STARTERS = frozenset(
    "what what's whats which when where who how how's can could would will is are do does did tell show give find get "
    "check look convert change turn calculate compute work add subtract multiply divide split please let help send set "
    "book make create has have am may any find figure put need compare report wake start stop add order search if the a at in on my we our there there's it it's one".split()
)


@dataclass
class Request:
    """`values` are the JSON values by slot, `written` the same as the user writes them."""

    text: str
    call: Call
    values: Scope
    written: Scope
    fields: Scope


def draw_request(
    tool: Declared,
    rng: Random,
    phrase: tuple[str, str] | None = None,
    given: dict[str, tuple[str, object]] | None = None,
    framed: bool = True,
) -> Request:
    """Words and call for a tool.

    `phrase` is (mark, body) instead of one of the tool's own, `given` fixes some slots as (written,
    value), `framed` puts polite words around an imperative or a noun phrase.
    """
    mark, body = phrase or rng.choice(tool.template.phrases)
    filled = dict(given or {})
    for slot, parameter in tool.kinds.items():
        if slot not in filled and parameter.kind != "bool" and "{" + slot + "}" in body:
            filled[slot] = _distinct(parameter, filled, rng)
    marks: Scope = {slot: f"\x00{slot}\x00" for slot in filled}
    scope = dict(marks)
    text = render(body, scope, rng)
    values: Scope = {}
    written: Scope = {}
    for slot in tool.kinds:
        if slot in filled and f"\x00{slot}\x00" in text:
            shown, values[slot] = filled[slot]
            spoken = _spoken(text, slot, values[slot], rng) if slot not in (given or {}) else None
            text = text.replace(f"\x00{slot}\x00", spoken or shown)
            written[slot] = shown
        elif slot in scope and scope[slot] != marks.get(slot):
            implied = str(scope[slot])
            values[slot] = {"true": True, "false": False}.get(implied, implied)
            written[slot] = implied
    if framed:
        frames = {"!": IMPERATIVE, "~": NOUN, ">": ("{X}",)}[mark]
        text = render(rng.choice(frames), {"X": text}, rng)
    elif mark == "~":
        text = rng.choice(("tell me ", "show me ", "give me ", "find ", "I need ")) + text
    copied = [value for value in values.values() if isinstance(value, str) and value in text]
    shown = typed(text, rng) if "\n" not in text else text
    # A value that ends in a question mark keeps it.
    text = shown if all(value in shown for value in copied) else text
    fields, _ = result_of(tool.template, {**written, **values}, rng)
    call = Call(tool.name, tool.arguments(values), result_text(fields, rng))
    return Request(text, call, values, written, fields)


def surrounded(text: str, rng: Random) -> str:
    """Sometimes words before or after the request that ask for nothing, in a quarter of all cases."""
    if rng.random() < _BEFORE_SHARE:
        text = _after(render(rng.choice(_BEFORE), {}, rng), text)
    if rng.random() < _AFTER_SHARE and text[-1] in ".?!" and not re.search(r"[\n\"]|: ", text):
        # Only behind a full stop: what ends without one may be a value, which would grow.
        ending = render(rng.choice(_AFTER), {}, rng)
        if ending[0].isupper():
            return f"{text} {ending}"
        # The dot of `Washington D.C.` stays.
        bare = text if re.search(r"\.\w\.$", text) else text.rstrip(".?!")
        return bare + ending + (text[-1] if ending[0] == "," else "")
    return text


def _after(opening: str, text: str) -> str:
    """`text` behind `opening`, in lower case if the sentence runs on; a value keeps its case."""
    first, _, rest = text.partition(" ")
    if opening[-1] not in ".?!" and first.lower() in _STARTERS and not rest[:1].isupper():
        text = text[:1].lower() + text[1:]
    return f"{opening} {text}"


def answer(tool: Declared, request: Request, rng: Random) -> str:
    """What is said after the result: an answer template whose slots are all known."""
    known = {**request.written, **request.fields}
    fitting = [a for a in tool.template.answers if slots(a) <= set(known)]
    if not fitting:
        return rng.choice(_CLOSERS)
    text = render(rng.choice(fitting), known, rng)
    return text if text[-1] in '.!?"' else text + "."


def result_text(fields: Scope, rng: Random) -> str:
    """The tool's answer as text: mostly JSON."""
    if not fields:
        return rng.choice(('{"status": "ok"}', "ok", "done", '{"success": true}'))
    if len(fields) == 1 and rng.random() < 0.3:
        return str(next(iter(fields.values())))
    if rng.random() < 0.12:
        return ", ".join(f"{key}: {value}" for key, value in fields.items())
    return json.dumps(fields, ensure_ascii=False)


def _distinct(
    parameter: Parameter, filled: dict[str, tuple[str, object]], rng: Random
) -> tuple[str, object]:
    taken = {shown for shown, _ in filled.values()}
    value = fill(parameter, rng)
    for _ in range(5):
        if value[0] not in taken:
            break
        value = fill(parameter, rng)
    return value


def _spoken(text: str, slot: str, value: object, rng: Random) -> str | None:
    """A small integer in words, where it stands alone between blanks: `a table for four`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100:
        return None
    if rng.random() > (0.2 if value <= 12 else 0.08):
        return None
    alone = re.search(rf"(^| )\x00{slot}\x00($|[ .,?!])(?![-+*/x%=^])", text)
    return in_words(value) if alone else None
