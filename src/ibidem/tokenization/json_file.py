"""`tokenizer.json`, as the library `tokenizers` writes it: read, checked, and which id has which name.

{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
 "added_tokens": [{"id": 3, "content": "<|endoftext|>", "special": true, ...}], ...}

names   0 a   1 b   2 ab   3 <|endoftext|>          each id once, without a gap
"""

import base64
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ibidem.errors import ConfigError, DataError
from ibidem.tokenization import special

Tree = dict[str, Any]

CONFIG, GENERATION, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
"""Files of a Hugging Face folder."""
MOST_BYTES = 64 << 20
"""Of a `tokenizer.json`; the largest vocabularies of 2026, of 262,144 ids, take 33 MB."""
MODELS = ("BPE", "Unigram")
MARKERS = frozenset({special.DOCUMENT, special.PAD, *special.CONTROL})
_BRACKETS = re.compile(r"<\S[^\n]*>|\[\S[^\n]*\]")
"""How the name of a token looks that is no text: <tool_call>, <|fim_prefix|>, [INST]."""


def read_json(path: Path) -> Tree:
    """Read a file of a tokenizer.

    Raises:
        ConfigError: it is missing or too large.
        DataError: it is no JSON object.
    """
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MOST_BYTES else b""
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path}: missing; give the folder of a Hugging Face model that has one") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if size > MOST_BYTES:
        raise ConfigError(f"{path}: {size:,} bytes; a tokenizer has at most {MOST_BYTES:,}")
    try:
        tree = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path}: not an object of JSON")
    return tree


def checked(tree: Tree, where: Path) -> Tree:
    """Return what a `tokenizer.json` holds, with the name of its model, which old files leave out.

    Raises:
        DataError: something in it has another form than `tokenizers` writes, or is nothing that gives texts back.
    """
    model, added = tree.get("model"), tree.get("added_tokens") or []
    if not isinstance(model, dict):
        _refuse(where, "it has no model")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in MODELS:
        _refuse(where, f"a model of type {kind}; only those of type {' and '.join(MODELS)} give every text back")
    _check_vocabulary(kind, model, where)
    if not isinstance(added, list) or not all(map(_is_added_token, added)):
        _refuse(where, "an added token without id or content")
    for part in components(tree.get("normalizer")):
        if part["type"] == "Precompiled" and not _is_charsmap(part.get("precompiled_charsmap")):
            _refuse(where, "its table of characters (precompiled_charsmap) is damaged")
    for part in components(tree.get("post_processor")):
        if part["type"] == "TemplateProcessing" and not _is_template(part.get("single")):
            _refuse(where, "its post-processor is no list of special tokens and texts")
    return tree | {"model": {"type": kind, **model}, "added_tokens": added}


def ids_in(tree: Tree, key: str, where: Path) -> list[int]:
    """Return the ids of a key that has one, several, or none.

    Raises:
        DataError: it has something else.
    """
    found = tree.get(key)
    listed = found if isinstance(found, list) else [] if found is None else [found]
    if not all(map(_is_id, listed)):
        _refuse(where, f"{key} is no id, and no list of ids")
    return listed


def components(part: Any) -> Iterator[Tree]:
    """Yield the parts of a normalizer, pre-tokenizer, post-processor or decoder, those of sequences one by one."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return
    if part["type"] != "Sequence":
        yield part
        return
    for name in ("normalizers", "pretokenizers", "processors", "decoders"):
        inside = part.get(name)
        for each in inside if isinstance(inside, list) else []:
            yield from components(each)


def names_of(tree: Tree, where: Path) -> list[str]:
    """Return the name of each id.

    Raises:
        DataError: an id is missing, two names have one id, or a name has two.
    """
    vocab = tree["model"]["vocab"]
    pairs = list(vocab.items()) if isinstance(vocab, dict) else [(item[0], place) for place, item in enumerate(vocab)]
    known = dict(pairs)
    for token in tree["added_tokens"]:
        name, number = token["content"], token["id"]
        if known.get(name, number) != number:
            _refuse(where, f"{name!r} has two ids, {known[name]} and {number}")
        if name not in known:
            known[name] = number
            pairs.append((name, number))
    names: dict[int, str] = {}
    for name, number in pairs:
        if number in names:
            _refuse(where, f"id {number} has two names, {names[number]!r} and {name!r}")
        names[number] = name
    missing = next((number for number in range(len(names)) if number not in names), None)
    if missing is not None:
        _refuse(where, f"no name has the id {missing}, though there are ids up to {max(names)}")
    return [names[number] for number in range(len(names))]


def is_control(token: Tree) -> bool:
    """Return whether no text may become an added token: one of ours, a special one, or one that looks like one.

    >>> is_control({"content": "<tool_call>", "special": False}), is_control({"content": "    ", "special": False})
    (True, False)
    """
    name = token["content"]
    return bool(token.get("special")) or name in MARKERS or _BRACKETS.fullmatch(name) is not None


def _check_vocabulary(kind: str, model: Tree, where: Path) -> None:
    vocab: Any = model.get("vocab")
    if kind == "BPE" and not (isinstance(vocab, dict) and all(map(_is_id, vocab.values()))):
        _refuse(where, "its vocabulary is no table of pieces and ids")
    if kind == "Unigram" and not (isinstance(vocab, list) and all(map(_is_piece, vocab))):
        _refuse(where, "its vocabulary is no list of pieces and scores")
    if kind == "Unigram" and not (_is_id(model.get("unk_id")) and model["unk_id"] < len(vocab)):
        _refuse(where, "it has no id for unknown characters (unk_id)")
    if not isinstance(model.get("unk_token"), str | None):
        _refuse(where, "its name for unknown characters (unk_token) is no text")
    merges = model.get("merges", [])
    if not isinstance(merges, list) or not all(map(_is_merge, merges)):
        _refuse(where, "a merge that is not one of two pieces")


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _is_piece(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], int | float)


def _is_merge(item: Any) -> bool:
    parts = item.split(" ") if isinstance(item, str) else item
    return isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)


def _is_template(single: Any) -> bool:
    if not isinstance(single, list) or not all(isinstance(item, dict) for item in single):
        return False
    named = [item["SpecialToken"] for item in single if "SpecialToken" in item]
    return all(isinstance(each, dict) and isinstance(each.get("id"), str) for each in named)


def _is_added_token(token: Any) -> bool:
    return (
        isinstance(token, dict)
        and _is_id(token.get("id"))
        and isinstance(token.get("content"), str)
        and token["content"] != ""
    )


def _is_charsmap(value: Any) -> bool:
    """Return whether a table of sentencepiece holds what its first four bytes say; the library panics otherwise."""
    try:
        raw = base64.b64decode(value, validate=True)
        (size,) = struct.unpack_from("<I", raw)
    except (TypeError, ValueError, struct.error):
        return False
    return bool(0 < size <= len(raw) - 4 and size % 4 == 0)


def _refuse(where: Path, reason: str) -> NoReturn:
    raise DataError(f"{where}: {reason}")
