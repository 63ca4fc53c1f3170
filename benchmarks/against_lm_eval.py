"""Figures of the same items beside lm-evaluation-harness: MMLU, perplexity, and pass@k, with the settings that agree.

    PEERS_PYTHON=peers/bin/python python benchmarks/against_lm_eval.py MMLU_DIR CODE_EVAL_DIR \
        benchmarks/results/against_lm_eval.json

MMLU_DIR holds the benchmark's CSV files, CODE_EVAL_DIR is `metrics/code_eval` of github.com/huggingface/evaluate, which
the harness loads for pass@k. PEERS_PYTHON has lm_eval[hf]==0.4.13.

Two models of random weights, made here with a seed: a GPT-2 with a byte-level BPE whose tokenizer adds no BOS, and a
Llama with a SentencePiece tokenizer that adds BOS. Nothing is downloaded. Both sides read float32 weights on a CPU, one
sequence at a time. Differences are in nats: per option of a question, and per document.

    letter      the harness's own task `mmlu` over the same questions: its prompts, its examples, its letters
    text        the harness's `loglikelihood` of our prompt and choices; its own `mmlu_continuation` has another prompt
    perplexity  the harness's `loglikelihood_rolling` of the same documents
    pass@k      the harness's metric of HumanEval, run on programs that pass or fail as planned
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

QUESTIONS, SHOTS, CONTEXT, SEED = 5, 1, 512, 0
REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = ("LICENSE", "README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/tutorial.md")
OUTCOMES = [(1, 0), (1, 1), (5, 2), (10, 0), (10, 3), (20, 1), (20, 7), (20, 20)]  # samples, passes
K = (1, 5, 10)
SETTINGS = (  # ours, the harness's
    ("tokenizer", {}),
    ("always", {"add_bos_token": True}),
    ("never", {"add_bos_token": False}),
)


def main() -> None:
    if sys.argv[1] == "peer":
        peer(Path(sys.argv[2]))
        return
    mmlu_dir, code_eval, output = map(Path, sys.argv[1:])
    result = {
        "command": "PEERS_PYTHON=peers/bin/python python benchmarks/against_lm_eval.py MMLU_DIR CODE_EVAL_DIR "
        f"{sys.argv[3]}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **compare(Path(os.environ["PEERS_PYTHON"]), mmlu_dir, [REPOSITORY / name for name in DOCUMENTS], code_eval),
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def compare(
    python: Path, mmlu_dir: Path, documents: Sequence[Path], code_eval: Path | None, questions: int = QUESTIONS
) -> dict[str, Any]:
    """Measure both, and return the greatest differences."""
    texts = [path.read_text(encoding="utf-8") for path in documents]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {"gpt2": make_gpt2(folder / "gpt2", texts), "llama": make_llama(folder / "llama", texts)}
        subjects = read_subjects(mmlu_dir, questions)
        job = {
            "models": {name: str(path) for name, path in models.items()},
            "subjects": {subject: write_subject(folder / subject, *parts) for subject, parts in subjects.items()},
            "texts": texts,
            "pairs": list(pairs(subjects)),
            "code_eval": str(code_eval.resolve()) if code_eval else None,
        }
        (folder / "job.json").write_text(json.dumps(job))
        theirs = run_peer(python, folder / "job.json")
        found = {name: compare_model(path, subjects, texts, theirs["models"][name]) for name, path in models.items()}
    return {
        "versions": {
            "lm_eval": theirs["lm_eval"],
            **{name: metadata.version(name) for name in ("ibidem", "transformers", "torch")},
        },
        "questions": sum(len(tests) for tests, _ in subjects.values()),
        "shots": SHOTS,
        "context": CONTEXT,
        "documents": len(texts),
        "models": found,
        "pass_at_k": compare_pass_at_k(theirs["pass_at_k"]),
    }


def compare_model(path: Path, subjects: dict[str, Any], texts: Sequence[str], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the greatest differences of one model in nats: by task, the harness's softmax_dtype, and settings."""
    from ibidem.evaluation.mmlu import answer
    from ibidem.evaluation.perplexity import figures, score
    from ibidem.inference.models import open_model

    model = open_model(path)
    found: dict[str, Any] = {"letter": {}, "text": {}, "perplexity": {}}
    for bos, harness in SETTINGS:
        key = f"bos {bos} = {said(harness)}"
        for scoring in ("letter", "text"):
            rows = [
                answer(model, question, examples, scoring, bos)
                for tests, examples in subjects.values()
                for question in tests
            ]
            ours = [nats for row in rows for nats in row["scores"]]
            for precision, peers in theirs[scoring][bos].items():
                found[scoring].setdefault(precision, {})[key] = greatest(ours, peers)
            if scoring == "letter":
                found["answers_that_differ"] = found.get("answers_that_differ", 0) + sum(
                    row["passed"] != bool(passed) for row, passed in zip(rows, theirs["passed"][bos], strict=True)
                )
    for last in (True, False):
        scores = [
            score(model, text, window=model.context, stride=model.context, last_is_full=last, bos="always")
            for text in texts
        ]
        for bos, harness in SETTINGS:
            for precision, peers in theirs["rolling"][bos].items():
                key = f"bos always, last_window {'full' if last else 'short'} = {said(harness)}"
                found["perplexity"].setdefault(precision, {})[key] = greatest([-each.nll for each in scores], peers)
        if last:
            ours = figures(scores, has_start=True)["bits_per_byte"]
            found["bits_per_byte"] = {"ours": ours, "harness": theirs["bits_per_byte"]["never"]}
    found["greatest_document_nats"] = round(max(each.nll for each in scores), 1)
    found["rounding_of_harness_float32"] = {
        name: max(greatest(each["float32"], each["float64"]) for each in theirs[name].values())
        for name in ("letter", "text", "rolling")
    }
    return found


def compare_pass_at_k(theirs: Sequence[Sequence[float]] | None) -> dict[str, Any] | None:
    """Return the greatest difference of the estimates from the same numbers of samples and passes."""
    from ibidem.statistics import pass_at_k

    if theirs is None:
        return None
    ours = [pass_at_k(n, c, k) for n, c in OUTCOMES for k in K if k <= n]
    return {"outcomes": OUTCOMES, "k": K, "estimates": len(ours), "greatest_difference": greatest(ours, theirs)}


def said(harness: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in harness.items()) or "harness's default"


def greatest(ours: Iterable[float], theirs: Iterable[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def read_subjects(folder: Path, count: int) -> dict[str, Any]:
    """Read the first questions of each subject, and its examples."""
    from ibidem.evaluation.subjects import find_subjects, read

    files = find_subjects(folder, [])
    return {name: (read(name, test)[:count], read(name, dev)[:SHOTS]) for name, (test, dev) in files.items() if dev}


def write_subject(folder: Path, tests: Sequence[Any], examples: Sequence[Any]) -> dict[str, str]:
    """Write a subject as the harness reads it from the hub, and return its files."""
    folder.mkdir()
    files = {}
    for split, questions in (("test", tests), ("dev", examples)):
        rows = [{"question": q.text, "choices": list(q.choices), "answer": q.answer} for q in questions]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = str(folder / f"{split}.jsonl")
    return files


def pairs(subjects: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each prompt of the scoring by texts with each of its choices."""
    from ibidem.evaluation.mmlu import prompt

    for tests, examples in subjects.values():
        for question in tests:
            for choice in question.choices:
                yield prompt(question, examples, with_choices=False), f" {choice}"


def make_gpt2(folder: Path, texts: Sequence[str]) -> Path:
    """Make a GPT-2 whose tokenizer, a byte-level BPE, adds no special token."""
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(texts, vocab_size=1000, special_tokens=["<|endoftext|>"], show_progress=False)
    end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner._tokenizer, **end)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return save(folder, transformers.GPT2LMHeadModel, config, tokenizer)


def make_llama(folder: Path, texts: Sequence[str]) -> Path:
    """Make a Llama whose tokenizer, a SentencePiece BPE with byte fallback, adds BOS."""
    import sentencepiece
    import transformers

    folder.mkdir()
    lines = (line for text in texts for line in text.splitlines())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=str(folder / "tokenizer"), vocab_size=1000, model_type="bpe",
        byte_fallback=True, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=CONTEXT, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    tokenizer = transformers.LlamaTokenizer.from_pretrained(folder, add_bos_token=True)
    return save(folder, transformers.LlamaForCausalLM, config, tokenizer)


def save(folder: Path, kind: Any, config: Any, tokenizer: Any) -> Path:
    import torch

    torch.manual_seed(SEED)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_peer(python: Path, job: Path) -> dict[str, Any]:
    """Measure with the harness, in its own environment."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(job.parent / "hf")}
    environment = {**os.environ, **offline, "HF_ALLOW_CODE_EVAL": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(python), __file__, "peer", str(job)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(job.with_name("theirs.json").read_text())
    return found


def peer(job_file: Path) -> None:
    """Write what the harness says; runs where lm_eval is installed."""
    job = json.loads(job_file.read_text())
    found: dict[str, Any] = {
        "lm_eval": metadata.version("lm_eval"),
        "models": {name: peer_model(path, job) for name, path in job["models"].items()},
        "pass_at_k": peer_pass_at_k(Path(job["code_eval"])) if job["code_eval"] else None,
    }
    job_file.with_name("theirs.json").write_text(json.dumps(found))


def peer_model(path: str, job: dict[str, Any]) -> dict[str, Any]:
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import bits_per_byte
    from lm_eval.models.huggingface import HFLM

    found: dict[str, Any] = {"letter": {}, "passed": {}, "text": {}, "rolling": {}, "bits_per_byte": {}}
    for bos, settings in SETTINGS:
        for precision in ("float32", "float64"):
            lm = HFLM(
                path, dtype="float32", softmax_dtype=precision, device="cpu", batch_size=1,
                trust_remote_code=False, **settings,
            )  # fmt: skip
            scores, found["passed"][bos] = peer_mmlu(lm, job["subjects"])
            found["letter"].setdefault(bos, {})[precision] = scores
            asked = [Instance("loglikelihood", {}, (prompt, choice), 0) for prompt, choice in job["pairs"]]
            found["text"].setdefault(bos, {})[precision] = [score for score, _ in lm.loglikelihood(asked)]
            rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in job["texts"]]
            sums = found["rolling"].setdefault(bos, {})[precision] = lm.loglikelihood_rolling(rolling)
            sizes = [len(text.encode()) for text in job["texts"]]
            found["bits_per_byte"][bos] = bits_per_byte(list(zip(sums, sizes, strict=True)))
    return found


def peer_mmlu(lm: Any, subjects: dict[str, dict[str, str]]) -> tuple[list[float], list[float]]:
    """Run the harness's task `mmlu` on the subjects' files instead of the hub's."""
    import lm_eval
    import yaml
    from lm_eval.api.task import ConfigurableTask

    template = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default" / "_default_template_yaml"
    scores, passed = [], []
    for subject, files in subjects.items():
        head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        ours = {"task": f"mmlu_{subject}", "description": head, "dataset_path": "json", "dataset_name": None}
        config = yaml.safe_load(template.read_text()) | ours | {"dataset_kwargs": {"data_files": files}}
        task = ConfigurableTask(config=config)
        task.set_config("num_fewshot", SHOTS)
        samples = lm_eval.evaluate(lm, {ours["task"]: task}, bootstrap_iters=0)["samples"][ours["task"]]
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            scores += [float(score) for (score, _), *_ in sample["resps"]]
            passed.append(sample["acc"])
    return scores, passed


def peer_pass_at_k(code_eval: Path) -> list[float]:
    """Let the harness's metric of HumanEval judge programs that pass or fail as planned."""
    os.chdir(code_eval.parent)  # where `evaluate` finds the metric by its name
    from lm_eval.tasks.humaneval.utils import pass_at_k

    found = []
    for n, c in OUTCOMES:
        programs = ["x = 1"] * c + ["x = 2"] * (n - c)
        ks = [k for k in K if k <= n]
        said = pass_at_k(["assert x == 1"], [programs], ks)
        found += [float(said[f"pass@{k}"]) for k in ks]
    return found


if __name__ == "__main__":
    main()
