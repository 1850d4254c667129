"""Dates as people write them, with their ISO form: the data of the shipped model `dates`.

    python examples/dates_data.py 20        # prints some

Month and weekday names, their abbreviations and some patterns are CLDR's (through babel); the other patterns are
below. A date is held out when its ordinal is divisible by twenty: no form of it is in the training data.

`read_numbers` decides the meaning of numbers alone, in every language:

* a four-digit first number is the year: year, month, day (2026/5/3, 20260503);
* otherwise the day comes first (3/5/2026, 03.05.26, 3-5-26), but hyphens between three numbers of two digits are ISO's (26-05-03);
* where that gives no date, the first order that does: day month year, month day year, year month day (5/13/2026 is 13 May);
* a year has four digits or two; two are 1969 to 2068, as in POSIX strptime (69 is 1969, 68 is 2068).
"""

from __future__ import annotations

import datetime
import random
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache

from babel.dates import format_date, get_day_names, get_month_names

Pair = tuple[str, str]

# CLDR locales, then patterns: {d} day, {o} ordinal day, {M} month, {Y} year, {w} perhaps the weekday.
# {Y4} is a year that always has four digits.
LANGUAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "English": (
        ("en", "en_GB", "en_AU", "en_CA"),
        ("{w}{M} {d}, {Y}", "{w}{M} {d} {Y}", "{w}{M} {o}, {Y}", "{w}{M} {o} {Y}", "{w}{M} the {o}, {Y}", "{w}{d} {M} {Y}",
         "{w}{d} {M}, {Y}", "{w}{o} {M} {Y}", "{w}{o} of {M} {Y}", "{w}the {o} of {M}, {Y}", "{w}{Y} {M} {d}"),
    ),
    "German": (
        ("de", "de_AT", "de_CH"),
        ("{w}{d}. {M} {Y}", "{w}{d}. {M} {Y}", "{w}{d} {M} {Y}", "{w}den {d}. {M} {Y}", "{w}der {d}. {M} {Y}", "am {w}{d}. {M} {Y}",
         "{d}.{M} {Y}"),
    ),
    "French": (
        ("fr", "fr_CA", "fr_CH"),
        ("{w}{o} {M} {Y}", "{w}{d} {M} {Y}", "le {w}{o} {M} {Y}", "{w}le {o} {M} {Y}", "{w}{o} {M}, {Y}"),
    ),
    "Spanish": (
        ("es", "es_MX", "es_AR"),
        ("{w}{d} de {M} de {Y}", "{w}{d} de {M} del {Y}", "{w}{d} {M} {Y}", "{w}el {d} de {M} de {Y}", "el {w}{o} de {M} de {Y}",
         "{w}{M} {d}, {Y}", "{w}{d} de {M}, {Y}"),
    ),
    "Italian": (
        ("it", "it_CH"),
        ("{w}{d} {M} {Y}", "{w}{o} {M} {Y}", "{w}il {d} {M} {Y}", "il {w}{d} {M} {Y}", "{w}{d} {M} del {Y}"),
    ),
    "Portuguese": (
        ("pt", "pt_PT"),
        ("{w}{d} de {M} de {Y}", "{w}{o} de {M} de {Y}", "{w}{d} {M} {Y}", "{w}{d} de {M}, {Y}", "em {w}{d} de {M} de {Y}"),
    ),
    "Dutch": (
        ("nl", "nl_BE"),
        ("{w}{d} {M} {Y}", "{w}{d} {M} {Y}", "{w}{o} {M} {Y}", "{w}de {o} {M} {Y}", "op {w}{d} {M} {Y}"),
    ),
    "Swedish": (("sv",), ("{w}{d} {M} {Y}", "{w}den {d} {M} {Y}", "{w}den {o} {M} {Y}", "{w}{d}. {M} {Y}")),
    "Danish": (("da",), ("{w}{d}. {M} {Y}", "{w}den {d}. {M} {Y}", "{w}{d} {M} {Y}")),
    "Norwegian": (("nb",), ("{w}{d}. {M} {Y}", "{w}den {d}. {M} {Y}", "{w}{d} {M} {Y}")),
    "Polish": (("pl",), ("{w}{d} {M} {Y}", "{w}{d} {M} {Y} r.", "{w}dnia {d} {M} {Y}")),
}  # fmt: skip
EVERYWHERE = ("{d}-{M}-{Y}", "{d}.{M}.{Y}", "{d}/{M}/{Y}", "{d}{M}{Y4}", "{Y4}-{M}-{d}", "{Y4} {M} {d}")
# The years that two digits stand for.
SHORT_YEARS = range(1969, 2069)
# Common, but not in CLDR.
OTHER_MONTHS = {"German": {3: "Mrz"}, "French": {2: "fév"}, "Spanish": {9: "setiembre"}, "Dutch": {9: "sept"}}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzÁÄÅÇÉÌÖØÛáäåçéìöøûĄŁŃŚŹąłńśź"
SEPARATORS = ("-", "/", ".", "-", "/", ".", " ", ". ")


def pairs(seed: int, *, held_out: bool = False, language: str | None = None) -> Iterator[Pair]:
    """Yield pairs of a written date and its ISO form, without end.

    Args:
        seed: the same seed gives the same pairs.
        held_out: take the held-out dates; otherwise all others.
        language: one of LANGUAGES, or "numbers"; default one time in four numbers, else any language.
    """
    rng = random.Random(f"{seed} {held_out}")
    while True:
        date = _some_date(rng)
        chosen = language or ("numbers" if rng.random() < 0.25 else rng.choice(list(LANGUAGES)))
        written, date = _numbers(rng, date) if chosen == "numbers" else (_words(rng, date, chosen), date)
        if (date.toordinal() % 20 == 0) == held_out:
            yield _roughened(rng, written), date.isoformat()


def read_numbers(first: str, second: str, third: str, separator: str) -> datetime.date:
    """Return the date that three numbers mean, by the rule at the head of this file.

    Raises:
        ValueError: no order gives a date.
    """
    day_first, month_first, year_first = (third, second, first), (third, first, second), (first, second, third)
    if len(first) == 4:
        orders = [year_first]
    elif separator == "-" and len(first) == len(second) == len(third) == 2:
        orders = [year_first, day_first, month_first]
    else:
        orders = [day_first, month_first, year_first]
    for year, month, day in orders:
        try:
            return datetime.date(_full_year(year), int(month), int(day))
        except ValueError:
            continue
    raise ValueError(f"{first}{separator}{second}{separator}{third} is no date")


def _full_year(year: str) -> int:
    if len(year) not in (2, 4):
        raise ValueError(f"{year}: a year has two digits or four")
    number = int(year)
    return number if len(year) == 4 else next(full for full in SHORT_YEARS if full % 100 == number)


def _some_date(rng: random.Random) -> datetime.date:
    """A random date, mostly of our time, sometimes from 1600 to 2199."""
    first, last = ((1960, 2040), (1600, 2199))[rng.random() < 0.25]
    start, end = datetime.date(first, 1, 1).toordinal(), datetime.date(last, 12, 31).toordinal()
    return datetime.date.fromordinal(rng.randint(start, end))


def _numbers(rng: random.Random, date: datetime.date) -> tuple[str, datetime.date]:
    """Numbers alone, in any order, and the date that they mean."""
    separator = rng.choice(SEPARATORS)
    if rng.random() < 0.03:
        return f"{date:%Y%m%d}", date
    year = f"{date:%y}" if date.year in SHORT_YEARS and rng.random() < 0.3 else str(date.year)
    width = rng.choice((1, 2))
    day, month = f"{date.day:0{width}}", f"{date.month:0{width}}"
    orders = [(day, month, year), (month, day, year), (year, month, day)]
    numbers = orders[rng.choices(range(3), (5, 2, 3))[0]]
    meant = read_numbers(*numbers, separator)
    written = separator.join(numbers)
    if rng.random() < 0.15:
        written = _weekday(rng, meant, rng.choice(list(LANGUAGES))) + written
    return written, meant


def _words(rng: random.Random, date: datetime.date, language: str) -> str:
    """A date with the month's name."""
    locales, patterns = LANGUAGES[language]
    if rng.random() < 0.2:
        return str(format_date(date, rng.choice(("full", "long", "medium")), rng.choice(locales)))
    pattern = rng.choice(EVERYWHERE) if rng.random() < 0.15 else rng.choice(patterns)
    short = pattern.endswith("{Y}") and date.year in SHORT_YEARS and rng.random() < 0.15
    return pattern.format(
        w=_weekday(rng, date, language) if rng.random() < 0.4 else "",
        d=f"{date.day:02}" if rng.random() < 0.25 else date.day,
        o=_ordinal(rng, date.day, language),
        M=rng.choice(_month_names(language)[date.month - 1]),
        Y=rng.choice(("", "", "'", "’")) + f"{date:%y}" if short else date.year,
        Y4=date.year,
    )


def _weekday(rng: random.Random, date: datetime.date, language: str) -> str:
    """The weekday's name, with the text that separates it from the date."""
    return rng.choice(_day_names(language)[date.weekday()]) + rng.choice((" ", ", ", ", "))


def _ordinal(rng: random.Random, day: int, language: str) -> str:
    """3rd, 1er, 1º and so on; the plain number where the language has none for this day."""
    if language == "English":
        return f"{day}{'th' if day in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
    if language == "Dutch":
        return f"{day}{rng.choice(('e', 'ste' if day in (1, 8) or day >= 20 else 'de'))}"
    if language == "Swedish":
        return f"{day}:{'a' if day % 10 in (1, 2) and day not in (11, 12) else 'e'}"
    firsts = {"French": ("1er",), "Spanish": ("1º", "1.º"), "Italian": ("1º", "1°"), "Portuguese": ("1º", "1.º")}
    return rng.choice(firsts[language]) if day == 1 and language in firsts else str(day)


@cache
def _month_names(language: str) -> list[list[str]]:
    names = [_forms(get_month_names, month, language) for month in range(1, 13)]
    for month, other in OTHER_MONTHS.get(language, {}).items():
        names[month - 1].append(other)
    return names


@cache
def _day_names(language: str) -> list[list[str]]:
    return [_forms(get_day_names, day, language) for day in range(7)]


def _forms(names, index: int, language: str) -> list[str]:
    """Every form that CLDR has of a name, abbreviations with their dot and without; whole names twice as often."""
    forms = []
    for locale in LANGUAGES[language][0]:
        for context in ("format", "stand-alone"):
            whole = names("wide", context, locale)[index]
            short = names("abbreviated", context, locale)[index].rstrip(".")
            forms += [whole, whole, short, whole if short == whole else f"{short}."]
    if language == "German":
        forms += [form.replace("ä", "ae") for form in forms if "ä" in form]
    return forms


def _roughened(rng: random.Random, written: str) -> str:
    """The text as people type it: another case, no accents, no commas, another space."""
    written = unicodedata.normalize("NFC", written).replace("\xa0", " ").replace("\u202f", " ")
    if rng.random() < 0.15:
        bare = (c for c in unicodedata.normalize("NFD", written) if not unicodedata.combining(c))
        written = unicodedata.normalize("NFC", "".join(bare))
    if rng.random() < 0.1:
        written = written.replace(",", "")
    written = rng.choices((written, written.lower(), written.upper(), written.title()), (6, 2, 1, 1))[0]
    if rng.random() < 0.05:
        written = rng.choice((written.replace(" ", "  ", 1), f" {written}", f"{written} ", f"{written}."))
    return written


if __name__ == "__main__":
    for pair, _ in zip(pairs(0), range(int(sys.argv[1])), strict=False):
        print("{:45} {}".format(*pair))
