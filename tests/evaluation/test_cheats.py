"""A weak model is not released, whatever its manager tries; a model that truly passes is."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation import cheats
from tests.evaluation.bundle import reseal
from tests.evaluation.cheats import DELIVERED, FOOL, ORACLE, N, World, make_world

from ibidem import artifacts
from ibidem.config import build
from ibidem.errors import ArtifactError, DigestMismatch
from ibidem.evaluation.gate.config import GateConfig, SignConfig
from ibidem.evaluation.gate.gate import gate
from ibidem.evaluation.gate.statements import about_decision, sign_evaluation
from ibidem.evaluation.human_eval import human_eval
from ibidem.signatures import TEST_RESULT, create_key, verify


@pytest.fixture(scope="module")
def template(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), checkpoint, lambda _: None)


@pytest.fixture
def world(template: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of its own, with the weak model."""
    shutil.copytree(template.folder, tmp_path / "world")

    def use(model: Any) -> None:
        monkeypatch.setattr("ibidem.inference.models.open_model", lambda *_: model)

    use(FOOL)
    return World(
        tmp_path / "world", template.checkpoint, template.pins, tmp_path / "world" / "signing.key", template.signer, use
    )


def test_a_model_that_truly_passes_is_released_by_what_the_gate_makes(world: World) -> None:
    world.use(ORACLE)
    assert world.decide() == "RELEASE"
    record = json.loads((world.folder / "gate" / "gate.json").read_text())
    assert {each["verdict"] for each in record["criteria"]} == {"PASS"}
    assert {each["made_by"] for each in record["evidence"].values()} == {"this gate"}
    page, card = ((world.folder / "gate" / name).read_text() for name in ("gate.html", "MODEL_CARD.md"))
    for text in (page, card):
        assert record["policy_digest"] in text
        assert record["evidence"]["code"]["benchmark_digest"][:23] in text
    assert world.decide(evaluate=False) != "RELEASE"
    for key in ("code", "mmlu", "documents"):
        sign_evaluation(SignConfig(path=world.folder / "evidence" / key, key=world.key))
    assert world.decide(evaluate=False) == "RELEASE"
    assert "quality" in (world.folder / "gate" / "gate.html").read_text()


def test_the_weak_model_is_blocked_by_its_figures(world: World) -> None:
    assert "BLOCK" in world.decide()
    record = json.loads((world.folder / "gate" / "gate.json").read_text())
    assert {each["verdict"] for each in record["criteria"]} == {"FAIL"}


CODE, KNOWLEDGE, DOCUMENTS = ("code",), ("knowledge",), ("answers", "citations")
NOT_MEASURED = "NOT MEASURED"
BOUND = "at most"
CHEATS: list[tuple[Callable[[World], dict[str, Any]], tuple[str, ...], str]] = [
    (cheats.planted_samples, CODE, BOUND),
    (cheats.planted_samples_with_codes, CODE, BOUND),
    (cheats.planted_verdicts, CODE, BOUND),
    (cheats.rows_of_another_run, CODE, BOUND),
    (cheats.planted_finished_code, CODE, BOUND),
    (cheats.planted_finished_code_with_a_mark_of_another, CODE, BOUND),
    (cheats.planted_finished_knowledge, KNOWLEDGE, BOUND),
    (cheats.planted_finished_documents, DOCUMENTS, BOUND),
    (cheats.rows_of_the_managers_own, CODE, BOUND),
    (cheats.finished_code_of_the_managers_own, CODE, BOUND),
    (cheats.swapped_while_others_are_evaluated, ("code", *DOCUMENTS), "it is unsigned"),
    (cheats.one_question_many_times, KNOWLEDGE, "asks the same more than once"),
    (cheats.one_question_many_times_and_pinned, KNOWLEDGE, "asks the same more than once"),
    (cheats.one_question_in_other_letters_and_pinned, KNOWLEDGE, "asks the same more than once"),
    (cheats.another_key, KNOWLEDGE, "is not the pinned one"),
    (cheats.answers_among_the_examples, KNOWLEDGE, "asks the same more than once"),
    (cheats.only_the_easy_questions, KNOWLEDGE, "is not the pinned one"),
    (cheats.more_easy_subjects, KNOWLEDGE, "marketing has 0 examples"),
    (cheats.empty_tests, CODE, "is not the pinned one"),
    (cheats.easier_tests, CODE, "is not the pinned one"),
    (cheats.only_the_easy_problems, CODE, "is not the pinned one"),
    (cheats.easier_questions, DOCUMENTS, "is not the pinned one"),
    (cheats.unpinned, CODE, "is not pinned"),
    (cheats.the_luckiest_seed, CODE, "made with temperature 0.8"),
    (cheats.another_seed_of_the_same_temperature, CODE, "made with seed 7"),
    (cheats.another_nucleus, CODE, "made with top_p 0.5"),
    (cheats.the_luckiest_seed_at_the_gate, CODE, BOUND),
    (cheats.a_higher_temperature, CODE, "made with temperature 0.8"),
    (cheats.twenty_samples, CODE, "made with n 20"),
    (cheats.longer_answers, CODE, "made with max_tokens 2000"),
    (cheats.more_time, CODE, "made with cpu_s 100"),
    (cheats.fewer_examples, KNOWLEDGE, "made with shots 0"),
    (cheats.other_scoring, KNOWLEDGE, "made with scoring 'text'"),
    (cheats.generous_words, DOCUMENTS, "made with word_share 0.01"),
    (cheats.generous_abstentions, DOCUMENTS, "made with abstentions"),
    (cheats.without_labels, DOCUMENTS, "made with calibration None"),
    (cheats.supplied_completions, CODE, "only the file claims"),
    (cheats.supplied_answers, DOCUMENTS, "only the file claims"),
    (cheats.hard_problems_in_the_training_data, CODE, "in the training data, counted as failed"),
    (cheats.contamination({}), CODE, "about contamination is malformed"),
    (cheats.contamination(None), CODE, NOT_MEASURED),
    (cheats.contamination([]), CODE, "about contamination is malformed"),
    (cheats.contamination("none"), CODE, "about contamination is malformed"),
    (cheats.contamination({"documents": 9, "problems": 0}), CODE, "about contamination is malformed"),
    (cheats.contamination({"documents": 9, "problems": True, "found": {}}), CODE, "about contamination is malformed"),
    (cheats.not_searched, CODE, NOT_MEASURED),
    (cheats.one_and_one_point_zero, KNOWLEDGE, "is missing, or has another answer"),
    (cheats.left_out_questions, KNOWLEDGE, "is missing, or has another answer"),
    (cheats.doubled_questions, KNOWLEDGE, "appears twice"),
    (cheats.invented_verdicts, CODE, "unlike the judge's"),
    (cheats.invented_support, DOCUMENTS, "judged again, comes out differently"),
    (cheats.copied_sentences, DOCUMENTS, BOUND),
    (cheats.copied_sentences_and_no_word_on_answers, DOCUMENTS, "must also judge the answers"),
    (cheats.no_answers, DOCUMENTS, BOUND),
    (cheats.empty_answers, DOCUMENTS, BOUND),
    (cheats.other_labels, DOCUMENTS, "the calibration at hand is not the pinned one"),
    (cheats.unbalanced_labels, DOCUMENTS, "agreement with people"),
    (cheats.invented_calibration, DOCUMENTS, "its calibration is not what"),
    (cheats.honest_baseline, CODE, "better than Some 7B"),
    (cheats.baseline_by_name, CODE, "the baseline's evidence is sha256:"),
    (cheats.baseline_is_the_checkpoint, CODE, "is of the checkpoint itself"),
    (cheats.baseline_without_digest, CODE, "needs its digest"),
    (cheats.delivered_unsigned, CODE, "it is unsigned"),
    (cheats.signed_by_the_manager, CODE, "none of the accepted keys has signed it"),
    (cheats.signed_for_something_else, CODE, "no signer of the policy may sign it"),
    (cheats.signature_of_another, CODE, "its signature is of another evaluation"),
    (cheats.broken_signature("{}"), CODE, "its signature does not count"),
    (cheats.broken_signature("[]"), CODE, "its signature does not count"),
    (cheats.broken_signature("[" * 200_000), CODE, "its signature does not count"),
    (cheats.broken_signature("\x00"), CODE, "its signature does not count"),
    (cheats.broken_signature('{"signatures": [], "payload": ""}'), CODE, "its signature does not count"),
    (cheats.signed_evidence_of_another_checkpoint, CODE, "it is of another checkpoint"),
    (cheats.evidence_of_another_task, CODE, "mmlu, not of human-eval"),
]


BY_ANSWERS = {
    cheats.copied_sentences,
    cheats.copied_sentences_and_no_word_on_answers,
    cheats.no_answers,
    cheats.empty_answers,
    cheats.unbalanced_labels,
    cheats.swapped_while_others_are_evaluated,
}


@pytest.mark.parametrize(
    ("cheat", "criteria", "reason"), CHEATS, ids=[f"{n}-{cheat.__name__}" for n, (cheat, _, _) in enumerate(CHEATS)]
)
def test_a_cheat_is_not_released(
    cheat: Callable[[World], dict[str, Any]], criteria: tuple[str, ...], reason: str, world: World
) -> None:
    try:
        more = cheat(world)
    except ValueError as error:  # `ibidem gate pin` refuses already
        said = str(error)
    else:
        if cheat not in BY_ANSWERS:
            world.use(FOOL)
        said = world.decide(*criteria, **more)
    assert said != "RELEASE"
    assert reason in said


def test_a_decision_is_signed_and_cannot_be_edited(world: World) -> None:
    world.use(ORACLE)
    human_eval(cheats.code_config(world))
    gate(build(GateConfig, world.tree("code", sign_with=world.key)))
    folder = world.folder / "gate"
    record = json.loads((folder / "gate.json").read_text())
    statement, _ = verify(json.loads((folder / artifacts.SIGNATURE).read_text()), [world.signer])
    assert statement == about_decision(record)
    assert (statement["predicateType"], statement["predicate"]["result"]) == (TEST_RESULT, "PASSED")
    assert statement["subject"][0]["digest"] == {"sha256": world.digest.removeprefix("sha256:")}
    artifacts.verify(folder, kind="decision")
    (folder / "gate.json").write_text((folder / "gate.json").read_text().replace("PASS", "FAIL", 1))
    with pytest.raises(DigestMismatch):
        artifacts.verify(folder, kind="decision")


def test_a_decision_appears_whole_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.use(ORACLE)
    monkeypatch.setattr("ibidem.evaluation.gate.gate.card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.decide("code")
    assert not (world.folder / "gate").exists()


def test_the_policys_digest_is_of_what_it_demands_and_not_of_where_things_are(world: World) -> None:
    def digest(**more: Any) -> str:
        world.decide("knowledge", **(DELIVERED | more))
        return str(json.loads((world.folder / "gate" / "gate.json").read_text())["policy_digest"])

    first = digest()
    elsewhere = world.folder / "elsewhere"
    assert first == digest(benchmarks={"mmlu": str(elsewhere)}, evidence={}, workers=1)
    assert first != digest(criteria={"knowledge": {**cheats.CRITERIA["knowledge"], "least_items": N - 1}})
    assert first != digest(settings={"mmlu": {"shots": 4}})
    assert first != digest(unsigned=["mmlu"])
    assert first != digest(accept_supplied=True)
    assert first != digest(signers={"x": {"key": create_key(world.folder / "x.key"), "evidence": ["mmlu"]}})


def test_an_exception_is_a_warning_in_the_signed_statement(world: World) -> None:
    world.use(ORACLE)
    signed = {"by": "R. Manager", "reason": "a preview for three people", "until": date.today() + timedelta(days=9)}
    criteria = {"hard": {**cheats.CRITERIA["code"], "at_least": 0.99}, "knowledge": cheats.CRITERIA["knowledge"]}
    assert world.decide("code", "knowledge", criteria=criteria, exceptions={"hard": signed}) == "RELEASE"
    predicate = about_decision(json.loads((world.folder / "gate" / "gate.json").read_text()))["predicate"]
    assert (predicate["result"], predicate["warnedTests"], predicate["failedTests"]) == ("WARNED", ["hard"], [])


def test_nobody_signs_figures_that_do_not_follow_from_the_items(world: World) -> None:
    human_eval(cheats.code_config(world))
    folder = world.folder / "evidence" / "code"
    reseal(folder, lambda results, _: results.update({"pass@1": 1.0}), recount=False)
    with pytest.raises(ArtifactError, match="figures do not follow"):
        sign_evaluation(SignConfig(path=folder, key=world.key))
    assert not (folder / artifacts.SIGNATURE).exists()


def test_what_evidence_says_reaches_page_card_and_terminal_as_one_printable_line(world: World) -> None:
    human_eval(cheats.code_config(world))
    heading = "x\n\n**Release decision: RELEASE**\x1b[2J" + "y" * 10_000

    def change(_: dict[str, Any], items: list[dict[str, Any]]) -> None:
        items[0]["task_id"] = items[1]["task_id"] = heading

    reseal(world.folder / "evidence" / "code", change)
    said = world.decide("code", **cheats.unsigned("code"))
    card = (world.folder / "gate" / "MODEL_CARD.md").read_text()
    assert "appears twice" in said or "..." in said
    for text in (said, card):
        assert "\x1b" not in text
        assert "\n**Release decision: RELEASE" not in text
        assert max(map(len, text.splitlines())) < 1000


def test_a_gate_that_fails_leaves_no_earlier_decision(world: World) -> None:
    world.use(ORACLE)
    assert world.decide("knowledge") == "RELEASE"
    assert "has no setting magic" in world.decide("knowledge", settings={"mmlu": {"magic": 1}})
    assert not (world.folder / "gate").exists()


def test_all_settings_are_checked_before_the_work_begins(world: World) -> None:
    world.use(ORACLE)
    assert "settings.mmlu" in world.decide("code", "knowledge", settings={"mmlu": {"magic": 1}})
    assert not (world.folder / "evidence").exists()


@pytest.mark.parametrize("name", [artifacts.SIGNATURE, "results.json"])
def test_a_pipe_in_the_place_of_a_file_is_no_evidence(name: str, world: World) -> None:
    human_eval(cheats.code_config(world))
    (world.folder / "evidence" / "code" / name).unlink(missing_ok=True)
    os.mkfifo(world.folder / "evidence" / "code" / name)
    assert "REFUSED" in world.decide("code", **DELIVERED)
