"""Questions for the clock: the time, the date or the day in a place, named as the user names it."""

# ruff: noqa: E501  (a phrase reads best on one line)

import re
import zoneinfo
from functools import lru_cache
from random import Random

from k2mlx.agent.places import ABBREVIATIONS, CITIES, REGIONS
from k2mlx.synth.phrasing import render, typed

_TIME_QUESTIONS: tuple[str, ...] = (
    "what time is it in {p}[| now| right now| at the moment| currently]?",
    "what time is it in {p}?", "what's the time in {p}[| now| right now]?",
    "whats the time in {p}", "[current|local] time in {p}[| please|?]", "time in {p}[|?| now| please]",
    "what is the [current |local |exact |]time in {p}?", "{p} time[|?| now| please]",
    "tell me the time in {p}", "[can|could] you tell me [the time|what time it is] in {p}?",
    "do you know what time it is in {p}?", "do you know the time in {p}?", "in {p}, what time is it?",
    "how late is it in {p}[| now]?", "what does the clock say in {p}?", "what hour is it in {p}?",
    "what's the clock in {p}?", "I [need|want|would like] to know the time in {p}",
    "give me the [current |local |]time in {p}[| please].", "what time do they have in {p}?",
    "is it late in {p}?", "is it [morning|night|evening|already dark|still early] in {p}[| now]?",
    "is it day or night in {p}?", "is everybody asleep in {p} now?", "are people awake in {p}?",
    "my [friend|sister|brother|boss|aunt|son|cousin|colleague] lives in {p}. what time is it there?",
    "I want to call [someone|my mother|a friend|a customer] in {p}. what time is it there?",
    "is it too late to call [someone|my mother|a friend|people] in {p}?",
    "I have a meeting in {p}. what time is it there now?", "check the time in {p}[| please| for me].",
    "what time would it be in {p} right now?", "I am flying to {p}. what time is it there?",
    "if I called {p} now, what time would it be there?", "look up the time in {p}",
    "show me the time in {p}", "can you check what time it is in {p}?", "please check the clock for {p}",
    "time now in {p}", "what time zone is {p} in and what time is it there?", "hours in {p} now?",
    "quick, what time is it in {p}?", "[hi|hey|hello][,|] what's the time in {p}?",
    "what time is it over in {p}?", "what time is it at present in {p}?", "got the time for {p}?",
    "how late is it for people in {p}?", "are the shops [still |already |]open in {p} at this hour?",
    "we are in {p}. what time is it?", "I live in {p}. what time is it [here|now]?",
    "what's it like time-wise in {p}?", "let me know the time in {p}", "find out what time it is in {p}", "get the time for {p}",
    "I wonder what time it is in {p}", "what time should I expect in {p} now?", "my flight lands in {p}. what's the time there?",
    "my parents are in {p}. how late is it for them?", "someone from {p} called me. what time is it there?", "{p}: what time is it?",
    "{p}, what's the time?", "need the time in {p} [asap|now|please]", "what does my watch need to show in {p}?", "when is now in {p}?",
    "how early is it in {p}?", "has the day begun in {p}?", "is the sun up in {p}?", "is it past midnight in {p}?", "is it lunch time in {p}?",
    "is it time for breakfast in {p}?", "would I wake up my {relative} in {p} now?", "can I phone {p} at this hour?", "are banks open in {p} now?",
    "what is the hour in {p}?", "the time in {p}?", "the time in {p}, please", "I forgot the time in {p}", "how do the clocks stand in {p}?",
    "tell me how late it is in {p}", "clock for {p}", "clock {p}", "check {p} time", "show {p} time", "do they have night in {p} now?",
    "what time is shown in {p}?", "[please |]read me the clock of {p}", "I'm meeting someone online from {p}. what time do they have?",
)  # fmt: skip
_DATE_QUESTIONS: tuple[str, ...] = (
    "what is [the|today's] date in {p}?", "what day is it in {p}[| today| now]?",
    "what's the date in {p}[| now| today]?", "what [day of the week|weekday] is it in {p}?",
    "which day is it in {p}?", "what is the date and time in {p}?", "date in {p}[|?| please]",
    "date and time in {p}[|?| please]", "is it already tomorrow in {p}?", "is it the weekend in {p}?",
    "tell me the [date|day|date and time] in {p}", "what date do they have in {p}?",
    "is it [Sunday|Monday|Friday|Saturday] in {p}[| already| yet| now]?", "which month is it in {p}?",
    "what day and time is it in {p}?", "can you give me the date in {p}?", "today's date in {p}",
    "what year is it in {p}?", "I need [the date|today's date|the day] in {p}",
    "what's today in {p}?", "{p}: which date is it?", "give me today's date for {p}", "is it a working day in {p}?", "do they have {weekday} in {p}?",
    "which weekday is it in {p} now?", "did the new day start in {p}?", "is {p} a day ahead?", "I need day and time in {p}", "tell me today's date in {p}",
    "can you check the date in {p}?", "what month do they have in {p}?", "what calendar day is it in {p}?", "has {weekday} begun in {p}?",
)  # fmt: skip
_TIME_ANSWERS: tuple[str, ...] = (
    "It is {time} in {p}.", "It is {time} on {date} in {p}.", "It's {time} in {p}.", "In {p} it is {time}.",
    "The time in {p} is {time}.", "In {p} it is {time} on {date}.", "It is now {time} in {p}.",
    "The local time in {p} is {time}.", "It is {time} on {day} in {p}.", "Right now it is {time} in {p}.",
    "It's {time} there, on {date}.", "{time} on {date}.", "The clock in {p} says {time}.",
)  # fmt: skip
_DATE_ANSWERS: tuple[str, ...] = (
    "It is {date} in {p}.", "In {p} it is {date}.", "Today is {date} in {p}.", "The date in {p} is {date}.",
    "It is {date} in {p}, and the time is {time}.", "It is {time} on {date} in {p}.",
    "In {p} it is {date}, {time}.", "It's {date} there, at {time}.",
)  # fmt: skip
_UNKNOWN: tuple[str, ...] = (
    "Sorry, the clock does not know {p}. Can you name a large city or a country near it?",
    "I could not find {p}. Please give me a bigger city or a time zone.",
    "The clock has no place called {p}. Which country is it in?",
)  # fmt: skip
_NO_PLACE: tuple[str, ...] = (
    "Which city or country do you mean?", "For which place? Tell me a city or a time zone.",
    "I do not know where you are. Which city should I look up?",
    "Tell me your city or time zone and I will check the clock.",
)  # fmt: skip
NO_PLACE_QUESTIONS: tuple[str, ...] = (
    "what time is it[| now| please]?", "what's the time?", "time please", "do you have the time?",
    "what day is it[| today]?", "what is the date today?", "tell me the time", "how late is it?",
)  # fmt: skip
_INVENTED = tuple(
    "Zorbaville,Quxland,Narnopolis,Blimburg,Atlantis,Middle Earth,Gotham,Frostheim".split(",")
)
_COUNTRY_OF = {
    "Paris": "France", "Rome": "Italy", "Berlin": "Germany", "Madrid": "Spain", "Vienna": "Austria",
    "Lisbon": "Portugal", "Oslo": "Norway", "Cairo": "Egypt", "Nairobi": "Kenya", "Lima": "Peru",
    "Toronto": "Canada", "Sydney": "Australia", "Kyoto": "Japan", "Mumbai": "India", "Dublin": "Ireland",
    "Lagos": "Nigeria", "Hanoi": "Vietnam", "Seoul": "South Korea", "Athens": "Greece", "Warsaw": "Poland",
    "London": "England", "Chicago": "USA", "Boston": "Massachusetts", "Austin": "Texas",
}  # fmt: skip


def draw_place(rng: Random) -> str:
    """A city, country or zone the way people type it."""
    chance = rng.random()
    if chance < 0.04:
        city = rng.choice(tuple(_COUNTRY_OF))
        return f"{city}, {_COUNTRY_OF[city]}"
    if chance < 0.12:
        return rng.choice(_zones())
    place = rng.choice(_places())
    return place.lower() if chance < 0.22 else place


def question(place: str, rng: Random) -> tuple[str, bool]:
    """(the question, whether it is about the date)."""
    dated = rng.random() < 0.22
    template = rng.choice(_DATE_QUESTIONS if dated else _TIME_QUESTIONS)
    text = render(template, {"p": place}, rng)
    # A place that opens the line keeps the user's case, because the call copies it.
    return (text if text.startswith(place) else typed(text, rng)), dated


def answer(place: str, result: str, dated: bool, rng: Random) -> str:
    """A short answer from the clock's text: `14:05 on Sunday 22 November 2026 in Tokyo (UTC+09:00)`."""
    if result.startswith("Error"):
        return rng.choice(_UNKNOWN).replace("{p}", place)
    told = re.match(r"(\S+) on (\w+ \d+ \w+ \d+) in ", result)
    assert told, f"the clock said {result!r}"
    time, date = told.groups()
    scope = {"p": place, "time": time, "date": date, "day": date.split()[0]}
    return render(rng.choice(_DATE_ANSWERS if dated else _TIME_ANSWERS), scope, rng)


def invented_place(rng: Random) -> str:
    """A name that no clock knows."""
    return rng.choice(_INVENTED)


def which_place(rng: Random) -> str:
    """What the assistant asks when no place was given."""
    return rng.choice(_NO_PLACE)


@lru_cache(maxsize=1)
def _places() -> tuple[str, ...]:
    names = [name for table in (CITIES, REGIONS) for spellings, _ in table for name in spellings]
    cities = [
        zone.rpartition("/")[2].replace("_", " ")
        for zone in zoneinfo.available_timezones()
        if zone.startswith(("Europe/", "Asia/", "Africa/", "America/", "Australia/", "Pacific/"))
    ]
    # Sorted, because a set of strings has another order in every process.
    return tuple(sorted({name for name in names + cities if name[0].isupper()}))


@lru_cache(maxsize=1)
def _zones() -> tuple[str, ...]:
    short = [name for spellings, _ in ABBREVIATIONS for name in spellings]
    offsets = [f"UTC{sign}{hours}" for sign in "+-" for hours in range(1, 13)]
    zones = [
        zone for zone in zoneinfo.available_timezones() if zone.startswith(("Europe/", "Asia/"))
    ]
    return tuple(sorted({*short, *offsets, *zones, "UTC", "GMT"}))
