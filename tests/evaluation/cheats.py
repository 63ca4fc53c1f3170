"""What a release manager tries who has a weak model and wants it released.

A world holds a policy, its benchmarks, and two models that answer from a script: ORACLE is right, FOOL mostly wrong.
Each cheat changes the world, and returns changes of the gate's configuration that the manager controls.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.evaluation.bundle import lines, problems, reseal

from ibidem import artifacts, jsonl
from ibidem.config import build
from ibidem.conversation import Conversation, Turn
from ibidem.errors import GateFailed, IbidemError
from ibidem.evaluation import coding, evidence, mmlu
from ibidem.evaluation.config import DocQaConfig, HumanEvalConfig, MmluConfig
from ibidem.evaluation.doc_qa import doc_qa
from ibidem.evaluation.gate.config import GateConfig, SignConfig
from ibidem.evaluation.gate.gate import gate
from ibidem.evaluation.gate.pin import pins_of
from ibidem.evaluation.gate.statements import sign_evaluation
from ibidem.evaluation.human_eval import human_eval
from ibidem.evaluation.resume import RowLog
from ibidem.modeling.generate import Sampling
from ibidem.sandbox.problems import read_rows
from ibidem.signatures import create_key

N = 40
KNOWN = 10
"""How many items the weak model gets right."""
CRITERIA = {
    "code": {"evidence": "code", "task": "human-eval", "metric": "pass@1", "at_least": 0.8, "least_items": N},
    "knowledge": {"evidence": "mmlu", "task": "mmlu", "metric": "accuracy.security", "at_least": 0.8, "least_items": N},
    "answers": {"evidence": "documents", "task": "doc-qa", "metric": "f1", "at_least": 0.6, "least_items": N},
    "citations": {"evidence": "documents", "task": "doc-qa", "metric": "unsupported_claims", "below": 0.2},
}
SUPPORTED = 60  # labels of either kind


class Scripted:
    """A model that answers from a script; its tokens are characters."""

    digest, context, start_ids = "scripted", 1_000_000, [0]

    def __init__(self, known: int, document_answer: Callable[[int], str], seed_of_luck: int = 7) -> None:
        self._known, self._document_answer, self._luck = known, document_answer, seed_of_luck

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def complete(self, prompts: Sequence[str], sampling: Sampling, stop: Sequence[str]) -> list[str]:
        lucky = sampling.temperature > 0 and sampling.seed == self._luck
        return [self._complete(prompt, lucky=lucky) for prompt in prompts]

    def respond(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Turn]:
        prompts = [turns[-1].text for turns in conversations]
        return [Turn.of("assistant", text) for text in self.complete(prompts, sampling, ())]

    def check_fit(self, _conversations: Sequence[Conversation], max_tokens: int) -> None:
        assert max_tokens < self.context

    def _complete(self, prompt: str, *, lucky: bool) -> str:
        if found := re.findall(r"def add(\d+)\(a\)", prompt):
            n = int(found[-1])
            return f"    return a + {n if n < self._known or lucky else n + 1}\n"
        return self._document_answer(int(re.findall(r"part (\d+)", prompt)[-1]))

    def nll(self, ids: Sequence[int], first: int) -> float:
        text = "".join(map(chr, ids))
        n = int(re.findall(r"case (\d+)", text)[-1])
        due = "ABCD"[n % 4] if n < self._known else "A"
        return 0.0 if text[-1] == due else 9.0


def right_answer(n: int) -> str:
    return f"Part {n} weighs {n * 3} kilograms [a]."


ORACLE = Scripted(N, right_answer)
FOOL = Scripted(KNOWN, lambda n: right_answer(n) if n < KNOWN else "The moon is made of green cheese [a].")


@dataclass(frozen=True)
class World:
    """Where a release is decided."""

    folder: Path
    checkpoint: Path
    pins: dict[str, dict[str, str]]
    key: Path
    """The private key of the person who may sign."""
    signer: str
    use: Callable[[Any], None]
    """Makes a scripted model the one that every checkpoint holds."""

    @property
    def digest(self) -> str:
        return artifacts.load(self.checkpoint).digest

    def tree(self, *criteria: str, **more: Any) -> dict[str, Any]:
        """Return the gate's configuration for some criteria, with what the manager may choose."""
        chosen = {name: CRITERIA[name] for name in criteria or CRITERIA}
        keys = {each["evidence"] for each in chosen.values()}
        places = {"code": "problems.jsonl", "mmlu": "subjects", "documents": "questions.jsonl"}
        tree = {
            "checkpoint": self.checkpoint,
            "output_dir": self.folder / "gate",
            "evaluate": True,
            "evidence": {key: self.folder / "evidence" / key for key in keys},
            "benchmarks": {key: str(self.folder / places[key]) for key in keys},
            "pins": {key: self.pins[key] for key in keys if key in self.pins},
            "settings": {"documents": {"calibration": str(self.folder / "labels.jsonl")}},
            "signers": {"quality": {"key": self.signer, "evidence": sorted(keys)}},
            "criteria": chosen,
            **more,
        }
        return tree | {"settings": {key: each for key, each in tree["settings"].items() if key in keys}}

    def decide(self, *criteria: str, **more: Any) -> str:
        """Return RELEASE, or all reasons against it."""
        try:
            gate(build(GateConfig, self.tree(*criteria, **more)))
        except (GateFailed, IbidemError) as error:
            return str(error)
        return str(json.loads((self.folder / "gate" / "gate.json").read_text())["decision"])


def make_world(folder: Path, checkpoint: Path, use: Callable[[Any], None]) -> World:
    problems(folder, N)
    (folder / "subjects").mkdir()
    questions = "".join(f"Is it so in case {n}?,yes,no,maybe,never,{'ABCD'[n % 4]}\n" for n in range(N))
    (folder / "subjects" / "computer_security_test.csv").write_text(questions)
    examples = "".join(f"Was it so in case {100 + n}?,yes,no,maybe,never,A\n" for n in range(5))
    (folder / "subjects" / "computer_security_dev.csv").write_text(examples)
    passages = [f"Part {n} weighs {n * 3} kilograms. It is not for sale." for n in range(N)]
    asked = [
        {"id": f"q{n}", "question": f"How heavy is part {n}?", "answers": [f"Part {n} weighs {n * 3} kilograms."]}
        for n in range(N)
    ]
    lines(
        folder / "questions.jsonl",
        [{**each, "passages": [{"id": "a", "text": text}]} for each, text in zip(asked, passages, strict=True)],
    )
    labels = [
        {"premise": f"Part {n} weighs {m} kg.", "claim": f"Part {n} weighs {7 * n} kg.", "supported": m == 7 * n}
        for n in range(100, 100 + SUPPORTED)
        for m in (7 * n, 7 * n + 1)
    ]
    lines(folder / "labels.jsonl", labels)
    world = World(folder, checkpoint, {}, folder / "signing.key", create_key(folder / "signing.key"), use)
    return replace(world, pins=pins_of(build(GateConfig, world.tree()))[0])


# Evidence that the manager makes with the honest tool, or invents.


def code_config(world: World, **more: Any) -> HumanEvalConfig:
    """The configuration with which the gate evaluates."""
    return HumanEvalConfig(
        checkpoint=world.checkpoint, problems=str(world.folder / "problems.jsonl"),
        **{"output_dir": world.folder / "evidence" / "code", **more},
    )  # fmt: skip


def invented_code(world: World, **results: Any) -> None:
    """Seal right completions as the checkpoint's own: inputs, settings and figures fit."""
    config = code_config(world)
    items = [
        {"task_id": f"T/{n}", "sample": 0, "passed": True, "kind": "passed", "detail": "",
         "completion": f"    return a + {n}\n"}
        for n in range(N)
    ]  # fmt: skip
    chosen = coding.decisive(config, {})
    checkpoint = artifacts.load(world.checkpoint).as_input("checkpoint", of=config.output_dir)
    contamination = {"documents": 9, "datasets": {}, "problems": 0, "found": {}, "unchecked": []}
    evidence.write(
        config.output_dir, "human-eval", config=chosen, items=items, metrics=coding.measure(items),
        inputs=[coding.benchmark(config.problems, read_rows(config.problems)), checkpoint],
        notes={"problems": N, "kinds": {"passed": N}, "contamination": contamination} | results,
    )  # fmt: skip


def foreign(folder: Path) -> None:
    """Make a folder one that this user has not made: without the mark."""
    manifest = json.loads((folder / artifacts.MANIFEST).read_text())
    del manifest["volatile"]["mark"]
    (folder / artifacts.MANIFEST).write_text(json.dumps(manifest))


def mmlu_evidence(world: World, **more: Any) -> Path:
    folder = world.folder / "evidence" / "mmlu"
    mmlu.mmlu(MmluConfig(checkpoint=world.checkpoint, data=world.folder / "subjects", output_dir=folder, **more))
    return folder


def documents_evidence(world: World, **more: Any) -> Path:
    folder = world.folder / "evidence" / "documents"
    chosen = {"data": world.folder / "questions.jsonl", "calibration": world.folder / "labels.jsonl", **more}
    doc_qa(DocQaConfig(checkpoint=world.checkpoint, output_dir=folder, **chosen))
    return folder


DELIVERED: dict[str, Any] = {"evaluate": False}


def unsigned(*keys: str) -> dict[str, Any]:
    """A policy that believes delivered evidence."""
    return {"evaluate": False, "unsigned": list(keys)}


def answers(world: World, texts: Callable[[int], str]) -> dict[str, Any]:
    world.use(Scripted(KNOWN, texts))
    return {}


# What is planted where the gate will evaluate.


def workspace(world: World, **more: Any) -> Path:
    """Return the folder in which an interrupted evaluation of the gate would have left its rows."""
    made: list[Path] = []
    config = code_config(world, **more)
    chosen = coding.decisive(config, {})
    checkpoint = artifacts.load(world.checkpoint).as_input("checkpoint", of=config.output_dir)
    asked = coding.benchmark(config.problems, read_rows(config.problems))
    with (
        suppress(KeyboardInterrupt),
        artifacts.workspace(config.output_dir, config=chosen, inputs=[asked, checkpoint]) as work,
    ):
        made.append(work)
        raise KeyboardInterrupt
    return made[0]


def samples() -> list[dict[str, Any]]:
    return [{"task_id": f"T/{n}", "number": 0, "completion": f"    return a + {n}\n"} for n in range(N)]


def planted_samples(world: World) -> dict[str, Any]:
    (workspace(world) / coding.SAMPLES).write_text(jsonl.dumps(samples()))
    return {}


def planted_samples_with_codes(world: World) -> dict[str, Any]:
    rows = [{"row": row, "mac": "0" * 64} for row in samples()]
    (workspace(world) / coding.SAMPLES).write_text(jsonl.dumps(rows))
    return {}


def planted_verdicts(world: World) -> dict[str, Any]:
    rows = [{"task_id": f"T/{n}", "sample": 0, "passed": True, "kind": "passed", "completion": ""} for n in range(N)]
    (workspace(world) / evidence.ITEMS).write_text(jsonl.dumps({"row": row, "mac": ""} for row in rows))
    return {}


def rows_of_another_run(world: World) -> dict[str, Any]:
    """Rows that this user did make, with a better model under other settings."""
    other = workspace(world, seed=1)
    RowLog(other / coding.SAMPLES).extend(samples())
    text = (other / coding.SAMPLES).read_text()
    (workspace(world) / coding.SAMPLES).write_text(text)
    return {}


def planted_finished_code(world: World) -> dict[str, Any]:
    invented_code(world)
    foreign(world.folder / "evidence" / "code")
    return {}


def planted_finished_code_with_a_mark_of_another(world: World) -> dict[str, Any]:
    human_eval(code_config(world, output_dir=world.folder / "honest"))
    mark = json.loads((world.folder / "honest" / artifacts.MANIFEST).read_text())["volatile"]["mark"]
    invented_code(world)
    path = world.folder / "evidence" / "code" / artifacts.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["volatile"]["mark"] = mark
    path.write_text(json.dumps(manifest))
    return {}


def planted_finished_knowledge(world: World) -> dict[str, Any]:
    world.use(ORACLE)
    foreign(mmlu_evidence(world))
    return {}


def planted_finished_documents(world: World) -> dict[str, Any]:
    world.use(ORACLE)
    foreign(documents_evidence(world))
    return {}


def rows_of_the_managers_own(world: World) -> dict[str, Any]:
    """The manager runs the gate as the same user, and so can make any MAC."""
    RowLog(workspace(world) / coding.SAMPLES).extend(samples())
    return {}


def finished_code_of_the_managers_own(world: World) -> dict[str, Any]:
    invented_code(world)
    return {}


def swapped_while_others_are_evaluated(world: World) -> dict[str, Any]:
    def answer(n: int) -> str:
        if n == 0:
            shutil.rmtree(world.folder / "evidence" / "code")
            invented_code(world)
        return right_answer(n)

    world.use(Scripted(KNOWN, answer))
    return {}


# Another benchmark under the same path.


def one_question_many_times(world: World) -> dict[str, Any]:
    (world.folder / "subjects" / "computer_security_test.csv").write_text("Case 0?,yes,no,maybe,never,A\n" * 134)
    return {}


def one_question_many_times_and_pinned(world: World) -> dict[str, Any]:
    one_question_many_times(world)
    return {"pins": pins_of(build(GateConfig, world.tree("knowledge")))[0]}


def one_question_in_other_letters_and_pinned(world: World) -> dict[str, Any]:
    rows = [f"Case  {'0' + ' ' * n}?,yes,{'no' if n % 2 else 'NO'},maybe,never,A\n" for n in range(N)]
    (world.folder / "subjects" / "computer_security_test.csv").write_text("".join(rows))
    return {"pins": pins_of(build(GateConfig, world.tree("knowledge")))[0]}


def another_key(world: World) -> dict[str, Any]:
    path = world.folder / "subjects" / "computer_security_test.csv"
    path.write_text(re.sub(",[BCD]\n", ",A\n", path.read_text()))
    return {}


def answers_among_the_examples(world: World) -> dict[str, Any]:
    folder = world.folder / "subjects"
    shutil.copy(folder / "computer_security_test.csv", folder / "computer_security_dev.csv")
    return {}


def only_the_easy_questions(world: World) -> dict[str, Any]:
    path = world.folder / "subjects" / "computer_security_test.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:KNOWN]))
    return {}


def more_easy_subjects(world: World) -> dict[str, Any]:
    (world.folder / "subjects" / "marketing_test.csv").write_text("Case 0 of many?,yes,no,maybe,never,A\n")
    return {}


def empty_tests(world: World) -> dict[str, Any]:
    path = world.folder / "problems.jsonl"
    path.write_text(re.sub(r"assert candidate\(1\) == \d+", "candidate(1)", path.read_text()))
    return {}


def easier_tests(world: World) -> dict[str, Any]:
    path = world.folder / "problems.jsonl"
    path.write_text(path.read_text().replace("candidate(1) ==", "candidate(1) - 1 <="))
    return {}


def only_the_easy_problems(world: World) -> dict[str, Any]:
    path = world.folder / "problems.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:KNOWN]))
    return {}


def easier_questions(world: World) -> dict[str, Any]:
    path = world.folder / "questions.jsonl"
    path.write_text(
        re.sub(r'"answers": \[[^]]*\]', '"answers": ["The moon is made of green cheese."]', path.read_text())
    )
    return {}


def unpinned(world: World) -> dict[str, Any]:
    empty_tests(world)
    return {"pins": {}}


# Free choices.


def the_luckiest_seed(world: World) -> dict[str, Any]:
    human_eval(code_config(world, seed=7, temperature=0.8))
    return unsigned("code")


def the_luckiest_seed_at_the_gate(world: World) -> dict[str, Any]:
    human_eval(code_config(world, seed=7, temperature=0.8))
    return {}


def another_seed_of_the_same_temperature(world: World) -> dict[str, Any]:
    human_eval(code_config(world, seed=7, temperature=0.8))
    return unsigned("code") | {"settings": {"code": {"temperature": "0.8"}}}


def another_nucleus(world: World) -> dict[str, Any]:
    human_eval(code_config(world, top_p=0.5))
    return unsigned("code")


def a_higher_temperature(world: World) -> dict[str, Any]:
    human_eval(code_config(world, temperature=0.8))
    return unsigned("code")


def twenty_samples(world: World) -> dict[str, Any]:
    human_eval(code_config(world, n=20))
    return unsigned("code")


def longer_answers(world: World) -> dict[str, Any]:
    human_eval(code_config(world, max_tokens=2000))
    return unsigned("code")


def more_time(world: World) -> dict[str, Any]:
    human_eval(code_config(world, cpu_s=100))
    return unsigned("code")


def fewer_examples(world: World) -> dict[str, Any]:
    world.use(ORACLE)
    mmlu_evidence(world, shots=0)
    return unsigned("mmlu")


def other_scoring(world: World) -> dict[str, Any]:
    reseal(mmlu_evidence(world), invent_choices, config={"scoring": "text"})
    return unsigned("mmlu")


def generous_words(world: World) -> dict[str, Any]:
    documents_evidence(world, word_share=0.01)
    return unsigned("documents")


def generous_abstentions(world: World) -> dict[str, Any]:
    documents_evidence(world, abstentions=("the moon",))
    return unsigned("documents")


def without_labels(world: World) -> dict[str, Any]:
    documents_evidence(world, calibration=None)
    return unsigned("documents")


def supplied_completions(world: World) -> dict[str, Any]:
    rows = [{**row, "checkpoint": world.digest} for row in samples()]
    human_eval(code_config(world, samples=lines(world.folder / "samples.jsonl", rows)))
    return unsigned("code")


def supplied_answers(world: World) -> dict[str, Any]:
    rows = [{"id": f"q{n}", "answer": right_answer(n), "checkpoint": world.digest} for n in range(N)]
    given = lines(world.folder / "answers.jsonl", rows)
    config = {"data": world.folder / "questions.jsonl", "calibration": world.folder / "labels.jsonl"}
    doc_qa(DocQaConfig(predictions=given, output_dir=world.folder / "evidence" / "documents", **config))
    return unsigned("documents")


# Contamination.


def hard_problems_in_the_training_data(world: World) -> dict[str, Any]:
    """Problems that the model was trained on once left the trials, so the hardest were put into the data."""
    found = {f"T/{n}": "somewhere" for n in range(KNOWN, N)}
    human_eval(code_config(world))
    said = {"documents": 9, "datasets": {}, "problems": len(found), "found": found, "unchecked": []}
    reseal(world.folder / "evidence" / "code", lambda results, _: results.update(contamination=said))
    return unsigned("code") | {"criteria": {"code": {**CRITERIA["code"], "least_items": KNOWN, "at_least": 0.6}}}


def contamination(said: object) -> Callable[[World], dict[str, Any]]:
    def cheat(world: World) -> dict[str, Any]:
        invented_code(world, contamination=said)
        return unsigned("code")

    return cheat


def not_searched(world: World) -> dict[str, Any]:
    world.use(ORACLE)
    human_eval(code_config(world, contamination=False))
    return unsigned("code")


# Items that are not the benchmark's.


def invent_choices(_: dict[str, Any], items: list[dict[str, Any]]) -> None:
    for item in items:
        item.update(chosen=item["answer"], passed=True)


def one_and_one_point_zero(world: World) -> dict[str, Any]:
    """The easy questions once more, with numbers that are equal and read differently."""

    def change(_: dict[str, Any], items: list[dict[str, Any]]) -> None:
        items.extend([{**item, "number": float(item["number"])} for item in items[:KNOWN]] * 1)
        del items[KNOWN:N]

    reseal(mmlu_evidence(world), change)
    return unsigned("mmlu")


def left_out_questions(world: World) -> dict[str, Any]:
    def change(_: dict[str, Any], items: list[dict[str, Any]]) -> None:
        items[:] = [item for item in items if item["passed"]]

    reseal(mmlu_evidence(world), change)
    return unsigned("mmlu")


def doubled_questions(world: World) -> dict[str, Any]:
    def change(_: dict[str, Any], items: list[dict[str, Any]]) -> None:
        items[KNOWN:] = items[:KNOWN] * 3

    reseal(mmlu_evidence(world), change)
    return unsigned("mmlu")


def invented_verdicts(world: World) -> dict[str, Any]:
    human_eval(code_config(world))

    def change(_: dict[str, Any], items: list[dict[str, Any]]) -> None:
        for item in items:
            item.update(passed=True, kind="passed")

    reseal(world.folder / "evidence" / "code", change)
    return unsigned("code")


def invented_support(world: World) -> dict[str, Any]:
    def change(_: dict[str, Any], items: list[dict[str, Any]]) -> None:
        for item in items:
            item.update(f1=1.0, exact_match=1.0)
            for claim in item.get("claims", ()):
                claim.update(supported=True)

    reseal(documents_evidence(world), change)
    return unsigned("documents")


# Documents.


def copied_sentences(world: World) -> dict[str, Any]:
    return answers(world, lambda _: "It is not for sale [a].")


def copied_sentences_and_no_word_on_answers(world: World) -> dict[str, Any]:
    answers(world, lambda _: "It is not for sale [a].")
    return {"criteria": {"citations": CRITERIA["citations"]}}


def no_answers(world: World) -> dict[str, Any]:
    return answers(world, lambda _: "I don't know.")


def empty_answers(world: World) -> dict[str, Any]:
    return answers(world, lambda _: "")


def other_labels(world: World) -> dict[str, Any]:
    path = world.folder / "labels.jsonl"
    rows = [row for row in jsonl.read(path, "labels") if row["supported"]]
    lines(path, [*map(dict, rows), {"premise": "a", "claim": "b c d", "supported": False}])
    return {}


def unbalanced_labels(world: World) -> dict[str, Any]:
    """Labels that a judge fulfills who always says yes, pinned by a careless policy."""
    other_labels(world)
    world.use(ORACLE)
    return {"pins": pins_of(build(GateConfig, world.tree("answers", "citations")))[0]}


def invented_calibration(world: World) -> dict[str, Any]:
    def change(results: dict[str, Any], _: list[dict[str, Any]]) -> None:
        results["calibration"] = {"labels": 9999, "agreed": 9999, "agreement_at_least": 1.0}

    world.use(ORACLE)
    reseal(documents_evidence(world), change)
    return unsigned("documents")


# Baselines.


def weak_baseline(world: World, change: Callable[[Path], None] = lambda _: None, **more: Any) -> dict[str, Any]:
    world.use(ORACLE)
    human_eval(code_config(world, output_dir=world.folder / "theirs"))
    reseal_as(world.folder / "theirs", "sha256:" + "7" * 64)
    digest = artifacts.load(world.folder / "theirs").digest
    change(world.folder / "theirs")
    world.use(FOOL)
    baseline = {"name": "Some 7B", "evidence": world.folder / "theirs", "digest": digest, **more}
    return {"criteria": {"code": {**CRITERIA["code"], "at_least": None, "baseline": baseline, "margin": 0.1}}}


def reseal_as(folder: Path, digest: str) -> None:
    inputs = [
        replace(each, digest=digest, is_artifact=False) if each.role == "checkpoint" else each
        for each in artifacts.load(folder).inputs
    ]
    reseal(folder, lambda *_: None, inputs=inputs)


def spoil_completions(folder: Path) -> None:
    def change(_: dict[str, Any], items: list[dict[str, Any]]) -> None:
        for item in items:
            item.update(completion="    return None\n", passed=False, kind="failed")

    reseal(folder, change)


def baseline_by_name(world: World) -> dict[str, Any]:
    """The baseline is the honest one by name, and its evidence another's."""
    return weak_baseline(world, spoil_completions)


def honest_baseline(world: World) -> dict[str, Any]:
    return weak_baseline(world)


def baseline_is_the_checkpoint(world: World) -> dict[str, Any]:
    human_eval(code_config(world, output_dir=world.folder / "own"))
    digest = artifacts.load(world.folder / "own").digest
    return weak_baseline(world, evidence=world.folder / "own", digest=digest)


def baseline_without_digest(world: World) -> dict[str, Any]:
    return weak_baseline(world, digest=None)


# Signatures.


def delivered_unsigned(world: World) -> dict[str, Any]:
    invented_code(world)
    return DELIVERED


def signed_by_the_manager(world: World) -> dict[str, Any]:
    invented_code(world)
    create_key(world.folder / "own.key")
    sign_evaluation(SignConfig(path=world.folder / "evidence" / "code", key=world.folder / "own.key"))
    return DELIVERED


def signed_for_something_else(world: World) -> dict[str, Any]:
    invented_code(world)
    sign_evaluation(SignConfig(path=world.folder / "evidence" / "code", key=world.key))
    return DELIVERED | {
        "criteria": {"code": CRITERIA["code"], "knowledge": CRITERIA["knowledge"]},
        "signers": {"quality": {"key": world.signer, "evidence": ["mmlu"]}},
    }


def signature_of_another(world: World) -> dict[str, Any]:
    human_eval(code_config(world))
    folder = world.folder / "evidence" / "code"
    sign_evaluation(SignConfig(path=folder, key=world.key))
    signature = (folder / artifacts.SIGNATURE).read_text()
    shutil.rmtree(folder)
    invented_code(world)
    (folder / artifacts.SIGNATURE).write_text(signature)
    return DELIVERED


def broken_signature(text: str) -> Callable[[World], dict[str, Any]]:
    def cheat(world: World) -> dict[str, Any]:
        invented_code(world)
        (world.folder / "evidence" / "code" / artifacts.SIGNATURE).write_text(text)
        return DELIVERED

    return cheat


def signed_evidence_of_another_checkpoint(world: World) -> dict[str, Any]:
    world.use(ORACLE)
    human_eval(code_config(world))
    reseal_as(world.folder / "evidence" / "code", "sha256:" + "7" * 64)
    sign_evaluation(SignConfig(path=world.folder / "evidence" / "code", key=world.key))
    return DELIVERED


def evidence_of_another_task(world: World) -> dict[str, Any]:
    world.use(ORACLE)
    folder = mmlu_evidence(world)
    sign_evaluation(SignConfig(path=folder, key=world.key))
    shutil.move(folder, world.folder / "evidence" / "code")
    return DELIVERED
