"""Train a sentencepiece unigram tokenizer that reproduces every byte: the wiring of the stage.

A unigram tokenizer takes the segmentation with the highest sum of scores. sentencepiece adds them in float32 and the
`tokenizers` library, which opens an export, in float64, so two segmentations that are about as good would be decided by
rounding, and not alike. The scores are therefore rounded to multiples of SCORE_STEP, as a trained model is written:

    piece          trained      written        sums of them
    "return"       -7.3185      -7.375         are multiples of 1/8: exact in float32 and float64 up to 2**24 / 8

Equal sums remain, such as 11 + 11 + 12 and 11 + 12 + 11 blanks. Of those both take the one whose last piece is longest,
then the one before it, and so on. Source code costs about 2.7 a character, so sums are exact in texts of about 800,000
characters. A character without a piece costs less than 30, so they are in any text of 69,000.
"""

import re
import string
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import sentencepiece as spm
from pydantic import Field
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from ibidem import artifacts, log
from ibidem.config import configuration, settings
from ibidem.data import shards
from ibidem.data.corpus import Corpus
from ibidem.errors import ConfigError, DataError
from ibidem.figures import NOT_MEASURED, percent
from ibidem.places import AnyPlace
from ibidem.records import TOKENIZER_FILE
from ibidem.tokenization import special
from ibidem.tokenization.sentencepiece_codec import BLANK, NEWLINE, SentencePieceCodec, has_carrier, to_model
from ibidem.tokenization.tokenizer import KIND, Tokenizer

CHUNK_CHARS = 2_000  # a line of the training corpus
LONGEST_LINE_BYTES = 1 << 16  # the trainer silently skips longer ones; chunks stay far below
TRAINER_THREADS = 16  # the order of summation depends on it, so it is the same on every machine
REQUIRED_CHARS = NEWLINE + BLANK + "\t" + string.digits + string.ascii_letters + string.punctuation
_TOO_SMALL = re.compile(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)")
NORMAL_PIECE, CONTROL_PIECE = 1, 3  # of SentencePiece.Type
SCORE_STEP = 1 / 8
"""Of what all scores are multiples."""


@configuration
class TrainTokenizerConfig:
    """Train a tokenizer on a preprocessed dataset, .txt or .jsonl files."""

    input: AnyPlace
    """A preprocessed dataset, a .parquet, .jsonl or .txt file, or a folder of them: a path, or its URL at a store."""
    output_dir: Path
    """Folder of the new tokenizer."""
    vocab_size: Annotated[int, Field(ge=special.SMALLEST_VOCABULARY, le=1 << 20)] = 65_536
    """Number of ids, including special tokens and byte pieces; ids that the corpus cannot fill are reserved."""
    column: str = "text"
    """The column that holds the text."""
    max_corpus_bytes: Annotated[int, Field(ge=1)] = 200_000_000
    """Approximate maximum amount of training text, chosen by document hash from the whole corpus."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the documents held out of training, to check that they are reproduced byte for byte."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 0.9999
    """Share of the characters that get a piece of their own, at least 0.98; the others are spelled in bytes."""
    max_piece_chars: Annotated[int, Field(ge=1, le=64)] = 16
    """Maximum length of a piece, in characters."""


def train_tokenizer(config: TrainTokenizerConfig) -> str:
    """Train, pad to the requested size, check the round trip of every held-out document; return a summary.

    Raises:
        ConfigError: the input does not exist, or the vocabulary is too small for the characters of the corpus.
        DataError: there is no text to train on.
    """
    corpus = Corpus.open(config.input, config.column)
    source = corpus.as_input("corpus", of=config.output_dir)
    artifacts.check_replaceable(config.output_dir, KIND)
    chosen = settings(config)
    tokenizer = artifacts.finished(config.output_dir, kind=KIND, config=chosen, inputs=[source])
    if tokenizer is None:
        with (
            artifacts.create(config.output_dir, kind=KIND, config=chosen, inputs=[source]) as draft,
            tempfile.TemporaryDirectory(prefix="ibidem-") as scratch,
        ):
            lines, held_out = Path(scratch, "corpus.txt"), Path(scratch, "held-out")
            held_out.mkdir()
            draft.counts |= _write_lines(config, corpus, lines, held_out)
            model = _train(config, lines)
            _round_scores(model)
            draft.counts |= _pad(model, config.vocab_size)
            _save(model, draft.path)
            draft.counts |= _check(model, sorted(held_out.iterdir()))
        tokenizer = artifacts.load(config.output_dir, kind=KIND)
        log.event("tokenizer.finished", path=str(config.output_dir), **tokenizer.counts)
    return summary(tokenizer)


def summary(tokenizer: artifacts.Artifact) -> str:
    """Summarize a tokenizer's size and quality in one line."""
    counts = tokenizer.counts
    measured = f"{NOT_MEASURED}: no document was held out"
    if counts["held_out"]:
        byte_pieces = percent(counts["byte_pieces_share"], digits=1)
        measured = f"{counts['bytes_per_token']:.2f}, {byte_pieces} byte pieces"
    return (
        f"{tokenizer.path}: {counts['vocab_size']:,} ids ({counts['learned']:,} learned, "
        f"{special.SMALLEST_VOCABULARY} bytes and special tokens, {counts['reserved']:,} reserved), "
        f"bytes per token {measured}; "
        f"round trip of held-out documents: {counts['round_trips']:,} of {counts['held_out']:,}"
        + (f"; broken: {', '.join(counts['broken'][:5])}" if counts["broken"] else "")
    )


def _write_lines(config: TrainTokenizerConfig, corpus: Corpus, lines: Path, held_out: Path) -> dict[str, int]:
    """Write the training text, one chunk per line, and the held-out documents as files of their own."""
    trained = trained_bytes = unused = 0
    share = config.max_corpus_bytes / max(corpus.num_bytes(), 1)
    with lines.open("w", encoding="utf-8") as file, log.progress("tokenizer.corpus", None, "documents") as bar:
        for number, (sha256, text) in enumerate(corpus.documents()):
            bar.advance()
            if shards.is_held_out(sha256, config.held_out_share):
                (held_out / f"{number:09d}-{sha256}").write_text(text, encoding="utf-8", newline="")
            elif has_carrier(text) or "\0" in text or not is_chosen(sha256, share):
                unused += 1
            else:
                trained += 1
                trained_bytes += len(text.encode())
                file.writelines(f"{to_model(chunk)}\n" for chunk in chunks(text, CHUNK_CHARS))
    if trained_bytes == 0:
        raise DataError(f"input {config.input}: no text to train on")
    return {"trained": trained, "trained_bytes": trained_bytes, "not_trained": unused}


def is_chosen(sha256: str, share: float) -> bool:
    """Return whether a document is trained on, by other digits of its hash than `is_held_out` uses.

    >>> is_chosen("ff" * 4 + "00" * 28, 0.1), is_chosen("00" * 4 + "ff" * 28, 0.1)
    (True, False)
    """
    return int(sha256[8:16], 16) < share * 16**8


def chunks(text: str, size: int) -> Iterator[str]:
    r"""Cut a text into pieces of at most `size` characters, after a newline where there is one.

    >>> list(chunks("ab\ncd\nef", 4))
    ['ab\n', 'cd\n', 'ef']
    """
    start = 0
    while start < len(text):
        end = start + size
        newline = text.rfind("\n", start, end)
        end = newline + 1 if newline > start and end < len(text) else min(end, len(text))
        yield text[start:end]
        start = end


def _train(config: TrainTokenizerConfig, lines: Path) -> Any:
    """Run the trainer; return the model as a protocol buffer."""
    with tempfile.TemporaryDirectory(prefix="ibidem-") as scratch, log.progress("tokenizer.train", 1, "model") as bar:
        rules, back = _rules(Path(scratch))
        try:
            spm.SentencePieceTrainer.train(
                input=str(lines),
                model_prefix=f"{scratch}/tokenizer",
                model_type="unigram",
                vocab_size=config.vocab_size,
                hard_vocab_limit=False,
                character_coverage=config.character_coverage,
                required_chars=REQUIRED_CHARS,
                max_sentencepiece_length=config.max_piece_chars,
                max_sentence_length=LONGEST_LINE_BYTES,
                normalization_rule_tsv=str(rules),
                denormalization_rule_tsv=str(back),
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_digits=True,
                byte_fallback=True,
                control_symbols=list(special.CONTROL),
                unk_id=0,
                unk_piece=special.UNKNOWN,
                bos_id=-1,
                eos_id=1,
                eos_piece=special.DOCUMENT,
                pad_id=2,
                pad_piece=special.PAD,
                train_extremely_large_corpus=lines.stat().st_size > 1 << 30,
                num_threads=TRAINER_THREADS,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise ConfigError(_failure(" ".join(str(error).split()), config)) from None
        bar.advance()
        proto = model_pb2.ModelProto()  # type: ignore[attr-defined]
        proto.ParseFromString(Path(f"{scratch}/tokenizer.model").read_bytes())
        # paths of temporary files are dropped, so that the same corpus yields the same bytes
        del proto.trainer_spec.input[:]
        proto.trainer_spec.ClearField("model_prefix")
        proto.normalizer_spec.ClearField("normalization_rule_tsv")
        proto.denormalizer_spec.ClearField("normalization_rule_tsv")
        return proto


def _failure(reason: str, config: TrainTokenizerConfig) -> str:
    """Say what to do about a failure of the trainer."""
    found = _TOO_SMALL.search(reason)
    if found is None:
        return f"vocab_size {config.vocab_size}: the trainer failed: {reason.rpartition('] ')[2] or reason}"
    needed, always = int(found[1]), special.SMALLEST_VOCABULARY + len(REQUIRED_CHARS) + 1  # its blank
    if needed <= always:
        what = "the letters, digits, punctuation, bytes and special tokens alone need"
        return f"--vocab-size {config.vocab_size}: {what} {needed:,}; give --vocab-size {needed} or more"
    return (
        f"--vocab-size {config.vocab_size}: with character_coverage {config.character_coverage:g} each of the corpus's "
        f"characters gets a piece, which needs {needed:,} ids; give --vocab-size {needed} or more, or a lower "
        "--character-coverage, so that rare characters are spelled in bytes"
    )


def _rules(folder: Path) -> tuple[Path, Path]:
    """Write the rules of the two carriers, in and out, as hexadecimal code points."""
    pairs = [("\n", NEWLINE), ("\u2581", BLANK)]
    rules, back = folder / "rules.tsv", folder / "back.tsv"
    rules.write_text("".join(f"{ord(outside):X}\t{ord(inside):X}\n" for outside, inside in pairs), encoding="ascii")
    back.write_text("".join(f"{ord(inside):X}\t{ord(outside):X}\n" for outside, inside in pairs), encoding="ascii")
    return rules, back


def _round_scores(model: Any) -> None:
    """Round every score to a multiple of SCORE_STEP; the pieces and their order stay."""
    for piece in model.pieces:
        piece.score = round(piece.score / SCORE_STEP) * SCORE_STEP


def has_exact_sums(scores: Iterable[float]) -> bool:
    """Return whether the sums of scores are the same in float32 and float64.

    >>> has_exact_sums([0.0, -7.375]), has_exact_sums([0.0, -7.3185])
    (True, False)
    """
    return all((score / SCORE_STEP).is_integer() for score in scores)


def _pad(model: Any, vocab_size: int) -> dict[str, int]:
    """Reserve the ids that the corpus could not fill, so that the model has exactly the requested size."""
    learned = len(model.pieces) - special.SMALLEST_VOCABULARY
    missing = vocab_size - len(model.pieces)
    for number in range(missing):
        model.pieces.add(piece=special.reserved(number), score=0.0, type=CONTROL_PIECE)
    if missing > 0:
        log.event("tokenizer.padded", learned=learned, reserved=missing, vocab_size=vocab_size)
    return {"vocab_size": len(model.pieces), "learned": learned, "reserved": max(missing, 0)}


def _save(model: Any, folder: Path) -> None:
    (folder / TOKENIZER_FILE).write_bytes(model.SerializeToString(deterministic=True))
    vocabulary = "".join(f"{piece.piece}\t{piece.score:.6g}\n" for piece in model.pieces)
    (folder / "tokenizer.vocab").write_text(vocabulary, encoding="utf-8")


def _check(model: Any, paths: Sequence[Path]) -> dict[str, Any]:
    """Encode and decode every held-out document; return the counts, and the documents that are not reproduced."""
    tokenizer = Tokenizer(SentencePieceCodec(model.SerializeToString()), digest="")
    broken, num_tokens, num_bytes, num_byte_pieces = [], 0, 0, 0
    with log.progress("tokenizer.check", len(paths), "documents") as bar:
        for path in paths:
            text = path.read_bytes().decode()
            ids = tokenizer.encode(text)
            if tokenizer.decode(ids) != text:
                broken.append(path.name.partition("-")[2])
                log.event("tokenizer.broken", sha256=broken[-1])
            num_tokens += len(ids)
            num_bytes += len(text.encode())
            num_byte_pieces += sum(tokenizer.is_byte(number) for number in ids)
            bar.advance()
    return {
        "held_out": len(paths),
        "round_trips": len(paths) - len(broken),
        "broken": broken,
        "bytes_per_token": round(num_bytes / max(num_tokens, 1), 4),
        "byte_pieces_share": round(num_byte_pieces / max(num_tokens, 1), 6),
    }


def model_of(pieces: Sequence[tuple[str, float, int]]) -> bytes:
    """Return a model with these texts, scores and types of pieces: a tokenizer that comes back from an export."""
    with tempfile.TemporaryDirectory(prefix="ibidem-") as scratch:
        text = Path(scratch, "text")
        text.write_text(REQUIRED_CHARS, encoding="utf-8")
        size = special.SMALLEST_VOCABULARY + len(REQUIRED_CHARS) + 1  # its blank
        model = _train(TrainTokenizerConfig(input=text, output_dir=text, vocab_size=size), text)
    del model.pieces[:]
    for piece, score, kind in pieces:
        name = to_model(piece).replace(" ", "\u2581") if kind == NORMAL_PIECE else piece
        model.pieces.add(piece=name, score=score, type=kind)
    return bytes(model.SerializeToString(deterministic=True))
