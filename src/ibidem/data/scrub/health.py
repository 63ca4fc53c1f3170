"""Health identifiers: patients' and insurance numbers, the national numbers that insurers use, diagnoses, and devices.

A number is found by the words before it (`NHS number`, `MRN`, `Versichertennummer`) and, where the number has one, by
its check digit; without such words only if its form alone is distinctive. What is called a health identifier follows
the list of 45 CFR 164.514(b)(2) (HIPAA, Safe Harbor), names and addresses aside.

The following is kept: diagnoses without a person beside them, numbers whose check digit is wrong, birthdays on the
first of January, and the specimen identifiers that their issuers publish.
"""

import re
from collections.abc import Callable, Iterable

from ibidem.data.scrub.rules import Match, Rule, found_in, luhn

_PERSON = re.compile(
    rb"(?i)(?<![a-z])(?:i|my|his|her|hers|their|he|she|patients?|mother|father|son|daughter|wife|husband|partner|friend"
    rb"|colleague|ich|meine?[nmrs]?|seine?[nmrs]?|ihre?[nmrs]?|er|sie)(?![a-z])"
)
_PERSON_WINDOW = 48
_SPECIMENS = {b"1EG4TE5MK73", b"1EG4TE5MK72", b"9434765919", b"9434765870", b"7569217076985"}
"""Published by CMS, NHS England and the Swiss central office of compensation as examples."""
_FISCAL_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
"""Values of A to Z, and of the digits as A to J, at odd places of an Italian fiscal code."""


def _plain(match: Match) -> bytes:
    return re.sub(rb"[^0-9A-Za-z]", b"", found_in(match)).upper()


def _numbers(match: Match) -> list[int]:
    return [int(digit) for digit in re.sub(rb"\D", b"", found_in(match)).decode()]


def _dot(digits: Iterable[int], weights: Iterable[int]) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def _is_nhs(match: Match) -> bool:
    """Check the digit modulo 11 of an NHS number (NHS Data Dictionary)."""
    digits = _numbers(match)
    return len(set(digits)) > 1 and _dot(digits, range(10, 0, -1)) % 11 == 0 and _plain(match) not in _SPECIMENS


def _is_no_specimen(match: Match) -> bool:
    return _plain(match) not in _SPECIMENS


def _is_german(match: Match) -> bool:
    """Check the digit of a German number: its letter as two digits, weights 1 and 2 (SGB V, section 290)."""
    value = _plain(match).decode()
    digits = [*map(int, f"{ord(value[0]) - 64:02d}"), *map(int, value[1:])]
    products = (digit * (1 + place % 2) for place, digit in enumerate(digits[:-1]))
    return sum(product // 10 + product % 10 for product in products) % 10 == digits[-1]


def _is_french(match: Match) -> bool:
    """Check the key of a French number: 97 minus the rest modulo 97; Corsica's letters count as 19 and 18."""
    value = _plain(match).replace(b"2A", b"19").replace(b"2B", b"18")
    return value.isdigit() and int(value[:13]) % 97 == 97 - int(value[13:])


def _is_luhn(match: Match) -> bool:
    digits = "".join(map(str, _numbers(match)))
    return len(set(digits)) > 1 and luhn(digits[-10:]) == 0  # Swedish numbers may have their century in front


def _is_australian(match: Match) -> bool:
    """Check the ninth digit of an Australian Medicare number."""
    digits = _numbers(match)
    return _dot(digits[:8], (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == digits[8]


def _is_swiss(match: Match) -> bool:
    """Check the digit of a Swiss insurance number, that of EAN-13."""
    return _dot(_numbers(match), (1, 3) * 6 + (1,)) % 10 == 0 and _is_no_specimen(match)


def _is_austrian(match: Match) -> bool:
    """Check the fourth digit of an Austrian insurance number, and that the birthday exists."""
    digits = _numbers(match)
    body = digits[:3] + digits[4:]
    day, month = digits[4] * 10 + digits[5], digits[6] * 10 + digits[7]
    is_day = 1 <= day <= 31 and 1 <= month <= 15  # months 13 to 15 where the days of a month are used up
    return is_day and _dot(body, (3, 7, 9, 5, 8, 4, 2, 1, 6)) % 11 == digits[3]


def _is_italian(match: Match) -> bool:
    """Check the last letter of an Italian fiscal code (decree of 12 March 1974)."""
    places = [int(letter, 36) for letter in _plain(match).decode()]
    values = [place - 10 if place >= 10 else place for place in places]
    total = sum(_FISCAL_ODD[value] if place % 2 == 0 else value for place, value in enumerate(values[:-1]))
    return total % 26 == values[-1]


def _is_dutch(match: Match) -> bool:
    """Check a Dutch citizen service number: weights 9 to 2 and -1 modulo 11."""
    digits = _numbers(match)
    return len(set(digits)) > 1 and _dot(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def _is_belgian(match: Match) -> bool:
    """Check the key of a Belgian national number modulo 97, for births before and since 2000."""
    value = _plain(match).decode()
    return any((97 - int(century + value[:9]) % 97) == int(value[9:]) for century in ("", "2"))


def _is_danish(match: Match) -> bool:
    digits = _numbers(match)
    return 1 <= digits[0] * 10 + digits[1] <= 31 and 1 <= digits[2] * 10 + digits[3] <= 12


def _is_prescriber(match: Match) -> bool:
    """Check the last digit of a number of the Drug Enforcement Administration."""
    digits = _numbers(match)
    return (sum(digits[0:6:2]) + 2 * sum(digits[1:6:2])) % 10 == digits[6]


def _is_beside_person(match: Match) -> bool:
    window = match.string[max(0, match.start() - _PERSON_WINDOW) : match.start("found")]
    return _PERSON.search(window) is not None


_FILLER = "numbers?|nummer|numéro|num|no|nr|id|identifier|card|code|is|ist|lautet|är|name|implant"
_MARK = r"""[\s_.:#='"()\[\]/,-]{0,4}"""
_BETWEEN = rf"(?:{_MARK}(?i:{_FILLER})(?![A-Za-z])){{0,3}}{_MARK}"
_MEDICARE_LETTER, _MEDICARE_SIGN = "[AC-HJKMNP-RT-Y]", "[0-9AC-HJKMNP-RT-Y]"
_MEDICARE = (
    f"[1-9]{_MEDICARE_LETTER}{_MEDICARE_SIGN}[0-9]",
    f"{_MEDICARE_LETTER}{_MEDICARE_SIGN}[0-9]",
    f"{_MEDICARE_LETTER}{{2}}[0-9]{{2}}",
)
_NEW_YEAR = re.compile(rb"\d{4}-01-01|0?1([./-])0?1\1\d{4}")
"""The day that is written where the birthday is unknown or made up."""
_DIAGNOSIS = r"[A-TV-Z][0-9][0-9AB]"
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_DATE = (
    rf"\d{{4}}-\d\d-\d\d|\d{{1,2}}[./-]\d{{1,2}}[./-]\d{{4}}|\d{{1,2}}\.? {_MONTH} \d{{4}}|{_MONTH} \d{{1,2}}, \d{{4}}"
)


def _after(kind: str, label: str, value: str, is_genuine: Callable[[Match], bool] | None = None) -> Rule:
    """Return a rule for values of a form after words of a label."""
    return Rule(
        kind,
        rf"(?i)\b(?:{label})",
        rf"(?<![A-Za-z0-9])(?i:{label}){_BETWEEN}(?<![A-Za-z0-9])(?P<found>{value})(?!\w|-\w|\.\d)",
        is_genuine,
    )


HEALTH: tuple[Rule, ...] = (
    _after("health-number", "nhs", r"\d{3}(?P<gap>[ -]?)\d{3}(?P=gap)\d{4}", _is_nhs),
    Rule(
        "health-number",
        rf"\b{'-'.join(_MEDICARE)}\b",
        rf"(?<![\w-]){'-'.join(_MEDICARE)}(?![\w-])",
        _is_no_specimen,
    ),
    _after("health-number", "mbi|medicare", "-?".join(_MEDICARE), _is_no_specimen),
    _after("health-number", "medicare", r"[2-6]\d{3}[ -]?\d{5}[ -]?\d(?:[ -/]?\d)?", _is_australian),
    _after("health-number", "ohip|health[ _]card", r"\d{4}[ -]?\d{3}[ -]?\d{3}(?:[ -]?[A-Z]{2})?", _is_luhn),
    _after("health-number", "kvnr|(?:kranken)?versicherten-?(?:nummer|nr)", r"[A-Z]\d{9}", _is_german),
    _after(
        "health-number",
        "(?:health )?insurance policy|policy (?:no|number)|insurance[ _](?:id|number)|versicherungs(?:nummer|nr)",
        r"[A-Z0-9]{0,3}-?\d{7,10}",
    ),
    _after(
        "health-number",
        "(?:member|subscriber|beneficiary)[ _](?:id|number)|mitglieds(?:nummer|nr)",
        r"[A-Z]{0,3}-?\d{7,12}",
    ),
    _after(
        "medical-record",
        r"mrn|medical[ _]record|med\. ?rec\.|patient[ _](?:id|number|no)|patienten(?:nummer|nr)",
        r"[A-Z]{0,2}-?\d{3}-?\d{3,7}",
    ),
    Rule(
        "diagnosis",
        r"(?:[Dd]iagnos[a-z]{0,3}|[Pp]resents|[Ss]uffer[a-z]{0,3})[ :A-Za-z]{1,24}[A-TV-Z][0-9]",
        r"(?:[Dd]iagnos|[Pp]resents|[Ss]uffer)[ :A-Za-z]{1,28}?"
        rf"(?P<found>{_DIAGNOSIS}(?:\.[0-9A-Z]{{1,4}})?)(?!\w|\.\w)",
        _is_beside_person,
    ),
    Rule(
        "diagnosis",
        r" (?:has|have|had|hat|habe) [ a-z]{0,16}[A-TV-Z][0-9][0-9AB]\.",
        rf" ha[a-z]{{1,3}} [ a-z]{{0,16}}?(?P<found>{_DIAGNOSIS}\.[0-9A-Z]{{1,4}})(?!\w|\.\w)",
        _is_beside_person,
    ),
    _after(
        "national-id",
        "nir|sécurité sociale|sécu",
        r"[12] ?\d\d ?\d\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d",
        _is_french,
    ),
    Rule(
        "national-id", r"\b756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}\b", r"(?<![\w.])756(?:\.\d{4}){2}\.\d\d(?!\w)", _is_swiss
    ),
    _after("national-id", "ahv|avs", r"756\d{10}", _is_swiss),
    _after("national-id", "svnr|sv-nummer|sozialversicherungsnummer", r"[1-9]\d{3} ?\d{6}", _is_austrian),
    Rule(
        "national-id",
        r"\b[A-Z]{6}[0-9]{2}[A-EHLMPR-T][0-9]{2}[A-Z][0-9]{3}[A-Z]\b",
        r"(?<!\w)[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z](?!\w)",
        _is_italian,
    ),
    _after("national-id", "bsn|burgerservicenummer", r"\d{4}\.?\d\d\.?\d{3}", _is_dutch),
    Rule(
        "national-id",
        r"\b[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}\b",
        r"(?<![\w.])\d\d\.\d\d\.\d\d-\d{3}\.\d\d(?!\w)",
        _is_belgian,
    ),
    _after("national-id", "insz|rijksregister|numéro national", r"\d{11}|\d\d\.\d\d\.\d\d-\d{3}\.\d\d", _is_belgian),
    _after("national-id", "personnummer|pnr", r"(?:19|20)?\d{6}[-+]?\d{4}", _is_luhn),
    _after("national-id", "cpr", r"\d{6}-?\d{4}", _is_danish),
    _after("prescriber-number", "dea", r"[A-Z]{2}\d{7}", _is_prescriber),
    _after(
        "birth-date",
        "dob|date[ _]of[ _]birth|birth[ _]?date|geboren am|geburtsdatum|patient born on",
        _DATE,
        lambda match: _NEW_YEAR.fullmatch(found_in(match)) is None,
    ),
    _after(
        "device-serial",
        "(?:pacemaker|insulin pump|implant|defibrillator|device)[ _](?:serial|s/n)",
        r"[A-Z]{0,4}\d{6,10}[A-Z]?|[A-Z0-9]{4}\d{6}",
        lambda match: b"implant" in match[0].lower() or not match[0].lower().startswith(b"device"),
    ),
)
"""Rules of the health identifiers. US social security numbers are in `personal`."""
