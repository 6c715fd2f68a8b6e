"""The clock: which zone a place means, and what it says."""

import zoneinfo
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.agent.clock import PlaceError, find_place, tell_time
from k2mlx.agent.places import ABBREVIATIONS, CITIES, REGIONS

NOW = datetime(2026, 11, 22, 5, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("Tokyo", "14:05 on Sunday 22 November 2026 in Tokyo (UTC+09:00)"),
        ("UTC", "05:05 on Sunday 22 November 2026 in UTC (UTC+00:00)"),
        ("honolulu", "19:05 on Saturday 21 November 2026 in Honolulu (UTC-10:00)"),
        ("Kathmandu", "10:50 on Sunday 22 November 2026 in Kathmandu (UTC+05:45)"),
        ("france", "06:05 on Sunday 22 November 2026 in France (UTC+01:00)"),
        ("Asia/Tokyo", "14:05 on Sunday 22 November 2026 in Asia/Tokyo (UTC+09:00)"),
        ("utc-3:30", "01:35 on Sunday 22 November 2026 in UTC-03:30 (UTC-03:30)"),
    ],
)
def test_tells(place, text):
    assert tell_time(place, NOW) == text


def test_summer_time():
    july = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert tell_time("New York", july).startswith("08:00 on Wednesday 1 July 2026")
    assert tell_time("New York", NOW).startswith("00:05 on Sunday 22 November 2026")


@pytest.mark.parametrize(
    ("place", "zone"),
    [
        ("Tokyo, Japan", "Asia/Tokyo"),
        ("  new   york ", "America/New_York"),
        ("NEW_YORK", "America/New_York"),
        ("nyc", "America/New_York"),
        ("L.A.", "America/Los_Angeles"),
        ("são paulo", "America/Sao_Paulo"),
        ("Sao Paulo, Brazil", "America/Sao_Paulo"),
        ("the Netherlands", "Europe/Amsterdam"),
        ("The Hague", "Europe/Amsterdam"),
        ("London time", "Europe/London"),
        ("Pacific time", "America/Los_Angeles"),
        ("Xi'an", "Asia/Shanghai"),
        ("St. Petersburg", "Europe/Moscow"),
        ("Port-au-Prince", "America/Port-au-Prince"),
        ("buenos aires", "America/Argentina/Buenos_Aires"),
        ("USA", "America/New_York"),
        ("Georgia", "Asia/Tbilisi"),
        # What stands after the comma decides where the two disagree.
        ("Paris, Texas", "America/Chicago"),
        ("London, Ontario", "America/Toronto"),
        ("Atlanta, Georgia", "America/New_York"),
        ("Tbilisi, Georgia", "Asia/Tbilisi"),
        ("Portland, Oregon", "America/Los_Angeles"),
        ("Portland, Maine", "America/New_York"),
        ("Springfield, Illinois, USA", "America/Chicago"),
        ("Washington, D.C.", "America/New_York"),
        ("El Paso, Texas", "America/Denver"),
        ("Smalltown, Kenya", "Africa/Nairobi"),
        ("GMT+2", "UTC+02:00"),
        ("UTC+5:30", "UTC+05:30"),
    ],
)
def test_finds(place, zone):
    assert find_place(place).zone == zone


@pytest.mark.parametrize("place", ["Atlantis", "", "  ", ",", "12", "UTC+15", "Nowhere, Neverland"])
def test_unknown(place):
    with pytest.raises(PlaceError):
        find_place(place)


def test_every_written_zone_exists():
    zones = zoneinfo.available_timezones()
    for names, zone in (*CITIES, *REGIONS, *ABBREVIATIONS):
        assert zone in zones, names


def test_at_least_150_cities_and_countries():
    assert len(CITIES) >= 150
    assert len(REGIONS) >= 150


@given(
    st.sampled_from([*CITIES, *REGIONS, *ABBREVIATIONS]), st.sampled_from([str.lower, str.upper])
)
def test_every_spelling_is_found_in_any_case(entry, change):
    names, _ = entry
    for name in names:
        assert find_place(change(name)) == find_place(name)


@given(st.sampled_from(sorted(zoneinfo.available_timezones())))
def test_every_zone_name_is_found_and_told(zone):
    if zone != "localtime":
        assert "(UTC" in tell_time(zone, NOW)


@given(st.text(max_size=30))
def test_any_text_gives_a_place_or_a_reason(text):
    try:
        tell_time(text, NOW)
    except PlaceError as error:
        assert str(error)
