from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibidem.grounding.chunk import chunks
from ibidem.grounding.documents import definitions, markdown, webpage
from ibidem.grounding.documents.readable import Content, Kind, Readable, Section
from ibidem.grounding.sentences import sentence_ends, split_sentences

KINDS: list[Kind] = ["markdown", "text", "html", "code", "pdf", "openapi"]


def document(content: Content, kind: Kind = "markdown") -> Readable:
    return Readable("a", kind, *content)


def texts(content: Content, max_chars: int, kind: Kind = "markdown") -> list[tuple[str, str]]:
    made = chunks(document(content, kind), max_chars)
    return [(" > ".join(span.title), content.text[span.start : span.end]) for span in made]


@st.composite
def documents(draw: st.DrawFn) -> Readable:
    text = draw(st.text(alphabet="ab.:#-*` \n\r\t\u3000。", max_size=600))
    borders = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=6))})
    title = st.lists(st.sampled_from("AB"), max_size=3).map(tuple)
    spans = pairwise(borders)
    sections = [Section(draw(title), start, end) for start, end in spans if text[start:end].strip()]
    marks = sorted({*draw(st.lists(st.integers(0, len(text)), max_size=6))})
    whole = tuple(zip(marks[::2], marks[1::2], strict=False))
    return Readable("a", draw(st.sampled_from(KINDS)), text, tuple(sections), whole)


@settings(max_examples=500)
@given(documents(), st.integers(1, 300))
def test_every_character_that_is_not_blank_is_in_exactly_one_chunk_of_bounded_length(
    readable: Readable, max_chars: int
) -> None:
    made = chunks(readable, max_chars)
    assert all(0 < span.end - span.start <= max_chars for span in made)
    end = 0
    for span in made:
        assert end <= span.start
        assert not readable.text[end : span.start].strip()
        assert readable.text[span.start : span.end].strip()
        end = span.end
    assert not readable.text[end:].strip()


@settings(max_examples=300)
@given(documents(), st.integers(8, 300))
def test_a_chunk_crosses_sections_only_where_tiny_ones_are_joined(readable: Readable, max_chars: int) -> None:
    def is_tiny(section: Section) -> bool:
        return len(readable.text[section.start : section.end].strip()) < max_chars // 8

    for span in chunks(readable, max_chars):
        inside = [each for each in readable.sections if each.start < span.end and span.start < each.end]
        assert all(is_tiny(each) for each in inside[:-1])
        below = [each for each in inside if each.title[: len(span.title)] == span.title]
        leads = [each for each in inside if span.title[: len(each.title)] == each.title]
        assert len({*below, *leads}) == len({*inside})


@given(documents(), st.integers(1, 300))
def test_chunks_are_the_same_every_time_and_whatever_the_path(readable: Readable, max_chars: int) -> None:
    assert chunks(readable, max_chars) == chunks(readable._replace(path="b"), max_chars)


def test_paragraphs_stay_whole_and_chunks_are_filled_evenly() -> None:
    text = "\n\n".join(letter * 80 for letter in "abcd")
    made = texts(Content(text, (Section(("T",), 0, len(text)),)), 250)
    assert made == [("T", f"{'a' * 80}\n\n{'b' * 80}"), ("T", f"{'c' * 80}\n\n{'d' * 80}")]


def test_a_long_paragraph_is_cut_between_sentences_and_a_long_sentence_between_words() -> None:
    content = markdown.read("One sentence stands\nhere. Another one is\nthere. Many " + "word " * 30)
    made = [text for _, text in texts(content, 60)]
    assert made[0] == "One sentence stands\nhere. Another one is\nthere."
    assert all(set(text.split()) <= {"Many", "word"} for text in made[1:])


def test_a_word_longer_than_a_chunk_is_cut() -> None:
    made = [text for _, text in texts(markdown.read("x" * 250 + " end"), 100)]
    assert made == ["x" * 100, "x" * 100, "x" * 50 + " end"]


def test_code_in_a_fence_stays_whole_if_it_fits() -> None:
    code = "```py\n" + "\n\n".join(["x = 1  # " + "y" * 30] * 4) + "\n```"
    made = [text for _, text in texts(markdown.read(f"{'a ' * 60}\n\nLike this:\n\n{code}\n\n{'b ' * 60}"), 240)]
    assert any(code in text for text in made)


def test_code_that_is_too_long_is_cut_between_its_lines_and_keeps_its_indentation() -> None:
    code = "def f():\n" + "".join(f"    x = {number}. if y else z\n" for number in range(30))
    made = [text for _, text in texts(definitions.read(code, "Python"), 200, "code")]
    assert len(made) > 2
    assert all(text.startswith("    x = ") and text.endswith(" z") for text in made[1:])


def test_a_heading_is_joined_with_its_first_subsection_and_tiny_siblings_with_each_other() -> None:
    long = "words " * 30
    content = markdown.read(
        f"# Title\n\n## Long\n\n{long}\n\n## One\n\na\n\n## Two\n\nb\n\n### Three\n\nc\n\n# Other\n\nd\n"
    )
    assert texts(content, 200) == [
        ("Title > Long", f"# Title\n\n## Long\n\n{long.strip()}"),
        ("Title > One", "## One\n\na"),
        ("Title > Two > Three", "## Two\n\nb\n\n### Three\n\nc"),
        ("Other", "# Other\n\nd"),
    ]
    content = markdown.read(f"# Title\n\n{long}\n\n## One\n\na\n\n## Two\n\nb\n\n# Other\n\nd\n")
    assert [title for title, _ in texts(content, 200)] == ["Title", "Title", "Other"]


def test_tiny_siblings_are_joined_only_while_they_fit() -> None:
    content = markdown.read(
        "# Title\n\n" + "words " * 30 + "".join(f"\n\n## Part {n}\n\nten chars." for n in range(20))
    )
    made = texts(content, 200)
    assert [title for title, _ in made] == ["Title"] * 4
    assert all("## Part" in text and text.startswith("##") for _, text in made[1:])


def test_a_short_paragraph_is_not_joined_with_one_that_fits_only_alone() -> None:
    content = markdown.read("Hi.\n\n" + "x. " * 66 + "\n\n" + "y. " * 66)
    assert [text for _, text in texts(content, 200)] == ["Hi.", ("x. " * 66).strip(), ("y. " * 66).strip()]


def test_a_line_that_announces_something_stays_with_it() -> None:
    content = markdown.read(f"{'a ' * 20}\n\n{'b ' * 15}such as:\n\n{'c ' * 29}")
    assert [text[0] for _, text in texts(content, 110)] == ["a", "b"]


def test_an_absurd_indentation_is_left_out() -> None:
    assert [text for _, text in texts(markdown.read(" " * 60 + "x"), 100)] == ["x"]
    assert [text for _, text in texts(definitions.read("    x", "C"), 100, "code")] == ["    x"]


def test_methods_carry_their_qualified_names() -> None:
    body = "".join(f"        x = {number}\n" for number in range(40))
    made = texts(
        definitions.read(f"class A:\n    def b(self):\n{body}\n    def c(self):\n{body}", "Python"), 400, "code"
    )
    assert [title for title, _ in made] == ["A > A.b", "A > A.b", "A > A.c", "A > A.c"]


def test_a_line_without_end_and_a_run_of_blanks_are_divided_in_bounded_time() -> None:
    for text in ("a b " * 50_000, "e.g. " * 40_000, "x" * 200_000, "x" + " " * 200_000 + "y", "a\n\n" * 20_000):
        made = chunks(document(markdown.read(text), "text"), 1200)
        assert sum(span.end - span.start for span in made) <= len(text)
        assert len(made) <= len(text) // 600 + 2


def test_a_page_is_cut_between_the_items_of_its_lists() -> None:
    items = "".join(f"<li>Item {number:02}. It has two sentences, and the second is longer." for number in range(20))
    made = [text for _, text in texts(webpage.read(f"<ul>{items}</ul>"), 100, "html")]
    assert all(text.startswith("- Item ") and text.endswith("longer.") for text in made)


@pytest.mark.parametrize("any_case", [True, False])
@given(text=st.text(alphabet='aB.!?\n )"。0', max_size=100))
def test_sentence_ends_are_where_sentences_are_split(text: str, any_case: bool) -> None:
    ends = list(sentence_ends(text, any_case=any_case))
    pieces = [text[start:end].strip() for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    assert split_sentences(text, any_case=any_case) == [piece for piece in pieces if piece]
