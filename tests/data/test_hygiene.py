"""What must never reach a model's training data: secrets, e-mails, health identifiers, names of a deny list."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.data.scrub import names
from ibidem.data.scrub.names import read_names
from ibidem.data.scrub.scrubber import Scrubber, ScrubPolicy
from ibidem.errors import ConfigError

HERE = Path(__file__).parent
PLANTED = [json.loads(line) for line in (HERE / "planted_hygiene.jsonl").read_text().splitlines()]
DENIED = ("Zoë Müller", "Marcus Tullius", "Katharina Vogt", "Bjørn Strauß", "Νίκος Παππάς", "Иван Петров", "Jan")
ZERO_WIDTH = "\u200b", "\u200d", "\u2060", "\u00ad", "\ufeff"


@pytest.fixture(scope="module")
def deny(tmp_path_factory: pytest.TempPathFactory) -> Scrubber:
    path = tmp_path_factory.mktemp("deny") / "names.txt"
    path.write_text("# names\n\n" + "\n".join(DENIED) + "\n", encoding="utf-8")
    return Scrubber(ScrubPolicy(deny=path))


def test_200_planted_secrets_emails_and_health_identifiers_are_found_and_counted_and_nothing_else() -> None:
    scrubber, total = Scrubber(ScrubPolicy()), Counter[str]()
    for row in PLANTED:
        secret = "".join(row["secret"])
        text, counts = scrubber(row["before"] + secret + row["after"])
        assert secret not in text, row["form"]
        assert text.startswith(row["before"]), row["form"]
        assert text.endswith(row["after"]), row["form"]
        assert sum(counts.values()) == 1, (row["form"], counts)
        total.update(counts)
    assert len(PLANTED) == total.total() == 200
    assert len({row["form"] for row in PLANTED}) >= 40


def test_200_planted_ones_in_one_text_are_found_too() -> None:
    text, counts = Scrubber(ScrubPolicy())(
        "\n\n".join(f"{r['before']}{''.join(r['secret'])}{r['after']}" for r in PLANTED)
    )
    assert not [row["form"] for row in PLANTED if "".join(row["secret"]) in text]
    assert sum(counts.values()) == 200


@pytest.mark.parametrize(
    "text",
    [
        "Zoë Müller",
        "zoë müller",
        "ZOË MÜLLER",
        "Zoe Muller",
        "Zoe Mueller",
        "zoe_müller",
        "zoe.mueller",
        "ZoëMüller",
        "Müller, Zoë",
        "Müller Zoë",
        "MUELLER_ZOE",
        "Müller,\n    // Zoë",
        "Zoë\n    # Müller",
        "Zoë  \r\n\t * Müller",
        "Zoë\n        Müller",
        "Zo&euml; M&uuml;ller",
        "Zo&#235; M&#xFC;ller",
        "Zoe&#x308;&nbsp;Mu&#776;ller",
        "&#90;oe Mueller",
        "Zo\\u00eb M\\u00fcller",
        "Zoë Müller's",
        "Zoë Müller’s",
        "Zoë Müllers",
        "Zoës Müllers",
        "Zoë  \nMüller",
        "Zoë\u00a0Müller",
        "Ｚｏë Ｍüｌｌｅｒ",
        "𝐙𝐨ë 𝑀ü𝑙𝑙𝑒𝑟",
        "Ζοё Мüllеr",
        "Marci Tullii",
        "Marco Tullio",
        "Marcum Tullium",
        "MARCVS".replace("V", "U") + " TULLIUS",
        "Katharinas Vogts",
        "Katharinae Vogt",
        "Katharinen Vogt",
        "Bjorn Strauss",
        "BJØRN STRAUSS",
        "Bjoern Strauß",
        "νίκος παππάς",
        "ΝΙΚΟΣ ΠΑΠΠΑΣ",
        "ИВАН ПЕТРОВ",
        "иван петров",
        "Jan",
        "JAN's",
        "jan_42",
    ],
)
@pytest.mark.parametrize(("before", "after"), [("I am ", ", ok?"), ("«", "»"), ("x = '", "'\n")])
def test_names_of_the_deny_list_are_out_in_other_case_inflection_and_unicode(
    text: str, before: str, after: str, deny: Scrubber
) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        written = unicodedata.normalize(form, text)
        found, counts = deny(before + written + after)
        assert counts == {"denied-name": 1}, ascii(written)
        rest = found.removeprefix(before).removesuffix(after)
        assert rest in {"<DENIED_NAME>", "<DENIED_NAME>_42"}, ascii(found)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<b>M&uuml;ller&amp;Co</b>", None),
        ("<b>Zo&euml; M&uuml;ller&amp;Co</b>", "<b><DENIED_NAME>&amp;Co</b>"),
        ("&lt;Zo&euml; M&uuml;ller&gt; &unknown; ü", "&lt;<DENIED_NAME>&gt; &unknown; ü"),
        ("ß&szlig;Zo&euml; M&uuml;ller", None),
        ("# by Zoë\n    # Müller, 2019\nx = 1\n", "# by <DENIED_NAME>, 2019\nx = 1\n"),
        ("Bjørn Strauß\u200b!", "<DENIED_NAME>!"),
        ("Bj&oslash;rn Strau&szlig;&shy;!", "<DENIED_NAME>!"),
        ("# Zoë\n\n\n    # Müller", None),
        ('{"first": "Zoë",\n "last": "Müller"}', None),
    ],
)
def test_a_name_is_replaced_to_the_character(text: str, left: str | None, deny: Scrubber) -> None:
    assert deny(text)[0] == (text if left is None else left)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Man Hu", "human"),
        ("Ana Dan", "danana"),
        ("Al Verse", "versal"),
        ("Zoë Müller", "Müller"),
        ("Ted Lis", "listed"),
    ],
)
def test_a_word_that_is_two_names_in_the_other_order_is_none(name: str, text: str) -> None:
    assert not list(names.Deny([name]).spans(text))


def test_three_names_are_found_with_the_last_one_first() -> None:
    for text in ("Schmidt, Anna Maria", "Schmidt Anna Maria", "Anna Maria\n# Schmidt"):
        assert list(names.Deny(["Anna Maria Schmidt"]).spans(text)) == [(0, len(text))]


def test_long_white_space_does_not_slow_the_search() -> None:
    deny, text = names.Deny(["Zoë Müller"]), "zoe\n" + " " * 200_000 + "#" + " " * 200_000 + "&" * 200_000
    assert not list(deny.spans(text))


@given(st.sampled_from(DENIED[:3]), st.lists(st.tuples(st.integers(0, 12), st.sampled_from(ZERO_WIDTH)), max_size=4))
def test_characters_of_no_width_hide_no_name(name: str, hidden: list[tuple[int, str]]) -> None:
    scrubber = _deny()
    for place, sign in hidden:
        name = name[:place] + sign + name[place:]
    text, counts = scrubber(f"To {name}.")
    assert counts == {"denied-name": 1}
    assert text.translate(dict.fromkeys(map(ord, ZERO_WIDTH))) == "To <DENIED_NAME>."


def _deny() -> Scrubber:
    from ibidem.data.scrub.names import DENIED as KIND
    from ibidem.data.scrub.names import Deny

    scrubber = Scrubber(ScrubPolicy(secrets=False, personal=False, health=False))
    scrubber._finders = [(KIND, Deny(DENIED).spans)]
    return scrubber


@pytest.mark.parametrize("text", ["Jane", "January", "Zoe", "a miller", "Marcus", "trojan", "mullerin", "Катя"])
def test_other_words_are_not_names_of_the_deny_list(text: str, deny: Scrubber) -> None:
    assert deny(text) == (text, {})


def test_other_names_are_found_as_often_as_the_module_says() -> None:
    rows = [json.loads(line) for line in (HERE / "planted_names.jsonl").read_text(encoding="utf-8").splitlines()]
    scrubber = Scrubber(ScrubPolicy(names=True))
    found = Counter[str]()
    for row in rows:
        text, counts = scrubber(row["before"] + row["name"] + row["after"])
        if row["name"] not in text:
            assert counts["name"] == 1, row
            found[row["form"]] += 1
    assert f"{len(rows)} names that were written down without regard to the rules, {found.total()} are" in " ".join(
        (names.__doc__ or "").split()
    )
    assert (found["title"], found["letter"]) == (4, 4)


@pytest.mark.parametrize("text", ["Hello World", "Dear all,\n", "Author: The Team", "written by hand", "Mr. and Mrs."])
def test_words_that_are_no_names_stay(text: str) -> None:
    assert Scrubber(ScrubPolicy(names=True))(text) == (text, {})


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "has no names"), ("# a\n", "has no names"), ("Jo\n", "line 1: a name needs"), (b"\xff", "not UTF-8")],
)
def test_a_deny_list_that_names_nobody_is_one_line(content: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "deny.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=said):
        read_names(path)


def test_a_deny_list_is_an_input_of_the_dataset_and_its_names_are_nowhere(tmp_path: Path) -> None:
    from ibidem import artifacts
    from ibidem.data import shards
    from ibidem.data.preprocess import PreprocessConfig, preprocess

    (tmp_path / "deny.txt").write_text("Zoë Müller\n", encoding="utf-8")
    (tmp_path / "a.md").write_text("# Notes\n\nZOE MUELLER wrote these notes about the parser.\n")
    config = PreprocessConfig(
        dataset=(f"{tmp_path / 'a.md'}:train:text",),
        output_dir=tmp_path / "out",
        scrub=ScrubPolicy(deny=tmp_path / "deny.txt"),
    )
    preprocess(config)
    made = artifacts.load(tmp_path / "out", kind=shards.KIND)
    assert made.counts["scrubbed"] == {"denied-name": 1}
    assert made.digest_of("deny-list") is not None
    (tmp_path / "deny.txt").write_text("Anna Schmidt\n", encoding="utf-8")
    preprocess(config)
    assert artifacts.load(tmp_path / "out").counts["scrubbed"] == {}
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.json*"))
    assert b"Schmidt" not in everything
