"""Facts of a dataset in the words of readers who know none of its settings: licenses, languages, days, steps."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from ibidem.data.sources.open import INSTALLED
from ibidem.figures import counted, percent, size

MOST_NAMED, MOST_LICENSES = 15, 5
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
LICENSES = {
    "0BSD": "BSD Zero Clause License",
    "Apache-2.0": "Apache License 2.0",
    "Artistic-2.0": "Artistic License 2.0",
    "BSD-2-Clause": "BSD 2-Clause License",
    "BSD-3-Clause": "BSD 3-Clause License",
    "BSL-1.0": "Boost Software License 1.0",
    "CC-BY-4.0": "Creative Commons Attribution 4.0",
    "CC-BY-SA-3.0": "Creative Commons Attribution-ShareAlike 3.0",
    "CC-BY-SA-4.0": "Creative Commons Attribution-ShareAlike 4.0",
    "CC0-1.0": "Creative Commons Zero 1.0 (public domain dedication)",
    "EPL-2.0": "Eclipse Public License 2.0",
    "ISC": "ISC License",
    "LicenseRef-scancode-public-domain": "public domain",
    "MIT": "MIT License",
    "MIT-0": "MIT No Attribution",
    "MPL-2.0": "Mozilla Public License 2.0",
    "PSF-2.0": "Python Software Foundation License 2.0",
    "Python-2.0": "Python License 2.0",
    "Unlicense": "The Unlicense (public domain dedication)",
    "Zlib": "zlib License",
    "AND": "and",
    "OR": "or",
    "WITH": "with the exception",
}
"""SPDX identifiers and operators in words; others stay as they are (https://spdx.org/licenses)."""
FAMILIES = {
    "GPL": "GNU General Public License",
    "AGPL": "GNU Affero General Public License",
    "LGPL": "GNU Lesser General Public License",
    "MPL": "Mozilla Public License",
}
LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "ca": "Catalan",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "ga": "Irish",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "la": "Latin",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mt": "Maltese",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sr": "Serbian",
    "sv": "Swedish",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
"""Names of ISO 639-1 codes: the official languages of the European Union, and others that are common."""


def license_name(expression: str) -> str:
    """Return an SPDX expression in words.

    >>> license_name("Apache-2.0 OR MIT"), license_name("none")
    ('Apache License 2.0 or MIT License', 'no stated license')
    """
    if expression == "none":
        return "no stated license"
    return re.sub(r"[\w.+-]+", lambda found: LICENSES.get(found[0], found[0]), expression)


def language_name(code: str) -> str:
    """Return the name of an ISO 639 code.

    >>> language_name("de"), language_name("xx")
    ('German', 'the language with the ISO 639 code xx')
    """
    return LANGUAGES.get(code) or f"the language with the ISO 639 code {code}"


def day(iso: str) -> str:
    """Return a day in words.

    >>> day("2026-08-20")
    '20 August 2026'
    """
    parsed = date.fromisoformat(iso)
    return f"{parsed.day} {MONTHS[parsed.month - 1]} {parsed.year}"


def day_of(seconds: float) -> str:
    """Return the day in UTC of a Unix time, as 2026-08-20."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def enumerated(names: Sequence[str], last: str = "and") -> str:
    """Join names as in a sentence.

    >>> enumerated(["a", "b", "c"]), enumerated(["a"])
    ('a, b and c', 'a')
    """
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted_names(counts: Mapping[str, int]) -> str:
    """Return names with their numbers, in their order, and how many others there are.

    >>> counted_names({"Python": 2, "SQL": 1, "none": 7})
    'Python (2) and SQL (1)'
    """
    named = [(name, count) for name, count in counts.items() if name != "none"]
    rest = named[MOST_NAMED:]
    shown = [f"{name} ({count:,})" for name, count in named[:MOST_NAMED]]
    shown += [f"{counted(len(rest), 'other')} ({sum(count for _, count in rest):,})"] if rest else []
    return enumerated(shown) or "none"


def counted_licenses(counts: Mapping[str, int]) -> str:
    """Return SPDX expressions in words with their numbers, in their order; a single one without a number.

    >>> counted_licenses({"MIT": 3}), counted_licenses({"MIT": 3, "ISC AND MIT": 1})
    ('MIT License', 'MIT License (3); ISC License and MIT License (1)')
    """
    if len(counts) == 1:
        return license_name(next(iter(counts)))
    ordered = list(counts.items())
    shown = [f"{license_name(name)} ({count:,})" for name, count in ordered[:MOST_LICENSES]]
    rest = [count for _, count in ordered[MOST_LICENSES:]]
    return "; ".join(shown + ([f"{counted(len(rest), 'other')} ({sum(rest):,})"] if rest else []))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; nothing without rows."""
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def steps(config: Mapping[str, Any]) -> list[str]:
    """Return what `preprocess` did by its settings, a sentence for each step, in their order."""
    skipped = config["skip"]
    parts = [
        _reading(config),
        ["Empty and binary files were dropped."],
        [] if "clean" in skipped else ["Line ends, trailing blanks and blank lines were normalized."],
        [] if "licenses" in skipped else _licenses(config["licenses"]),
        [] if "filters" in skipped else _filters(config["filters"]),
        [] if "scrub" in skipped else _scrub(config["scrub"]),
        [] if "contamination" in skipped else _contamination(config["contamination"]),
        _duplicates(config["dedup"]),
    ]
    return [sentence for part in parts for sentence in part]


def _reading(config: Mapping[str, Any]) -> Iterator[str]:
    if config["max_documents"] is not None:
        yield f"At most {counted(config['max_documents'], 'document')} of each source were read."
    if any(spec.split(":")[0] == INSTALLED for spec in config["dataset"]):
        yield f"At most {size(config['package_cap_bytes'])} of each installed package were read."


def _licenses(policy: Mapping[str, Any]) -> Iterator[str]:
    if policy["denied"]:
        families = [FAMILIES.get(name, name) for name in policy["denied"]]
        yield f"Documents under the {enumerated(families, 'or')} were dropped."
    if policy["allowed"]:
        yield f"Of the others, only documents under the {_names(policy['allowed'])} were kept."
    if policy["allowed_exceptions"]:
        yield f"Documents with the license exception {enumerated(policy['allowed_exceptions'], 'or')} were kept."
    yield "Documents whose license is missing or cannot be determined, in a source that states licenses, were dropped."
    done = "kept, and counted as such" if policy["unstated"] == "keep" else "dropped"
    yield f"Documents of sources that state no licenses at all were {done}."


def _names(expressions: Sequence[str]) -> str:
    return enumerated([license_name(name) for name in expressions], "or")


def _filters(policy: Mapping[str, Any]) -> Iterator[str]:
    shortest, longest = policy["data_chars"]
    if policy["generated"]:
        yield "Files whose first lines say that a program generated them, lock files and bundles were dropped."
    share = policy.get("max_long_lines", 0)  # of datasets that were made before there was one: any line
    mostly = f"more than {_share(share)} of their characters in " if share else ""
    yield (
        f"Files with {mostly}lines longer than {policy['max_line']:,} characters of code, or with lines longer than "
        f"{policy['max_line_of_text']:,} characters of other text, with more than {policy['max_lines']:,} lines, or "
        "with minified code were dropped."
    )
    yield (
        f"Data files, such as JSON, shorter than {shortest:,} characters, longer than {longest:,} characters or longer "
        f"than {policy['data_max_lines']:,} lines were dropped."
    )
    yield (
        f"Documents with too few letters were dropped: less than {_share(policy['code_min_letters'])} of code, "
        f"{_share(policy['prose_min_letters'])} of prose or {_share(policy['data_min_letters'])} of data files. So "
        f"were files of which more than {_share(policy['max_data_share'])} is encoded data or numbers, and web pages "
        "with hardly any text."
    )
    yield (
        f"Repetitive documents were dropped: more than {_share(policy['code_max_repeated'])} of code, or more than "
        f"{_share(policy['prose_max_repeated'])} of prose, in lines that already occurred."
    )
    if policy["profanity"]:
        yield (
            f"Documents with at least {policy['profanity_min_words']:,} profane or hateful words, and more than "
            f"{policy['profanity_per_10k']:g} in 10,000 characters, were dropped."
        )
    if policy["scorer"]:
        yield "Documents that a scorer of hate speech took for such were dropped."
    if policy["languages"]:
        yield f"Of code, only files in {enumerated(policy['languages'])} were kept."
    if policy["natural_languages"]:
        names = [language_name(code) for code in policy["natural_languages"]]
        yield f"Of prose, only documents in {enumerated(names)} were kept."


def _share(share: float) -> str:
    return percent(share, digits=0)


def _scrub(policy: Mapping[str, Any]) -> Iterator[str]:
    if policy["secrets"]:
        yield "Keys, tokens and passwords were replaced by placeholders."
        yield "Tests that contain any of them, short passwords aside, were dropped."
    if policy["personal"]:
        yield (
            "Email and IP addresses, phone, card and account numbers, and US social security numbers were replaced by "
            "placeholders."
        )
    if policy.get("health"):
        yield (
            "So were medical record, insurance and national identification numbers, diagnoses beside a person, "
            "birthdays of patients, and serial numbers of implants."
        )
    if policy.get("names"):
        yield "So were names of people that the words around them introduce; other names were not looked for."


def _contamination(policy: Mapping[str, Any]) -> Iterator[str]:
    if policy["benchmarks"]:
        names = enumerated([Path(name).name for name in policy["benchmarks"]])
        yield f"Documents that quote or rewrite problems of the evaluations {names} were dropped."


def _duplicates(policy: Mapping[str, Any]) -> Iterator[str]:
    if policy["near"]:
        yield (
            "Of documents with the same or nearly the same text, one was kept: those that share "
            f"{_share(policy['similarity'])} of their sequences of 5 words."
        )
    elif policy["exact"]:
        yield "Of documents with the same text, one was kept."
