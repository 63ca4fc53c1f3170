"""Take the tokenizer of a Hugging Face model: the wiring.

tokenizer.json -> checked              ids without gaps, a model that gives texts back, regular expressions that compile
               -> our form             names of special tokens that no text spells; our markers behind the last id
               -> compared             ids are those of the file; which texts come back changed is counted
eos_token      -> end_ids              the model's own ends of a text, from all files that name some
               -> tokenizer artifact   from the digests of what was read

An export of a tokenizer of ours becomes the sentencepiece model again that it was.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibidem import artifacts, log
from ibidem.artifacts import Artifact, Input
from ibidem.errors import DataError
from ibidem.figures import counted, visible
from ibidem.records import TOKENIZER_FILE, TOKENIZER_JSON
from ibidem.tokenization import fidelity
from ibidem.tokenization.canonical import alphabet_of, canonical, document_of, plain
from ibidem.tokenization.codec import Codec
from ibidem.tokenization.fidelity import SPELLED, Fidelity
from ibidem.tokenization.json_codec import JsonCodec, library, one_line
from ibidem.tokenization.json_file import (
    CONFIG,
    GENERATION,
    TOKENIZER_CONFIG,
    Tree,
    checked,
    ids_in,
    read_json,
)
from ibidem.tokenization.sentencepiece_codec import SentencePieceCodec
from ibidem.tokenization.tokenizer import END_IDS, KIND, Tokenizer
from ibidem.tokenization.train_tokenizer import model_of
from ibidem.tokenization.unigram_json import exported_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

SETTINGS = (TOKENIZER_CONFIG, GENERATION, CONFIG)
OUTSIDE = "outside"
"""Role of the files that were read: no artifact of ours."""
MOST_NAMES = 100
"""Of special tokens that are tried as texts."""
_SHOWN = 40


@dataclass(frozen=True)
class _Found:
    """What will be written."""

    file: str
    content: bytes
    codec: SentencePieceCodec | JsonCodec
    markers: Sequence[str]
    """Those that were added."""
    fidelity: Fidelity

    @property
    def counts(self) -> dict[str, Any]:
        changed = self.fidelity.num_changed
        about = {"markers_added": len(self.markers), "texts": self.fidelity.texts, "texts_changed": changed}
        return {"vocab_size": self.codec.vocab_size, **about}


def import_tokenizer(source: Path, output_dir: Path) -> Tokenizer:
    """Read `tokenizer.json` of a folder and the settings beside it, and write a tokenizer; return it.

    Its ids are those of the file, and behind them one for each of our markers that the file does not have.

    Raises:
        ArtifactError: something else is at `output_dir`.
        ConfigError: a file is missing or too large, or `tokenizers` is not installed.
        DataError: a file is damaged, or the tokenizer is one that does not give texts back.
    """
    artifacts.check_replaceable(output_dir, KIND)
    path = source / TOKENIZER_JSON
    tree = checked(read_json(path), path)
    beside = [each for each in (source / name for name in SETTINGS) if each.exists()]
    settings = {each: read_json(each) for each in beside}
    inputs = [Input.of_file(OUTSIDE, each) for each in (path, *beside)]
    with one_line(path):
        found = _ours(tree) or _foreign(tree, path, begins=_begins(tree, settings.get(source / TOKENIZER_CONFIG, {})))
    ends = _ends(settings, found.codec)
    config = {"markers_added": list(found.markers), "texts_changed": found.fidelity.changed, END_IDS: ends}
    if artifacts.finished(output_dir, kind=KIND, config=config, inputs=inputs) is None:
        with artifacts.create(output_dir, kind=KIND, config=config, inputs=inputs) as draft:
            (draft.path / found.file).write_bytes(found.content)
            draft.counts |= found.counts
        log.event("tokenizer.imported", path=str(path), **found.counts)
    return Tokenizer.load(output_dir)


def summary(tokenizer: Artifact) -> str:
    """Summarize what was imported in one line, with the texts that come back changed."""
    counts, changed = tokenizer.counts, tokenizer.config["texts_changed"]
    kinds = ", ".join(f"{kind} {number}" for kind, number in changed.items())
    back = f"{counts['texts_changed']} of {counts['texts']} trial texts come back changed ({kinds})"
    return f"{counts['vocab_size']:,} ids, {counted(counts['markers_added'], 'marker')} of them added; " + (
        back if changed else f"all of {counts['texts']} trial texts come back byte for byte"
    )


def _begins(tree: Tree, settings: Tree) -> str | None:
    """Return the name of the token with which the model expects a document to begin."""
    own = document_of(tree) if alphabet_of(tree) else None
    return own or _named(settings, "bos_token") or document_of(tree)


def _ends(settings: Mapping[Path, Tree], codec: Codec) -> list[int]:
    """Return the ids with which the model ends a text; one that stands for a text is none."""
    found = set[int | None]()
    for path, tree in settings.items():
        found |= {codec.special_id(_named(tree, "eos_token") or ""), *ids_in(tree, "eos_token_id", path)}
    texts_of_V = codec.texts_of_V
    return sorted(each for each in found if each is not None and each < len(texts_of_V) and not texts_of_V[each])


def _named(settings: Tree, key: str) -> str | None:
    """Return the name of a token in `tokenizer_config.json`, which may be in an object with its flags."""
    named = settings.get(key)
    content = named.get("content") if isinstance(named, dict) else named
    return content if isinstance(content, str) else None


def _ours(tree: Tree) -> _Found | None:
    """Return the sentencepiece model that was exported; None if it is no export of one."""
    pieces = exported_pieces(tree)
    if pieces is None:
        return None
    codec = SentencePieceCodec(model_of(list(zip(*pieces, strict=True))))
    texts = fidelity.probes(pieces.special[:MOST_NAMES])
    return _Found(TOKENIZER_FILE, codec.model_bytes, codec, (), fidelity.compare(texts, _back(codec, texts)))


def _foreign(tree: Tree, path: Path, *, begins: str | None) -> _Found:
    """Return any other tokenizer in our form, after comparing it with what was read."""
    theirs = library(json.dumps(plain(tree)), path)
    written = canonical(tree, path, begins=begins)
    content = written.text.encode()
    codec = JsonCodec(content, path)
    texts = fidelity.probes(list(codec.controls)[:MOST_NAMES])
    _check_ids(codec, theirs, {kind: texts[kind] for kind in texts if kind != SPELLED}, path)
    _check_export(codec, library(written.text, path), texts, path)
    return _Found(TOKENIZER_JSON, content, codec, written.markers, fidelity.compare(texts, _back(codec, texts)))


def _check_ids(codec: JsonCodec, theirs: "Library", texts: Mapping[str, Sequence[str]], path: Path) -> None:
    """Refuse a tokenizer whose ids we would change."""
    for text in chain.from_iterable(texts.values()):
        ids, expected = codec.encode(text), theirs.encode(text, add_special_tokens=False).ids
        if ids != expected:
            raise DataError(f"{path}: '{visible(text[:_SHOWN])}' has the ids {expected[:8]}, and would have {ids[:8]}")


def _check_export(codec: JsonCodec, exported: "Library", texts: Mapping[str, Sequence[str]], path: Path) -> None:
    """Refuse a tokenizer that other programs would read in another way than we do."""
    for text in chain.from_iterable(texts.values()):
        ids, again = codec.encode(text), exported.encode(text, add_special_tokens=False).ids
        if again != ids:
            raise DataError(f"{path}: '{visible(text[:_SHOWN])}' has the ids {ids[:8]}, and exported {again[:8]}")
        back, theirs = codec.decode(ids, is_continued=False), exported.decode(ids, skip_special_tokens=True)
        if back != theirs:
            raise DataError(
                f"{path}: its decoder is not understood: '{visible(theirs[:_SHOWN])}', not '{visible(back[:_SHOWN])}'"
            )


def _back(codec: Codec, texts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return what texts become that are encoded and decoded."""
    return {
        kind: [codec.decode(ids.tolist(), is_continued=False) for ids in codec.encode_arrays(some, threads=1)]
        for kind, some in texts.items()
    }
