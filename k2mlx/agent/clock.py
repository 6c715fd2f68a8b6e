"""The clock tool: a place as people write it -> its time zone -> the date and time there.

A place is looked up as a time zone name (Asia/Tokyo, UTC, EST), an offset (UTC+5:30), a city or
country of `places.py`, or the city in a zone's name; case, accents, dots and spaces do not matter.
After a comma may come a country or state, which wins where the two disagree: Paris, Texas is not in
France, and a town that nobody listed is found through its country.
"""

import functools
import re
import unicodedata
import zoneinfo
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo

from k2mlx.agent.places import ABBREVIATIONS, CITIES, REGIONS

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
# Cities with a large namesake on the same continent: the state decides.
_SHARED_NAMES = frozenset({"portland", "victoria", "georgetown"})
_OFFSET = re.compile(r"(?:utc|gmt|z)?\s*([+-])\s*(\d{1,2})(?::?([0-5]\d))?")


class PlaceError(ValueError):
    """A place that is neither a known city, a country nor a time zone."""


@dataclass(frozen=True)
class Place:
    """A place's name as the clock says it, and its zone as zoneinfo calls it (or "UTC+05:30")."""

    name: str
    zone: str

    def timezone(self) -> tzinfo:
        if match := _OFFSET.fullmatch(self.zone.lower()):
            return timezone(_offset(match))
        return zoneinfo.ZoneInfo(self.zone)


def tell_time(place: str, now: datetime) -> str:
    """The time at a place: "14:05 on Sunday 22 November 2026 in Tokyo (UTC+09:00)".

    `now` is any aware datetime. Raises: PlaceError.
    """
    found = find_place(place)
    local = now.astimezone(found.timezone())
    date = f"{_DAYS[local.weekday()]} {local.day} {_MONTHS[local.month - 1]} {local.year}"
    return f"{local:%H:%M} on {date} in {found.name} ({_offset_name(local.utcoffset())})"


def find_place(text: str) -> Place:
    """The place meant by `text`. Raises: PlaceError."""
    key = _key(text)
    for candidate in (key, key.removeprefix("the "), _without_time(key)):
        if candidate in _places():
            return _places()[candidate]
        if match := _OFFSET.fullmatch(candidate):
            name = _offset_name(_offset(match))
            return Place(name, name)
    found = _with_region(text)
    if found is None:
        raise PlaceError(
            f"unknown place {text.strip()!r}; give a large city, a country or a time zone"
        )
    return found


def _with_region(text: str) -> Place | None:
    """A place of the form "city, region": the region decides where they disagree."""
    city_text, comma, region_text = text.partition(",")
    if not comma:
        return None
    city = _places().get(_key(city_text))
    keys = [key for part in region_text.split(",") for key in (_key(part), f"{_key(part)} usa")]
    regions = [_places()[key] for key in keys if key in _places()]
    if not regions:
        return city
    if city is not None and _key(city.name) not in _SHARED_NAMES:
        continent = city.zone.split("/")[0]
        if any(region.zone.split("/")[0] == continent for region in regions):
            return city
    return Place(" ".join(city_text.split()) or regions[0].name, regions[0].zone)


def _without_time(key: str) -> str:
    return re.sub(r"( standard| local)?( time| timezone| time zone)$", "", key).removeprefix("the ")


def _offset(match: re.Match[str]) -> timedelta:
    hours, minutes = int(match[2]), int(match[3] or 0)
    if hours > 14:
        raise PlaceError(f"the offset {match[0]!r} is more than 14 hours from UTC")
    return (-1 if match[1] == "-" else 1) * timedelta(hours=hours, minutes=minutes)


def _offset_name(offset: timedelta | None) -> str:
    minutes = round((offset or timedelta()).total_seconds() / 60)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _key(text: str) -> str:
    """Lower case, no accents, dots or apostrophes; a space for underscores and hyphens in names."""
    text = unicodedata.normalize("NFKD", text).casefold()
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = re.sub(r"[.'’]", "", text.replace("_", " ").replace(",", " , "))
    text = re.sub(r"(?<=[^\W\d])-(?=[^\W\d])", " ", text)
    return " ".join(text.split()).replace(" ,", ",")


@functools.cache
def _places() -> dict[str, Place]:
    """Every known spelling -> place; the written tables win over names derived from zones."""
    places: dict[str, Place] = {}
    zones = sorted(zoneinfo.available_timezones())
    for zone in zones:
        places.setdefault(_key(zone), Place(zone, zone))
    for zone in zones:
        area, _, city = zone.rpartition("/")
        if area and area.split("/")[0] not in ("Etc", "SystemV", "US", "Canada", "posix", "right"):
            name = city.replace("_", " ")
            places.setdefault(_key(name), Place(name, zone))
    for table in (REGIONS, CITIES, ABBREVIATIONS):
        for names, zone in table:
            first = names[0]
            for name in names:
                places[_key(name)] = Place(first, zone)
    return places
