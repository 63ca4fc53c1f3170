"""Take the tokenizer of a Hugging Face model: the wiring.

tokenizer.json -> checked              ids without gaps, a model that gives texts back, regular expressions that compile
               -> our form             names of special tokens that no text spells; our markers behind the last id
               -> compared             ids are those of the file; which texts come back changed is counted
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
from ibidem.tokenization.json_file import Tree, checked, read_json
from ibidem.tokenization.sentencepiece_codec import SentencePieceCodec
from ibidem.tokenization.tokenizer import KIND, Tokenizer
from ibidem.tokenization.train_tokenizer import model_of
from ibidem.tokenization.unigram_json import exported_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

SETTINGS = "tokenizer_config.json"
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
    """Read `tokenizer.json` and `tokenizer_config.json` of a folder, and write a tokenizer; return it.

    Its ids are those of the file, and behind them one for each of our markers that the file does not have.

    Raises:
        ArtifactError: something else is at `output_dir`.
        ConfigError: a file is missing or too large, or `tokenizers` is not installed.
        DataError: a file is damaged, or the tokenizer is one that does not give texts back.
    """
    artifacts.check_replaceable(output_dir, KIND)
    path, beside = source / TOKENIZER_JSON, source / SETTINGS
    tree = checked(read_json(path), path)
    settings = read_json(beside) if beside.exists() else {}
    inputs = [Input.of_file(OUTSIDE, each) for each in (path, beside) if each.exists()]
    with one_line(path):
        found = _ours(tree) or _foreign(tree, path, begins=_begins(tree, settings))
    config = {"markers_added": list(found.markers), "texts_changed": found.fidelity.changed}
    if artifacts.finished(output_dir, kind=KIND, config=config, inputs=inputs) is None:
        with artifacts.create(output_dir, kind=KIND, config=config, inputs=inputs) as draft:
            (draft.path / found.file).write_bytes(found.content)
            draft.counts |= found.counts
        log.event("tokenizer.imported", path=str(output_dir), **found.counts)
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
    named = settings.get("bos_token")
    content = named.get("content") if isinstance(named, dict) else named
    own = document_of(tree) if alphabet_of(tree) else None
    return own or (content if isinstance(content, str) else None) or document_of(tree)


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
        kind: [codec.decode(ids, is_continued=False) for ids in codec.encode_batch(some, threads=1)]
        for kind, some in texts.items()
    }
