"""The unit table behind the convert_units tool: about 130 units in 12 kinds, exact factors.

A row is `factor | symbols | names`: one unit is `factor` base units. Symbols keep their case (MB is
megabytes, Mb megabits, mW milliwatts); where the case as written is unknown, any case is accepted
and the first row in the table wins (mb is megabytes, as people write it). Names are singular, any
case; plurals, British spellings and "sq m", "m^2", "cubic foot" forms are derived. Gallons, pints
and cups are those of the United States unless called imperial; a ton is 2,000 lb, a tonne 1,000 kg;
a year is 365.25 days and a month its twelfth. Source: NIST Special Publication 811, appendix B
(exact definitions where they exist).
"""

import functools
import re
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

from k2mlx.agent.calculator import plain

DECIMALS = 6


class UnitError(ValueError):
    """A unit that is not in the table, or two that measure different things."""


@dataclass(frozen=True)
class Unit:
    """`kind` is what it measures; value in base units = value * factor + offset."""

    kind: str
    name: str
    factor: Fraction
    offset: Fraction = Fraction(0)


_TABLE = {
    "length": """
        1 | m | meter
        1000 | km, kms | kilometer
        1/10 | dm | decimeter
        1/100 | cm, cms | centimeter
        1/1000 | mm | millimeter
        1/1000000 | um, µm | micrometer, micron
        1/1000000000 | nm | nanometer
        0.0254 | in, " | inch/inches
        0.3048 | ft, ' | foot/feet
        0.9144 | yd, yds | yard
        1609.344 | mi | mile
        1852 | nmi | nautical mile
        201.168 | fur | furlong
        1.8288 | ftm | fathom
        149597870700 | au, AU | astronomical unit
        9460730472580800 | ly | light year, light-year, lightyear
    """,
    "mass": """
        1 | kg, kgs | kilogram, kilo, kilogramme
        1/1000 | g, gr | gram, gramme
        1/1000000 | mg | milligram
        1/1000000000 | ug, µg, mcg | microgram
        1000 | t | tonne, metric ton, metric tonne
        0.45359237 | lb, lbs | pound
        0.028349523125 | oz | ounce
        6.35029318 | st | stone/stone, stone
        907.18474 | | ton, short ton, us ton
        1016.0469088 | | long ton, imperial ton
        0.0002 | ct | carat
        0.00006479891 | | grain
    """,
    "temperature": """
        1 | K | kelvin
        1 + 273.15 | C, °C, ℃ | celsius/celsius, centigrade/centigrade, degree celsius, degree c
        5/9 + 45967/180 | F, °F, ℉ | fahrenheit/fahrenheit, degree fahrenheit, degree f
        5/9 | °R | rankine/rankine, degree rankine
    """,
    "volume": """
        1/1000 | L, l | liter
        1/1000000 | mL, ml, cc | milliliter
        1/100000 | cL, cl | centiliter
        1/10000 | dL, dl | deciliter
        1/10 | hL, hl | hectoliter
        1 | m3, cbm | cubic meter
        1/1000000 | cm3 | cubic centimeter
        1/1000000000 | mm3 | cubic millimeter
        0.003785411784 | gal | gallon, us gallon
        0.000946352946 | qt | quart, us quart
        0.000473176473 | pt | pint, us pint
        0.0002365882365 | | cup, us cup
        0.0000295735295625 | floz | fluid ounce, fl oz, us fluid ounce
        0.00001478676478125 | tbsp | tablespoon
        0.00000492892159375 | tsp | teaspoon
        0.00454609 | | imperial gallon, uk gallon
        0.00056826125 | | imperial pint, uk pint
        0.0000284130625 | | imperial fluid ounce, uk fluid ounce
        0.028316846592 | ft3 | cubic foot/cubic feet
        0.000016387064 | in3 | cubic inch/cubic inches
        0.764554857984 | yd3 | cubic yard
        0.158987294928 | bbl | oil barrel, barrel
    """,
    "area": """
        1 | m2 | square meter
        1000000 | km2 | square kilometer
        1/10000 | cm2 | square centimeter
        1/1000000 | mm2 | square millimeter
        10000 | ha | hectare
        100 | | are
        0.09290304 | ft2 | square foot/square feet
        0.00064516 | in2 | square inch/square inches
        0.83612736 | yd2 | square yard
        2589988.110336 | mi2 | square mile
        4046.8564224 | ac | acre
    """,
    "speed": """
        1 | m/s, mps | meter per second
        5/18 | km/h, kph, kmh, kmph | kilometer per hour
        1000 | km/s | kilometer per second
        0.44704 | mph, mi/h | mile per hour
        0.3048 | ft/s, fps | foot per second/feet per second
        463/900 | kn, kt, kts | knot
    """,
    "time": """
        1 | s, sec, secs | second
        60 | min, mins | minute
        3600 | h, hr, hrs | hour
        86400 | d | day
        604800 | wk, wks | week
        1209600 | | fortnight
        2629800 | mo | month
        31557600 | yr, yrs, y | year
        315576000 | | decade
        3155760000 | | century/centuries
        1/1000 | ms | millisecond
        1/1000000 | us, µs | microsecond
        1/1000000000 | ns | nanosecond
    """,
    "data": """
        8 | B | byte
        8000 | kB, KB, kb | kilobyte
        8000000 | MB, mb | megabyte
        8000000000 | GB, gb | gigabyte
        8000000000000 | TB, tb | terabyte
        8000000000000000 | PB, pb | petabyte
        8192 | KiB, kib | kibibyte
        8388608 | MiB, mib | mebibyte
        8589934592 | GiB, gib | gibibyte
        8796093022208 | TiB, tib | tebibyte
        1 | b, bit | bit
        1000 | Kb, kbit | kilobit
        1000000 | Mb, Mbit | megabit
        1000000000 | Gb, Gbit | gigabit
        1000000000000 | Tb, Tbit | terabit
    """,
    "energy": """
        1 | J | joule
        1000 | kJ | kilojoule
        1000000 | MJ | megajoule
        1000000000 | GJ | gigajoule
        4.184 | cal | calorie
        4184 | kcal, Cal | kilocalorie, food calorie
        3600 | Wh | watt hour, watt-hour
        3600000 | kWh | kilowatt hour, kilowatt-hour
        3600000000 | MWh | megawatt hour, megawatt-hour
        1055.05585262 | BTU, Btu | british thermal unit
        1.602176634e-19 | eV | electronvolt, electron volt
        1.3558179483314004 | | foot pound, foot-pound
    """,
    "power": """
        1 | W | watt
        1000 | kW | kilowatt
        1000000 | MW | megawatt
        1000000000 | GW | gigawatt
        1/1000 | mW | milliwatt
        745.69987158227022 | hp, bhp | horsepower/horsepower, mechanical horsepower
        735.49875 | PS | metric horsepower/metric horsepower
    """,
    "pressure": """
        1 | Pa | pascal
        100 | hPa | hectopascal
        1000 | kPa | kilopascal
        1000000 | MPa | megapascal
        100000 | bar | bar
        100 | mbar | millibar
        101325 | atm | atmosphere
        6894.757293168361 | psi | pound per square inch
        20265/152 | torr, Torr | torr
        133.322387415 | mmHg | millimeter of mercury
    """,
    "angle": """
        1 | deg, ° | degree, degree of arc
        180/3.14159265358979323846 | rad | radian
        0.9 | gon | gradian, grad
        1/60 | arcmin | arcminute, minute of arc
        1/3600 | arcsec | arcsecond, second of arc
        360 | rev | turn, revolution
    """,
}


def convert(value: int | float, from_unit: str, to_unit: str) -> str:
    """`value` in `to_unit`, printed with the unit as it was asked for: "16.09344 km".

    At most 6 decimals, or 6 significant digits below 1; trailing zeros are dropped.
    Raises: UnitError.
    """
    return f"{format_value(convert_exactly(value, from_unit, to_unit))} {to_unit.strip()}"


def convert_exactly(value: int | float, from_unit: str, to_unit: str) -> Fraction:
    """The converted number before rounding. Raises: UnitError."""
    source, target = find_unit(from_unit), find_unit(to_unit)
    if source.kind != target.kind:
        start, goal = f"{from_unit.strip()} ({source.kind})", f"{to_unit.strip()} ({target.kind})"
        raise UnitError(f"cannot convert {start} to {goal}")
    try:
        # Through the shortest text, so that 0.1 is a tenth and not its binary neighbour.
        amount = Fraction(str(value))
    except ValueError:
        raise UnitError(f"the value must be a finite number, got {value}") from None
    return (amount * source.factor + source.offset - target.offset) / target.factor


def format_value(value: Fraction) -> str:
    """Round to 6 decimals, or to 6 significant digits below 1, and drop trailing zeros."""
    with localcontext() as context:
        whole = abs(value.numerator) // value.denominator
        context.prec = DECIMALS + (len(str(whole)) if whole else 0)
        return plain(Decimal(value.numerator) / Decimal(value.denominator))


def find_unit(text: str) -> Unit:
    """The unit called `text`. Raises: UnitError."""
    symbols, names = _lookup()
    tidy = _tidy(text)
    unit = symbols.get(tidy) or names.get(tidy.lower())
    if unit is None:
        raise UnitError(f"unknown unit {text.strip()!r}")
    return unit


def _tidy(text: str) -> str:
    """One spelling for the many ways of writing squares, cubes, "per" and spaces."""
    # Greek mu, small and capital (what upper() makes of the micro sign), is the micro sign.
    text = re.sub("[\u03bc\u039c]", "\u00b5", " ".join(text.split()))
    text = text.replace("²", "2").replace("³", "3")
    text = re.sub(r"\^([23])\b", r"\1", text)
    text = re.sub(
        r"\b(sq|cu)\b\.?\s*",
        lambda m: {"sq": "square ", "cu": "cubic "}[m[1].lower()],
        text,
        flags=re.I,
    )
    text = re.sub(r"°\s+", "°", text)
    text = re.sub(r"^deg\.?\s+", "degree ", text, flags=re.I)
    text = re.sub(r"\s*/\s*", "/", text)
    text = re.sub(r"(?<=[a-z])\s+an?\s+(?=hour|second)", " per ", text, flags=re.I)
    return text.removesuffix(".").strip()


@functools.cache
def _lookup() -> tuple[dict[str, Unit], dict[str, Unit]]:
    """(symbols as written, names and symbols in lower case) -> unit."""
    symbols: dict[str, Unit] = {}
    names: dict[str, Unit] = {}
    for kind, rows in _TABLE.items():
        for row in filter(None, map(str.strip, rows.splitlines())):
            factor, row_symbols, row_names = (part.strip() for part in row.split("|"))
            scale, _, offset = factor.partition(" + ")
            top, _, bottom = scale.partition("/")
            forms = [form.strip() for form in row_names.split(",")]
            unit = Unit(
                kind,
                forms[0].split("/")[0],
                Fraction(top) / Fraction(bottom or 1),
                Fraction(offset or 0),
            )
            for symbol in filter(None, map(str.strip, row_symbols.split(","))):
                symbols.setdefault(symbol, unit)
                names.setdefault(symbol.lower(), unit)
            for form in forms:
                for spelling in _spellings(form):
                    names[spelling] = unit
    for short in ("m", "ft", "in", "yd", "mi", "km", "cm", "mm"):
        for power, word in (("2", "square"), ("3", "cubic")):
            if unit := symbols.get(short + power):
                names[f"{word} {short}"] = unit
    return symbols, names


def _spellings(form: str) -> set[str]:
    """Singular and plural of a table name, in American and British spelling."""
    singular, _, plural = form.partition("/")
    if not plural:
        first, joint, rest = singular.partition(" per ")
        head, of, tail = first.partition(" of ")
        words = head.split(" ")
        if words[0] == "degree" and len(words) > 1:
            words[0] += "s"
        else:
            words[-1] += "s"
        plural = " ".join(words) + of + tail + joint + rest
    both = {singular, plural}
    both |= {name.replace("meter", "metre").replace("liter", "litre") for name in both}
    return both
