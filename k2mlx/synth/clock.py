"""Questions for the clock: the time, the date or the day in a place, named as the user names it."""

# ruff: noqa: E501  (a phrase reads best on one line)

import re
import zoneinfo
from functools import lru_cache
from random import Random

from k2mlx.agent.places import ABBREVIATIONS, CITIES, REGIONS
from k2mlx.synth.phrasing import render, typed
from k2mlx.synth.wild import wild_name

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
    "could somebody in {p} be awake[ right now|]?", "would anybody in {p} pick up the phone now?", "is now a good moment to ring [someone|my {relative}|a client] in {p}?", "can I still reach people in {p} today?",
    "my {relative} moved to {p}. what time do they have?", "my {relative} is in {p} for work. how late is it over there?", "my {relative} just landed in {p}. what does the clock say there?",
    "my {relative} is flying to {p} and asks what time it is there", "{person} is in {p}. should I write now or is it night there?", "{person} in {p} isn't answering. what time is it there?",
    "{person} lives in {p}. is it too early to call?", "I promised to call {person} in {p}. is it a decent hour there?", "we have a customer in {p}. are they in the office yet?", "is the office in {p} open right now?",
    "is our {p} team [still|already] at work?", "are my colleagues in {p} at lunch?", "I have a call with {p} later. what time is it there [now|at the moment]?", "the video call is with {p}. what time do they see on their clock?",
    "our meeting is in {p} time. what time is that now?", "the webinar runs on {p} time. what's the time there?", "the deadline is in {p} time. how late is it there now?", "the game is played in {p}. what's the local time there?",
    "they are broadcasting live from {p}. what time is it there?", "the match in {p} is on TV. is it evening there?", "the stream starts in {p}. what time is it over there?", "the concert is in {p}. what time have they got?",
    "the auction closes in {p} time, so what time is it there?", "is the stock exchange in {p} open at this hour?", "are the pubs in {p} closed by now?", "do shops in {p} still serve people now?", "is it rush hour in {p}?",
    "could I order a pizza in {p} at this hour?", "are the schools in {p} out yet?", "are children in {p} in bed by now?", "I just arrived in {p}. what do I set my watch to?", "I'm jet-lagged in {p}. what time is it really?",
    "jet lag! what time is it in {p}?", "my watch is still on home time, but I'm in {p}. what time is it?", "my phone shows the wrong time here in {p}. what's the right one?", "what should a clock on the wall say in {p}?",
    "I want to set a second clock to {p}. what time do I set?", "set my mind at rest: what time is it in {p}?", "I lost track of time here in {p}. how late is it?", "my flight leaves from {p}. what is the time there now?",
    "my plane is about to land in {p}. local time?", "our layover is in {p}. what's the time at the airport?", "the ship is in {p} today. what time is it on board?", "the hotel in {p} closes its desk at night. what time is it there?",
    "I booked a taxi in {p}. what time is it there?", "my parcel is in {p}. what time is it there?", "the server is in {p}. what time does it think it is?", "logs are in {p} time. what is it now?", "the ticket says {p} time. which is what now?",
    "would it be rude to phone {p} now?", "what part of the day is it in {p}?", "is it [dawn|noon|afternoon|dusk|bedtime|dinner time|tea time|midnight] in {p}?", "is it before or after noon in {p}?", "AM or PM in {p}?", "is it still dark in {p}?",
    "has the sun set in {p} yet?", "do people in {p} have breakfast or dinner now?", "are they sleeping in {p}?", "is {p} awake?", "has {p} gone to bed?", "can you look at the clock in {p} for me?", "have a look what time it is in {p}",
    "give me {p} time", "{p} local time[?|]", "{p} clock?", "{p} - what time?", "time check {p}", "time check: {p}", "time, {p}", "local time {p}", "now in {p}?", "what time now {p}", "current {p} time please", "{p} right now: what time?",
    "hour and minute in {p}?", "what's the hour over in {p}?", "exact time {p}", "precise local time for {p}, please", "what time does it say in {p}?", "what time are they at in {p}?", "what time is it for somebody in {p}?",
    "what would I read off a clock in {p}?", "if I were in {p}, what time would it be?", "imagine I'm in {p}: what time is it?", "suppose you stood in {p}, what time would it be?", "pretend we are in {p}. what's the time?",
    "what's the time where {person} is, in {p}?", "where it's {p}, what time is it?", "what time is it at my {relative}'s place in {p}?", "what time has my {relative} got in {p}?", "how far into the day are they in {p}?", "how much of the day is left in {p}?",
    "how many hours until midnight in {p}? tell me the time there", "I need to know how late it is in {p} before I call", "before I text my {relative} in {p}, what's the time there?", "wondering whether {p} is asleep. time there?",
    "got an email from {p} just now. what time is it there?", "please tell me the hour in {p}", "fetch the time for {p}", "report the time in {p}", "the time of day in {p}?", "read out the time in {p}", "pull up the time in {p}",
    "what's the present time in {p}?", "can you see what time they have in {p}?", "do you happen to know how late it is in {p}?", "any idea what time it is in {p}?", "would you tell me the time in {p}?", "mind checking the time in {p}?",
    "I have to know what time it is in {p}", "I am trying to work out what time it is in {p}", "I keep mixing up time zones. what time is it in {p}?", "time zones confuse me. what's the time in {p}?", "what is it o'clock in {p}?",
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
    "my {relative} in {p} has a birthday soon. what date is it there?", "which date do I write on a letter from {p} today?", "what's the date on a newspaper in {p} today?", "is it still yesterday in {p}?", "is it today or tomorrow in {p}?",
    "are they a day behind us in {p}?", "which day are they on in {p}?", "what day have they got in {p}?", "what does the calendar say in {p}?", "is it a weekday in {p}?", "do people in {p} have to work today? which day is it there?",
    "is the weekend over in {p}?", "have they reached {weekday} in {p}?", "is it {weekday} or already the day after in {p}?", "is it already {month} in {p}?", "has the new month started in {p}?", "has the new year come to {p} yet?", "{p} date[|?| please]",
    "{p}, which day?", "date {p}", "date for {p}", "day in {p}?", "weekday in {p}?", "the date in {p}, please", "today in {p}?", "date check for {p}", "full date and time for {p}", "time and date {p}", "time and date in {p}, please", "{p} time and date?",
    "I just flew into {p} and lost a day. what date is it?", "my flight crosses the date line to {p}. which day is it there?", "jet lag has me confused: what day is it in {p}?", "the form wants today's date in {p}", "I'm signing a contract in {p}. what's the date there?",
    "the deadline is today in {p}. which date do they have?", "the sale in {p} ends on {weekday}. what day is it there?", "the show in {p} is on {weekday}. what day is it there now?", "what is the day of the month in {p}?",
    "can you tell which weekday {p} has?", "would you look up the date in {p}?", "do you know what day it is in {p}?", "any idea which date it is in {p}?", "what would a calendar in {p} show today?", "show me the date in {p}", "check the date in {p}", "find out the day in {p}",
    "get me the date for {p}", "give me the day of the week in {p}", "{person} is in {p}. which day is it for {person}?", "do I congratulate {person} in {p} today? what's the date there?",
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
# How often a place is one that nobody knows: the call is right all the same, and can only be copied.
_WILD = 0.22
_COUNTRY_OF = {
    "Paris": "France", "Rome": "Italy", "Berlin": "Germany", "Madrid": "Spain", "Vienna": "Austria",
    "Lisbon": "Portugal", "Oslo": "Norway", "Cairo": "Egypt", "Nairobi": "Kenya", "Lima": "Peru",
    "Toronto": "Canada", "Sydney": "Australia", "Kyoto": "Japan", "Mumbai": "India", "Dublin": "Ireland",
    "Lagos": "Nigeria", "Hanoi": "Vietnam", "Seoul": "South Korea", "Athens": "Greece", "Warsaw": "Poland",
    "London": "England", "Chicago": "USA", "Boston": "Massachusetts", "Austin": "Texas",
}  # fmt: skip


def draw_place(rng: Random) -> str:
    """A city, country or zone the way people type it, or a place that no clock knows."""
    if rng.random() < _WILD:
        place = wild_name(rng)
        return place.lower() if rng.random() < 0.15 else place
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
