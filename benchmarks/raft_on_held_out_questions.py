"""Whether RA-FT teaches a small model to answer from documents that it has never seen.

A document says what is kept at a place: "buffer index: mabot kirus." Places are random pairs of words, and what is kept
there is a random pair of names of one kind, so that only the passage tells: a guess is right once in 144. A question
names place and kind: "Which stone is at buffer index?" A model is tuned as one principal on the documents of a folder,
and asked as another about those of a second one, which it was never trained on. A third of the questions are about
places that no document has. `ibidem evaluate doc-qa` retrieves the passages, with documents about one of the two words
among them, and judges.

The model before has only read random phrases of these words, which a text says three times in other orders: it repeats
what it has seen, but knows no question, document or answer.

    raft               4 passages, 1 in 5 questions without the oracle, citations by number
    neither            the oracle alone, no citations
    shuffled oracles   the control: as raft, but each question with the passage that answers another one

Wanted, for the same steps, paired over the questions of 3 seeds: citation coverage, exact match and abstentions on
unanswerable questions rise against `neither` (lower bounds > 0); with shuffled oracles exact match rises by at most 2
points over the model before (upper bound). Coverage counts any passage; how often the cited one supports the answer is
`recall`. The run takes a quarter of an hour of one core.

    OMP_NUM_THREADS=1 python benchmarks/raft_on_held_out_questions.py benchmarks/results/raft_on_held_out_questions.json
"""

import itertools
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ibidem.config import build
from ibidem.data.dedup import DedupPolicy
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.evaluation.config import DocQaConfig
from ibidem.evaluation.doc_qa import TASK, doc_qa
from ibidem.evaluation.evidence import read
from ibidem.grounding import training_set
from ibidem.grounding.access import YamlPermissions
from ibidem.grounding.index import Index
from ibidem.grounding.store import Chunk, Indexed, Span
from ibidem.runs import newest
from ibidem.signatures import secret_key
from ibidem.statistics import bootstrap_lower_bound, upper_bound
from ibidem.tokenization.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from ibidem.training.config import TrainConfig
from ibidem.training.raft import run
from ibidem.training.rlhf.config import RaftConfig
from ibidem.training.train import train

SEEDS = (0, 1, 2)
STEPS, BATCH, DISTRACTORS = 800, 16, 3
PRETRAINING_STEPS, TEXTS = 600, 9000
SHAPE = {
    "vocab_size": 1024, "width": 64, "layers": 2, "heads": 4, "ffn_hidden": 128, "context": 384, "rope_theta": 500.0
}  # fmt: skip
OPTIM: dict[str, Any] = {"name": "muon", "lr": 1e-2, "matrix_lr": 4e-3, "floor": 0.0}
SEEN, UNSEEN, NOWHERE = 2400, 250, 125
METRICS = {
    "coverage": "citation_coverage", "exact": "exact_match", "abstains": "abstentions.unanswerable",
    "recall": "citation_recall", "abstains_wrongly": "abstentions.answerable",
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "raft": {"cite": "number"},
    "neither": {"cite": "nothing", "distractors": 0},
    "shuffled oracles": {"cite": "number"},
}
WORDS = """
value index buffer result token path count node key list file name type line data string function class error test
object table event model state input output field group image source option version request response server client
thread process message parser number column page user time date text block frame layer label filter graph query
apple bridge candle desert engine forest garden hammer island jacket kettle ladder mirror needle orange pencil quarry
ribbon saddle temple umbrella valley window yellow anchor basket carpet dragon eagle feather guitar harbor insect jungle
kitchen lantern marble notebook ocean palace rabbit silver tunnel violin
"""
KINDS = ("tree", "stone", "river", "cloud", "bird", "metal", "spice", "tool")
LETTERS = ("bcdfghjklmnprstvwz", "aeiou")
NAMES = random.Random(0).sample(["".join(each) for each in itertools.product(*(LETTERS * 3)[:5])], 192)
ASKED = ("Which {} is at {}?", "What {} is kept at {}?", "Tell me the {} of {}.")
FRAME = "Answer from the passages alone, and cite them. If they do not answer it, say: I don't know.\nQuestion: "
ACL = """
rules:
  - {path: "seen/**", read: [trainer, tester]}
  - {path: "unseen/**", read: [tester]}
principals: [trainer, tester]
"""

Scores = Mapping[str, float]
"""By seed and question."""


class Fact(NamedTuple):
    """A place, and what is kept there."""

    place: str
    kind: str
    kept: str

    @property
    def text(self) -> str:
        """Return its document."""
        return f"{self.place}: {self.kept}."


def random_fact(place: str, rng: random.Random) -> Fact:
    """Return what is kept at a place: of a kind that follows from its words, so that similar places differ in kind."""
    words = WORDS.split()
    number = sum(map(words.index, place.split())) % len(KINDS)
    first, second = NAMES[2 * number :: 2 * len(KINDS)], NAMES[2 * number + 1 :: 2 * len(KINDS)]
    return Fact(place, KINDS[number], f"{rng.choice(first)} {rng.choice(second)}")


def places(rng: random.Random, number: int) -> list[str]:
    """Return random places, each of other words."""
    pairs = rng.sample(list(itertools.combinations(WORDS.split(), 2)), number)
    return [" ".join(rng.sample(pair, 2)) for pair in pairs]


class World(NamedTuple):
    """Documents in an index, and questions about them."""

    index: Path
    seen: Path
    """Questions to learn from."""
    unseen: Path
    """Questions to measure with."""


def base(folder: Path) -> Path:
    """Return a checkpoint that knows words, and that a text repeats itself."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    (folder / "shape.json").write_text(json.dumps(SHAPE))
    lists = dataset(folder / "lists", [spoken(rng.choices(vocabulary(), k=60), rng) for _ in range(3000)])
    texts = dataset(folder / "texts", [repetitive(rng) for _ in range(TEXTS)])
    train_tokenizer(TrainTokenizerConfig(input=lists, output_dir=folder / "tokenizer", vocab_size=SHAPE["vocab_size"]))
    settings = {
        "model": folder / "shape.json", "output_dir": folder / "run",
        "data": {"dataset": texts, "tokenizer": folder / "tokenizer", "context": 256},
        "training": {"steps": PRETRAINING_STEPS, "batch_sequences": 4, "micro_batch_sequences": 4},
        "optim": OPTIM, "validation": {"every": PRETRAINING_STEPS, "prompts": []}, "checkpoints": {"every": 10_000},
    }  # fmt: skip
    train(build(TrainConfig, settings))
    return newest(folder / "run")


def dataset(folder: Path, texts: Sequence[str]) -> Path:
    """Preprocess texts; return the folder of the dataset."""
    folder.mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    preprocess(
        PreprocessConfig(
            dataset=(f"{folder}/corpus.jsonl:train:text",), output_dir=folder / "data", dedup=DedupPolicy(near=False),
            skip=("natural_languages", "filters"),
        )
    )  # fmt: skip
    return folder / "data"


def vocabulary() -> list[str]:
    """Return all words of documents and questions."""
    asked = [word.strip(".,:?") for word in f"{FRAME} {' '.join(ASKED)} I don't know".replace("{}", "").split()]
    return [*WORDS.split(), *NAMES, *KINDS, *filter(None, asked)]


def spoken(words: Sequence[str], rng: random.Random) -> str:
    """Return words with signs and blanks behind them."""
    return "".join(word + rng.choice(["", "", ".", ":", ",", "?"]) + rng.choice("  \n") for word in words)


def repetitive(rng: random.Random) -> str:
    """Return random phrases of few words, three times, in another order each time."""
    words = rng.choices(vocabulary(), k=10)
    phrases = [" ".join(rng.sample(words, rng.randint(2, 5))) + rng.choice(".:,?") for _ in range(5)]
    return "".join(phrase + rng.choice(" \n") for _ in range(3) for phrase in rng.sample(phrases, len(phrases)))


def world(folder: Path, seed: int) -> World:
    """Write an index and the questions."""
    rng = random.Random(seed)
    facts = [random_fact(place, rng) for place in places(rng, SEEN + UNSEEN + NOWHERE)]
    seen, unseen, nowhere = facts[:SEEN], facts[SEEN : SEEN + UNSEEN], facts[SEEN + UNSEEN :]
    folder.mkdir(parents=True)
    (folder / "acl.yaml").write_text(ACL)
    documents = [
        Indexed(f"{name}/{number:04}.md", fact.text, (Span((), 0, len(fact.text)),))
        for name, group in (("seen", seen), ("unseen", unseen))
        for number, fact in enumerate(group)
    ]
    index = Index(folder / "index", secret_key(None), acl=str(folder / "acl.yaml"))
    index.update(documents, YamlPermissions(folder / "acl.yaml").current())
    learned = questions(seen, "seen", rng)
    asked = [*questions(unseen, "unseen", rng), *({**row, "answers": []} for row in questions(nowhere, "none", rng))]
    files = []
    for name, rows in (("learned", learned), ("asked", asked)):
        files.append(folder / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return World(folder / "index", *files)


def questions(facts: Sequence[Fact], folder: str, rng: random.Random) -> list[dict[str, Any]]:
    """Return a question about each fact."""
    return [
        {
            "id": f"{folder}-{number}",
            "question": rng.choice(ASKED).format(fact.kind, fact.place),
            "answers": [fact.kept],
            "documents": [f"{folder}/{number:04}.md"],
        }
        for number, fact in enumerate(facts)
    ]


def tune(initial: Path, made: World, folder: Path, seed: int, name: str) -> float:
    """Train a variant; return the CPU-seconds."""
    examples = {"distractors": DISTRACTORS, "quote": False, **VARIANTS[name]}
    settings = {
        "initial": initial, "index": made.index, "principal": "trainer", "questions": made.seen, "output_dir": folder,
        "examples": examples, "held_out_share": 0.0,
        "training": {"steps": STEPS, "batch_sequences": BATCH, "micro_batch_sequences": BATCH, "seed": seed},
        "optim": OPTIM, "validation": {"every": STEPS, "samples": 0}, "checkpoints": {"every": STEPS},
    }  # fmt: skip
    before, of_file = time.process_time(), training_set._of_file
    if name == "shuffled oracles":
        training_set._of_file = lambda path: shuffled(of_file(path), made.index, seed)
    try:
        run(build(RaftConfig, settings))
    finally:
        training_set._of_file = of_file
    return time.process_time() - before


def shuffled(asked: Sequence[training_set.Asked], index: Path, seed: int) -> list[training_set.Asked]:
    """Give each question the passage that answers another one; the answers stay."""
    rules = YamlPermissions(index.parent / "acl.yaml").current()
    chunks = {chunk.path: chunk for chunk in Index.open(index, secret_key(None)).everything("trainer", rules)}
    oracles: list[Chunk] = [chunks[each.documents[0]] for each in asked]
    random.Random(seed).shuffle(oracles)
    return [each._replace(oracle=oracle) for each, oracle in zip(asked, oracles, strict=True)]


def measure(checkpoint: Path, made: World, folder: Path, seed: int) -> dict[str, Scores]:
    """Return the score of each question, by metric."""
    about = {"checkpoint": checkpoint, "data": made.unseen, "index": made.index, "principal": "tester"}
    doc_qa(build(DocQaConfig, {**about, "output_dir": folder, "k": DISTRACTORS + 1, "max_tokens": 16}))
    evaluation = read(folder)
    return {
        short: {f"{seed} {key}": score for key, score in (TASK.trials(evaluation.items, metric) or {}).items()}
        for short, metric in METRICS.items()
    }


def mean(scores: Scores) -> float:
    """Return the mean."""
    return sum(scores.values()) / len(scores)


def gain(one: Scores, other: Scores) -> dict[str, float]:
    """Return the mean of the paired differences with its 95 % bounds, in points; over what both have a score of.

    An abstention from a question without an answer makes no claim, and has no citation coverage.
    """
    differences = [100 * (one[key] - other[key]) for key in one.keys() & other.keys()]
    bounds = (
        bootstrap_lower_bound(differences, seed=0),
        -bootstrap_lower_bound([-each for each in differences], seed=0),
    )
    return {"points": round(sum(differences) / len(differences), 1), "lower_95": round(bounds[0], 1),
            "upper_95": round(bounds[1], 1)}  # fmt: skip


def table(scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, Any]:
    """Return the means of each variant, and the gains that are wanted."""
    means = {name: {short: round(mean(each), 3) for short, each in of.items()} for name, of in scores.items()}
    against = {
        name: {short: gain(scores["raft"][short], scores[name][short]) for short in METRICS}
        for name in ("neither", "before")
    }
    control = scores["shuffled oracles"]["exact"]
    shuffled_gain = gain(control, scores["before"]["exact"])
    exact = {"right": int(sum(control.values())), "of": len(control)}
    shuffled_gain["exact_upper_95"] = round(100 * upper_bound(exact["right"], exact["of"]), 1)
    return {"means": means, "raft_against": against, "shuffled_oracles_against_before": {**shuffled_gain, **exact}}


def result(scores: Mapping[str, Mapping[str, Scores]], rows: Sequence[Mapping[str, Any]], seeds: int) -> dict[str, Any]:
    """Return what is written."""
    return {
        "command": "python benchmarks/raft_on_held_out_questions.py RESULT",
        "machine": platform.machine(), "torch": version("torch"), "seeds": seeds,
        "steps": STEPS, "batch": BATCH, "distractors": DISTRACTORS, "optim": OPTIM, "shape": SHAPE,
        "pretraining_steps": PRETRAINING_STEPS, "learned": SEEN, "asked": UNSEEN, "asked_without_answer": NOWHERE,
        **table(scores), "rows": rows,
    }  # fmt: skip


def main() -> None:
    """Measure every variant, and write the result after each seed."""
    output = Path(sys.argv[1])
    scores: dict[str, dict[str, dict[str, float]]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        initial = base(Path(folder) / "base")
        for seed in SEEDS:
            made = world(Path(folder) / f"world-{seed}", seed)
            for name in ("before", *VARIANTS):
                place = Path(folder) / f"{name.replace(' ', '-')}-{seed}"
                cpu_s = 0.0 if name == "before" else tune(initial, made, place, seed, name)
                checkpoint = initial if name == "before" else newest(place)
                found = measure(checkpoint, made, Path(folder) / f"qa-{place.name}", seed)
                for short, each in found.items():
                    scores.setdefault(name, {}).setdefault(short, {}).update(each)
                row = {"seed": seed, "variant": name, **{key: round(mean(each), 3) for key, each in found.items()}}
                rows.append({**row, "cpu_s": round(cpu_s, 1)})
                print(json.dumps(rows[-1]), flush=True)
            output.write_text(json.dumps(result(scores, rows, seed + 1), indent=1) + "\n")


if __name__ == "__main__":
    main()
