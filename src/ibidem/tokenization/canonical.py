"""A foreign `tokenizer.json` in the form in which we keep it, which is also the one that is exported.

    added tokens     "<|im_end|>"  ->  LEAD "|im_end|>"        no text that spells it becomes it, whoever reads the file
    ours             LEAD "|user|>" and so on, behind the last id, if the file has none of that name
    normalizer       LEAD ESCAPE -> LEAD, then its own         by ESCAPE a chat template protects texts
    post-processor   the document's marker first, as in all our exports
    truncation, padding and dropout are switched off           a text has one sequence of ids, its own
    model            as it is, but for the names above

Ids stay what they were. The form of a file in this form is the file itself.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ibidem.errors import DataError
from ibidem.tokenization import special
from ibidem.tokenization.alphabet import FIRST_CHARACTER, Alphabet
from ibidem.tokenization.json_file import Tree, components, is_control, names_of

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


class Canonical(NamedTuple):
    """A tokenizer in our form."""

    tree: Tree
    markers: tuple[str, ...]
    """Those of our markers that it did not have."""

    @property
    def text(self) -> str:
        """The file: the same tokenizer gives the same bytes."""
        return json.dumps(self.tree, ensure_ascii=False) + "\n"


def alphabet_of(tree: Tree) -> Alphabet | None:
    """Return the two characters of a file in our form; None if it has another form."""
    first = next(components(tree.get("normalizer")), {})
    pattern = first.get("pattern")
    pair = pattern.get("String") if isinstance(pattern, dict) else None
    if first.get("type") != "Replace" or not isinstance(pair, str) or len(pair) != 2:
        return None
    is_ours = first.get("content") == pair[0] and all(ord(char) > FIRST_CHARACTER for char in pair)
    return Alphabet(*pair) if is_ours else None


def document_of(tree: Tree) -> str | None:
    """Return the special token that a file puts before a text, under the name that it has there."""
    for step in components(tree.get("post_processor")):
        if step["type"] == "TemplateProcessing" and step["single"] and "SpecialToken" in step["single"][0]:
            return str(step["single"][0]["SpecialToken"]["id"])
    return None


def unknown_id(model: Tree) -> int | None:
    """Return the id that a model has for unknown characters."""
    number = model["unk_id"] if model["type"] == "Unigram" else model["vocab"].get(model.get("unk_token"))
    return None if number is None else int(number)


def controls_of(tree: Tree, alphabet: Alphabet) -> dict[str, int]:
    """Return the ids that no text becomes, by their plain names, of a file in our form."""
    found = ((alphabet.plain(token["content"]), token["id"]) for token in tree["added_tokens"])
    return {name: number for name, number in found if name is not None}


def canonical(tree: Tree, where: Path, *, begins: str | None) -> Canonical:
    """Return a tokenizer in our form.

    Args:
        tree: a checked `tokenizer.json`.
        where: its path.
        begins: name of the token with which its model expects a document to begin, where that is not our own.

    Raises:
        DataError: its ids are not in order, or a marker is what stands for unknown characters.
    """
    names = names_of(tree, where)
    own = alphabet_of(tree)
    alphabet = own or Alphabet.outside(names)
    controls, plain = _sorted_out(tree, own)
    if begins is not None and own is not None:
        begins = own.plain(begins) or begins
    document = begins if special.DOCUMENT not in {*controls, *names} and begins in controls else special.DOCUMENT
    wanted = [document, special.PAD, *special.CONTROL]
    ids = {name: number for number, name in enumerate(names)}
    missing = tuple(name for name in wanted if name not in controls and name not in ids)
    added = {name: ids.get(name, len(names) + place) for place, name in enumerate(missing)}
    controls |= {name: ids[name] for name in wanted if name not in controls and name not in missing} | added
    model = _model(tree["model"], controls, alphabet, unusable={*wanted}, where=where)
    tokens = [{"id": number, "content": alphabet.marked(name), **FLAGS} for name, number in controls.items()]
    return Canonical(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": sorted([*tokens, *plain], key=lambda token: token["id"]),
            "normalizer": _normalizer(tree, alphabet, is_own=own is not None),
            "pre_tokenizer": _pre_tokenizer(tree, alphabet, has_plain=bool(plain)),
            "post_processor": _post_processor(alphabet.marked(document), controls[document]),
            "decoder": tree.get("decoder"),
            "model": model,
        },
        missing,
    )


def bare(tree: Tree) -> Tree:
    """Return a tokenizer in our form without its special tokens: what encodes texts.

    Special tokens are not in its vocabulary, so no text becomes one of them, whatever it spells.
    """
    controls = {token["content"] for token in tree["added_tokens"] if token["special"]}
    plain = [token for token in tree["added_tokens"] if not token["special"]]
    steps = list(components(tree["normalizer"]))[1:]
    return tree | {
        "added_tokens": plain,
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "post_processor": None,
        "model": _without(tree["model"], controls, {token["content"]: token["id"] for token in plain}),
    }


def without_blank(tree: Tree) -> Tree:
    """Return a tokenizer that writes no blank before the first word of a text."""
    normalizers = [step for step in components(tree.get("normalizer")) if step["type"] != "Prepend"]
    steps = [
        step | {"prepend_scheme": "never"} if step["type"] == "Metaspace" else step
        for step in components(tree.get("pre_tokenizer"))
    ]
    return tree | {
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if steps else None,
    }


def plain(tree: Tree) -> Tree:
    """Return a foreign tokenizer without what makes the ids of a text depend on anything but the text."""
    off = {"truncation": None, "padding": None, "post_processor": None}
    model = tree["model"] | ({"dropout": None} if tree["model"]["type"] == "BPE" else {})
    return tree | off | {"model": model}


def _sorted_out(tree: Tree, own: Alphabet | None) -> tuple[dict[str, int], list[Tree]]:
    """Return the ids of added tokens that no text may become, by name, and the other added tokens."""
    controls, plain = dict[str, int](), list[Tree]()
    for token in tree["added_tokens"]:
        name = own.plain(token["content"]) if own else None
        if name is None and not is_control(token):
            plain.append({"id": token["id"], "content": token["content"]} | FLAGS | token | {"special": False})
        else:
            controls[name or token["content"]] = token["id"]
    model, number = tree["model"], unknown_id(tree["model"])
    if number is not None:
        unknown = model["vocab"][number][0] if model["type"] == "Unigram" else model["unk_token"]
        controls.setdefault((own.plain(unknown) if own else None) or unknown, number)
    return controls, plain


def _model(model: Tree, controls: Mapping[str, int], alphabet: Alphabet, *, unusable: set[str], where: Path) -> Tree:
    """Return a model in which special tokens have the names of markers, and no merge makes one of them."""
    names = {name: alphabet.marked(name) for name in controls}
    plain = {marked: name for name, marked in names.items()}
    if model["type"] == "Unigram":
        pieces = [[names.get(name, name), score] for name, score in model["vocab"]]
        unknown = pieces[model["unk_id"]][0]
        if plain.get(unknown) in unusable:
            raise DataError(f"{where}: {plain[unknown]} is a marker, and also stands for unknown characters")
        return model | {"vocab": pieces}
    vocab = {names.get(name, name): number for name, number in model["vocab"].items()}
    size = max(vocab.values(), default=-1)
    vocab |= {names[name]: number for name, number in controls.items() if number <= size}
    unknown = names.get(model.get("unk_token") or "", model.get("unk_token"))
    changed = {
        "dropout": None,
        "unk_token": None if plain.get(unknown or "") in unusable else unknown,
        "vocab": vocab,
        "merges": [merge for merge in model.get("merges", []) if not {*_parts(merge)} & controls.keys()],
    }
    return model | changed


def _parts(merge: str | list[str]) -> tuple[str, str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second, first + second


def _normalizer(tree: Tree, alphabet: Alphabet, *, is_own: bool) -> Tree:
    steps = list(components(tree.get("normalizer")))
    lead, escape = alphabet
    restore = {"type": "Replace", "pattern": {"String": lead + escape}, "content": lead}
    return {"type": "Sequence", "normalizers": [restore, *(steps[1:] if is_own else steps)]}


def _pre_tokenizer(tree: Tree, alphabet: Alphabet, *, has_plain: bool) -> Tree | None:
    """Return a pre-tokenizer that treats each text between two markers as it treats a whole text.

    If it works with bytes, no piece can have LEAD; if not, LEAD is cut out, so that no marker's name is found.
    """
    steps = list(components(tree.get("pre_tokenizer")))
    if not has_plain:
        steps = [
            step | {"prepend_scheme": "always"} if step.get("prepend_scheme") == "first" else step for step in steps
        ]
    cut = {"type": "Split", "pattern": {"String": alphabet.lead}, "behavior": "Isolated", "invert": False}
    if cut not in steps and all(step["type"] != "ByteLevel" for step in steps):
        steps.append(cut)
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _post_processor(document: str, number: int) -> Tree:
    marker, second = ({"SpecialToken": {"id": document, "type_id": place}} for place in (0, 1))
    text, other = ({"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [marker, text],
        "pair": [marker, text, second, other],
        "special_tokens": {document: {"id": document, "ids": [number], "tokens": [document]}},
    }


def _without(model: Tree, controls: set[str], plain: Mapping[str, int]) -> Tree:
    """Return a model without special tokens, whose vocabulary has the other added tokens under their ids."""
    if model["type"] == "BPE":
        gone = controls - {model.get("unk_token")}
        kept = {name: number for name, number in model["vocab"].items() if name not in gone}
        return model | {"vocab": {**kept, **plain}}
    pieces = [["" if name in controls else name, score] for name, score in model["vocab"]]  # "" is found nowhere
    lowest = min((score for _, score in pieces), default=0.0)
    for name, number in plain.items():
        pieces += [["", lowest] for _ in range(number + 1 - len(pieces))]
        pieces[number] = [name, pieces[number][1]]
    return model | {"vocab": pieces}
