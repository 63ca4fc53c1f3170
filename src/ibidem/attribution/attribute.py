"""`ibidem attribute`: which training documents a text repeats or resembles, with their licenses."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ibidem.attribution.config import AttributeConfig
from ibidem.attribution.lookup import Attribution, Repetition, Resemblance, Source
from ibidem.attribution.places import place_of
from ibidem.errors import ConfigError
from ibidem.figures import counted, percent, visible

SHOWN_CHARACTERS = 60
FILE_NAME = re.compile(r"[\w./~-]{1,200}\.[A-Za-z]\w{0,9}")
"""One word with a suffix: fewer tokens than a span has, so that as a text it would repeat nothing anyway."""


def attribute(config: AttributeConfig) -> str:
    """Return the spans of a text that training documents contain, one a line, and the documents of each.

    Then passages that are only similar follow.

    Raises:
        AccessDenied: the tokens are of private documents, and the user is not among their readers.
        ArtifactError: the index, or what it was made from, is missing or damaged.
        ConfigError: the file cannot be read or is not UTF-8, the text too long, or the tokens have changed since.
    """
    index = Attribution(config.index, least_tokens=config.least_tokens, common_documents=config.common_documents)
    text = _text(config.text)
    repetitions = index.of_text(text)
    resemblances = index.similar_to(text, repetitions, least_similarity=config.least_similarity)
    if config.json:
        return "\n".join(map(json.dumps, [*map(as_json, repetitions), *map(similar_as_json, resemblances)]))
    return report(text, repetitions, resemblances)


def report(text: str, repetitions: Sequence[Repetition], resemblances: Sequence[Resemblance]) -> str:
    """Return lines about the spans and the similar passages of a text, and one about all of them."""
    lines = [line for each in repetitions for line in _lines(text, each)]
    lines += [line for each in resemblances for line in _lines_of_similar(text, each)]
    return "\n".join([*lines, _summary(text, repetitions, resemblances)])


def as_json(repetition: Repetition) -> dict[str, object]:
    """Return a span as JSON has it: its sources as objects."""
    return repetition._asdict() | {"sources": [_source_as_json(each) for each in repetition.sources]}


def similar_as_json(resemblance: Resemblance) -> dict[str, object]:
    """Return a similar passage as JSON has it: its document as that of a span."""
    start, end, similarity, source = resemblance
    return {"start": start, "end": end, "similarity": round(similarity, 3), "sources": [_source_as_json(source)]}


def _source_as_json(source: Source) -> dict[str, object]:
    return {"sha256": source.sha256, "is_removed": source.is_removed, **source.facts}


def _lines(text: str, repetition: Repetition) -> Iterator[str]:
    common = ", common" if repetition.is_common else ""
    yield (
        f"characters {repetition.start:,} to {repetition.end:,}, {counted(repetition.num_tokens, 'token')}, in "
        f"{counted(repetition.num_documents, 'document')}{common}: {_shown(text, repetition)}"
    )
    yield from (f"  {_describe(source)}" for source in repetition.sources)
    if (more := repetition.num_documents - len(repetition.sources)) > 0:
        yield f"  and {counted(more, 'other document')}"


def _lines_of_similar(text: str, resemblance: Resemblance) -> Iterator[str]:
    yield (
        f"characters {resemblance.start:,} to {resemblance.end:,}, {percent(resemblance.similarity, 0)} similar: "
        f"{_shown(text, resemblance)}"
    )
    yield f"  {_describe(resemblance.source)}"


def _shown(text: str, part: Repetition | Resemblance) -> str:
    words = " ".join(text[part.start : part.end].split())
    return visible(f"{words[:SHOWN_CHARACTERS]}{'...' if len(words) > SHOWN_CHARACTERS else ''}")


def _describe(source: Source) -> str:
    return place_of({**source.facts, "is_removed": source.is_removed})


def _summary(text: str, repetitions: Sequence[Repetition], resemblances: Sequence[Resemblance]) -> str:
    covered = {place for each in repetitions for place in range(each.start, each.end)}
    share = percent(len(covered) / len(text), 0) if text else percent(0.0, 0)
    own = sum(not each.is_common for each in repetitions)
    common = f" and {counted(len(repetitions) - own, 'common one')}" if own < len(repetitions) else ""
    similar = f"; {counted(len(resemblances), 'similar passage')}" if resemblances else ""
    return (
        f"{counted(own, 'span')}{common} of training documents; {share} of {counted(len(text), 'character')}{similar}"
    )


def _text(text_or_file: str) -> str:
    """Return a text, or that of a file, with the ends of lines that documents have."""
    if not _is_path(text_or_file):
        return text_or_file.replace("\r\n", "\n")
    path = Path(text_or_file)
    try:
        return path.read_bytes().decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start:,}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a text, or a file that contains it") from None


def _is_path(text_or_file: str) -> bool:
    """Return whether something is there, or would be: a mistyped name is not a text that repeats nothing.

    >>> [_is_path(each) for each in ("no/answer.py", "no/answer", "a.append(1)", "see answer.py", "")]
    [True, False, False, False, False]
    """
    if not text_or_file or "\0" in text_or_file or len(text_or_file) > 4096:
        return False
    if FILE_NAME.fullmatch(text_or_file):
        return True
    try:
        return Path(text_or_file).exists()
    except OSError:  # longer than any name, or behind a folder that we may not enter
        return False
