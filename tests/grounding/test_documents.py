import io
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from ibidem.errors import ConfigError, DataError
from ibidem.grounding.config import ReadConfig
from ibidem.grounding.documents import definitions, folder, isolation, markdown, opening, plain, webpage
from ibidem.grounding.documents.folder import DEFAULT, list_folder, read_file, read_folder
from ibidem.grounding.documents.hidden import hidden_selectors
from ibidem.grounding.documents.readable import Content, Readable, title_of
from ibidem.records import Unreadable


def readable(folder: Path, path: str, limits: ReadConfig = DEFAULT) -> Readable:
    document = read_file(folder, path, limits)
    assert isinstance(document, Readable), document
    return document


def reason(folder: Path, path: str, limits: ReadConfig = DEFAULT) -> str:
    document = read_file(folder, path, limits)
    assert isinstance(document, Unreadable), document
    assert document.file == path
    assert "\n" not in document.reason
    return document.reason


def titles(content: Content | Readable) -> list[tuple[str, ...]]:
    return [section.title for section in content.sections]


def parts(content: Content | Readable) -> dict[tuple[str, ...], str]:
    return {section.title: content.text[section.start : section.end].strip() for section in content.sections}


def pdf(
    *pages: str,
    password: str | None = None,
    user_password: str | None = None,
    bookmarks: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(width=300, height=300)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(stream)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    for title, number in bookmarks.items():
        writer.add_outline_item(title=title, page_number=number)
    if password is not None:
        writer.encrypt(user_password=user_password or "", owner_password=password, algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


# The folder


def test_documents_come_sorted_by_path_whatever_the_order_of_creation(tmp_path: Path) -> None:
    names = ["b/z.md", "a.md", "b.md", "b/a.txt", "Z.md"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    assert [document.path for document in read_folder(tmp_path) if isinstance(document, Readable)] == sorted(names)
    assert list_folder(tmp_path).files == tuple(sorted(names))


def test_hidden_and_unknown_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.md").write_text("x")
    for name in (".env", "logo.png", "photo.PNG", "a.md", "LICENSE", "Makefile"):
        (tmp_path / name).write_text("x")
    listing = list_folder(tmp_path)
    assert listing.files == ("LICENSE", "Makefile", "a.md")
    assert listing.skipped == {"hidden": 2, "unknown kind .png": 2}
    assert listing.unreadable == ()


def test_links_devices_and_pipes_are_reported_and_never_followed(tmp_path: Path) -> None:
    docs, outside = tmp_path / "docs", tmp_path / "outside"
    docs.mkdir()
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    (docs / "a.md").write_text("inside")
    (docs / "file_out.md").symlink_to(outside / "secret.md")
    (docs / "folder_out").symlink_to(outside)
    (docs / "circle.md").symlink_to(docs / "circle.md")
    (docs / "nothing.md").symlink_to(docs / "gone.md")
    (docs / "around").symlink_to(docs)
    (docs / "same.md").symlink_to(docs / "a.md")
    os.mkfifo(docs / "pipe.md")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(docs / "socket.md"))
    listing = list_folder(docs)
    assert listing.files == ("a.md",)
    assert listing.skipped == {"link to a file of the folder": 1}
    assert {each.file: each.reason for each in listing.unreadable} == {
        "around": "a symbolic link to a folder around it",
        "circle.md": "a symbolic link that leads in a circle, or cannot be followed",
        "file_out.md": "a symbolic link out of the folder",
        "folder_out": "a symbolic link out of the folder",
        "nothing.md": "a symbolic link to nothing",
        "pipe.md": "not a file, but a FIFO",
        "socket.md": "not a file, but a socket",
    }
    assert not any("secret" in document.text for document in read_folder(docs) if isinstance(document, Readable))


def test_a_file_or_folder_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    docs, outside = tmp_path / "docs", tmp_path / "outside"
    (docs / "folder").mkdir(parents=True)
    outside.mkdir()
    (outside / "a.md").write_text("secret")
    (docs / "folder" / "a.md").symlink_to(outside / "a.md")
    assert reason(docs, "folder/a.md") == "cannot be opened: a symbolic link by now"
    (docs / "folder" / "a.md").unlink()
    (docs / "folder").rmdir()
    (docs / "folder").symlink_to(outside)
    assert reason(docs, "folder/a.md").startswith("cannot be opened: ")
    os.mkfifo(docs / "b.md")
    assert reason(docs, "b.md") == "not a regular file by now"
    assert reason(docs, "c.md") == "cannot be opened: No such file or directory"


@pytest.mark.parametrize("path", ["../a.md", "b/../../a.md", "/etc/passwd", "", "./a.md", "b//a.md"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="not a path inside a folder"):
        read_file(tmp_path, path)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.md", "A.md"), ("caf\u00e9.md", "cafe\u0301.md"), ("stra\u00dfe.md", "strasse.md"), ("x/a.md", "X/b.md")],
)
def test_twins_of_a_path_are_refused_with_both_names(tmp_path: Path, one: str, other: str) -> None:
    for name in (one, other):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system takes them for one file")
    with pytest.raises(DataError, match="rename one") as raised:
        list_folder(tmp_path)
    for name in (one, other):
        assert any(repr(shown) in str(raised.value) for shown in (name, name.partition("/")[0])) or (
            ascii(name) in str(raised.value)
        )


@pytest.mark.parametrize(("pairs", "said"), [(5, "'N4.md' and 'n4.md'"), (7, "; and 2 more")])
def test_up_to_five_twins_are_named(tmp_path: Path, pairs: int, said: str) -> None:
    for name in (f"{letter}{number}.md" for number in range(pairs) for letter in "nN"):
        (tmp_path / name).write_text("x")
    if len(list(tmp_path.iterdir())) < 2 * pairs:
        pytest.skip("this file system takes them for one file")
    with pytest.raises(DataError, match="rename one of each") as raised:
        list_folder(tmp_path)
    assert said in str(raised.value)


def test_twins_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    for name in ("caf\u00e9.md", "cafe\u0301.md"):
        (tmp_path / name).write_text("x")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes them for one file")
    with pytest.raises(DataError, match=r"'cafe\\u0301\.md' and 'caf\\xe9\.md'"):
        list_folder(tmp_path)


def test_a_folder_that_is_missing_or_a_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    for path in (tmp_path / "missing", tmp_path / "a.md"):
        with pytest.raises(ConfigError, match="give a folder of documents"):
            list_folder(path)


def test_names_that_are_not_utf8_or_break_lines_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a\nb.md").write_text("x")
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("x")
    assert {each.reason for each in list_folder(tmp_path).unreadable} == {
        "its name has control characters; rename it",
        "its name is not UTF-8; rename it",
    }


def test_folders_are_entered_to_a_bounded_depth(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 102)
    deep.mkdir(parents=True)
    (deep / "a.md").write_text("x")
    listing = list_folder(tmp_path)
    assert listing.files == ()
    assert [each.reason for each in listing.unreadable] == ["folders nested deeper than 100"]


# Bytes


def test_a_file_above_the_limit_is_reported_whatever_its_lines(tmp_path: Path) -> None:
    (tmp_path / "line.md").write_bytes(b"x" * 1_000_001)
    limits = ReadConfig(max_bytes=1_000_000)
    assert reason(tmp_path, "line.md", limits) == "1,000,001 bytes, more than the limit of 1,000,000"
    with (tmp_path / "sparse.md").open("wb") as file:
        file.truncate(100 << 20)
    assert reason(tmp_path, "sparse.md") == "104,857,600 bytes, more than the limit of 16,777,216"


@pytest.mark.parametrize("after", ["after and longer", "after!"])
def test_a_file_that_changes_while_it_is_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    path = tmp_path / "a.md"
    path.write_text("before")
    fstat, calls = os.fstat, []

    def changing(descriptor: int) -> os.stat_result:
        calls.append(descriptor)
        if len(calls) == 2:
            path.write_text(after)
            os.utime(path, (1, 1))
        return fstat(descriptor)

    monkeypatch.setattr(opening.os, "fstat", changing)
    assert reason(tmp_path, "a.md") == "it changed while it was read; run again"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"a\0b", "binary: NUL at byte 1"),
        (b"caf\xe9", "not UTF-8: byte 0xe9 at 3; save the file as UTF-8"),
        (b"\xff\xfea\0\0\0", "binary: NUL at character 1"),
        (b"\xff\xfea", "not UTF-16-LE: byte 0x61 at 2; save the file as UTF-8"),
    ],
)
def test_bytes_that_are_no_text_are_reported(tmp_path: Path, raw: bytes, said: str) -> None:
    for name in ("a.md", "a.txt", "a.py", "a.html", "a.json"):
        (tmp_path / name).write_bytes(raw)
        assert reason(tmp_path, name) == said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_understood_and_left_out(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.md").write_bytes("# Größe\n".encode(encoding))
    assert readable(tmp_path, "a.md").text == "# Größe\n"


def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    for name, raw in {"a.md": b"# A\n", "b.pdf": b"%PDF-1.7\n", "c.md": b"\xff", "d.md": b"# D\n"}.items():
        (tmp_path / name).write_bytes(raw)
    assert [type(each).__name__ for each in read_folder(tmp_path)] == [
        "Readable",
        "Unreadable",
        "Unreadable",
        "Readable",
    ]


# Markdown and text


def test_headings_of_markdown_are_sections_and_the_text_is_the_file(tmp_path: Path) -> None:
    text = (
        "intro\r\n\r\n# One `x` & *two*\r\na\r\n\r\nSub\r\n---\r\nb\r\n```sh\r\n# no heading\r\n\r\nls\r\n```\r\n"
        "# Three\r\n> # quoted\r\n"
    )
    (tmp_path / "a.md").write_bytes(text.encode())
    document = readable(tmp_path, "a.md")
    assert document.text == text
    assert titles(document) == [(), ("One x & two",), ("One x & two", "Sub"), ("Three",)]
    assert parts(document)[("Three",)] == "# Three\r\n> # quoted"
    ((start, end),) = document.whole
    assert text[start:end] == "```sh\r\n# no heading\r\n\r\nls\r\n```\r\n"


def test_front_matter_is_no_heading_and_gives_the_title() -> None:
    content = markdown.read("---\ntitle: Rules\n---\n## Breaks\nx\n")
    assert titles(content) == [("Rules",), ("Rules", "Breaks")]
    assert titles(markdown.read("---\ntitle: Rules\n---\n# Breaks\n")) == [(), ("Breaks",)]


def test_underlines_and_overlines_make_headings_by_order_of_style() -> None:
    text = (
        "=====\nTitle\n=====\n\nintro::\n\n  a\n\n  b\n\nPart\n----\n\nx\n\nDeeper\n~~~~~~\n\n"
        "Next\n----\n\nA line\nof text\n-------\n"
    )
    content = plain.read(text)
    assert titles(content) == [("Title",), ("Title", "Part"), ("Title", "Part", "Deeper"), ("Title", "Next")]
    assert [text[start:end] for start, end in content.whole] == ["\n  a\n\n  b\n\n"]


@given(st.text(alphabet="ab#=-~`>| \n\r\t*[]", max_size=300))
def test_sections_of_texts_are_ordered_disjoint_and_hold_all_that_is_not_blank(text: str) -> None:
    for content in (
        markdown.read(text),
        plain.read(text),
        definitions.read(text, "C"),
        definitions.read(text, "Python"),
    ):
        assert content.text == text
        end = 0
        for section in content.sections:
            assert end <= section.start < section.end <= len(text)
            assert not text[end : section.start].strip()
            end = section.end
        assert not text[end:].strip()


# Pages


def page(body: str, head: str = "") -> Content:
    return webpage.read(f"<!doctype html><html><head>{head}</head><body>{body}</body></html>")


def test_headings_of_a_page_are_sections() -> None:
    content = page(
        "<p>lead<h1>One <a class=headerlink href=#>¶</a></h1><p>a<h3>Sub</h3>b<h2>Two</h2>c", "<title>T</title>"
    )
    assert parts(content) == {
        (): "lead",
        ("One",): "One\n\na",
        ("One", "Sub"): "Sub\n\nb",
        ("One", "Two"): "Two\n\nc",
    }
    assert titles(page("<h2>Two</h2>c", "<title>T</title>")) == [("T", "Two")]


HIDDEN = [
    "<script>{}</script>",
    "<style>{}</style>",
    "<template>{}</template>",
    "<template><p>{}</p></template>",
    "<noscript>{}</noscript>",
    "<!-- {} -->",
    "<!-- > {} --!>",
    "<div hidden>{}</div>",
    "<div HIDDEN=until-found><p>{}</div>",
    "<p hidden>{}",
    "<p aria-hidden=true>{}</p>",
    "<p style='display:none'>{}</p>",
    "<p style='DISPLAY : NONE !important; display:block'>{}</p>",
    "<p style='displa\\79: none'>{}</p>",
    "<p style='dis/**/play:x;display:/*x*/none'>{}</p>",
    "<div style='visibility: hidden'><b>{}</b></div>",
    "<span style='font-size:0'>{}</span>",
    "<span style='font:0/0 a'>{}</span>",
    "<span style='font-size:1px'>{}</span>",
    "<span style='opacity:0.0'>{}</span>",
    "<span style='color:white'>{}</span>",
    "<span style='color:#FFFFFE'>{}</span>",
    "<span style='color:rgb(255, 255, 255)'>{}</span>",
    "<span style='color:rgba(0,0,0,0)'>{}</span>",
    "<font color=white>{}</font>",
    "<div style='background:#000'><span style='color:black'>{}</span></div>",
    "<table bgcolor=black><tr><td><font color='#000'>{}</font></table>",
    "<div style='height:0;overflow:hidden'>{}</div>",
    "<div style='position:absolute;left:-9999px'>{}</div>",
    "<div style='position:absolute;clip:rect(0,0,0,0)'>{}</div>",
    "<div style='text-indent:-9999px'>{}</div>",
    "<dialog>{}</dialog>",
    "<div popover>{}</div>",
    "<select><option>{}</select>",
    "<svg><desc>{}</desc></svg>",
    "<iframe>{}</iframe>",
    "<img alt='{}'><input type=hidden value='{}'><p title='{}'>",
    "<style>.x, p.y {{ display: none }}</style><p class=y>{}</p>",
    "<style>/* */ #z {{ color: red; visibility: hidden }}</style><p id=z>{}</p>",
    "<nav>{}</nav>",
    "<div role=navigation>{}</div>",
    "<div class='toctree-wrapper compound'><ul><li>{}</ul></div>",
    "<header>{}</header>",
    "<div><footer>{}</footer></div>",
]
SEEN = [
    "<p style='display:none;display:block'>{}</p>",
    "<p style='color:white;background:navy'>{}</p>",
    "<div style='background-color:#000'><span style='color:#fff'>{}</span></div>",
    "<p style='font-size:12px'>{}</p>",
    "<p style='font: 700 12px serif'>{}</p>",
    "<p style='max-width:0.5em'>{}</p>",
    "<p aria-hidden=false>{}</p>",
    "<article><header>{}</header></article>",
    "<dialog open>{}</dialog>",
    "<details><summary>More</summary>{}</details>",
    "<style>@media print {{ .x {{ display: none }} }} .q {{ display: none }}</style><p class=x>{}</p>",
    "<p hidden></p>{}",
    "<textarea>{}</textarea>",
    "<p>&#122;anzibar {}</p>",
]


@pytest.mark.parametrize("markup", HIDDEN)
def test_what_a_page_hides_is_not_read(markup: str) -> None:
    content = page(f"<h1>Shown</h1>{markup.replace('{{', '{').replace('}}', '}').replace('{}', 'zanzibar')}<p>end</p>")
    assert "zanzibar" not in content.text
    assert not any("zanzibar" in part for section in content.sections for part in section.title)
    assert content.text.startswith("Shown")


@pytest.mark.parametrize("markup", SEEN)
def test_what_a_page_shows_is_read(markup: str) -> None:
    assert "zanzibar" in page(markup.replace("{{", "{").replace("}}", "}").replace("{}", "zanzibar")).text


def test_only_the_main_part_of_a_page_is_read_if_it_names_one() -> None:
    assert page("<div>menu</div><main><h1>A</h1><nav>toc</nav>text</main><div>foot</div>").text.strip() == "A\n\ntext"
    assert page("<div>menu</div><div role=main>text</div>").text.strip() == "text"
    assert page("<div hidden><main>secret</main></div>").text.strip() == ""
    assert page("<main></main><p>text").text.strip() == "text"


def test_lists_tables_and_preformatted_text_keep_their_shape() -> None:
    content = page(
        "<ul><li>one<ul><li><p>deep</p></ul><li><p>two  <b>b</b>old</ul><ol start=3><li>x<li>y</ol>"
        "<table><caption>Cap</caption><tr><th>A<th>B<tr><td>1<td><p>2</p><p>3</table>after"
        "<pre>\ndef f():\n\n    return  1\n</pre>end<br>line"
    )
    assert content.text.strip() == (
        "- one\n  - deep\n- two bold\n\n3. x\n4. y\n\nCap\nA | B\n1 | 2 3\n\nafter\n\n"
        "def f():\n\n    return  1\n\nend\nline"
    )
    assert [content.text[start:end].strip()[:3] for start, end in content.whole] == ["Cap", "def"]


def test_what_sphinx_documents_is_a_section_below_its_heading() -> None:
    content = page(
        "<h1>Lib</h1><dl class='py class'><dt class='sig' id=A>class lib.A(x)<a class=headerlink>¶</a><dd><p>An A."
        "<dl><dt class=sig>int (*<span class=sig-prename>A.</span><b class=sig-name>run</b>)()<dd>Runs.</dl></dl>"
        "<p>After.<h2>Next</h2>"
    )
    assert [(section.title, content.text[section.start : section.end].strip()) for section in content.sections] == [
        (("Lib",), "Lib"),
        (("Lib", "class lib.A"), "class lib.A(x)\n\nAn A."),
        (("Lib", "class lib.A", "A.run"), "int (*A.run)()\nRuns."),
        (("Lib",), "After."),
        (("Lib", "Next"), "Next"),
    ]


@pytest.mark.parametrize(
    "color",
    ["rgb(1.2.3,0,0)", f"rgb({'4' * 400},0,0)", "rgb(.,.,.)", "rgba(0,0,0,1.2.3)", f"rgba(0,0,0,{'9' * 400})", "#12"],
)
def test_a_color_that_is_none_hides_nothing(color: str) -> None:
    assert webpage.read(f'<p style="color: {color}">seen').text.strip() == "seen"


@pytest.mark.parametrize("color", ["rgb(999, 9999, 99999)", f"rgb({'9' * 400} 300% 255)", f"rgba(0,0,0,.{'0' * 400}1)"])
def test_a_color_beyond_its_bounds_is_the_nearest_one(color: str) -> None:
    assert not webpage.read(f'<p style="color: {color}">unseen').text.strip()


@pytest.mark.parametrize("piece", ["a", "a ", "@", "@a", "@a{", "@a{b{}", "{", "}", ".a{b:c}", "scale(", "a;", "/*"])
def test_a_long_style_sheet_takes_time_by_its_length(piece: str) -> None:
    sheet = piece * (400_000 // len(piece))
    assert webpage.read(f"<style>{sheet}</style><p>seen").text.strip() == "seen"


@pytest.mark.parametrize(
    "style",
    [f"width:{'1' * 400_000}x", f"transform:scale({'0' * 400_000}x", f"color:rgb({'1' * 400_000}x", "a(" * 200_000],
)
def test_a_long_style_takes_time_by_its_length(style: str) -> None:
    assert webpage.read(f'<p style="{style}">seen').text.strip() == "seen"


def test_rules_of_a_style_sheet_that_hold_always_are_told_from_others() -> None:
    sheet = """
    @import url(x); .a { display: none; .in & { color: red } }
    @media print { .b { display: none } } @font-face { c: d } p.c, .d > .e { display: none }
    } .f { display: block } .g { visibility: hidden
    """
    assert list(hidden_selectors(sheet)) == [".a", "p.c", ".g"]


def test_an_error_of_a_parser_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_text: str) -> Content:
        raise ValueError("not\nforeseen")

    (tmp_path / "a.html").write_text("<p>x")
    (tmp_path / "b.md").write_text("# B")
    monkeypatch.setattr(webpage, "read", fail)
    assert reason(tmp_path, "a.html") == "the reader failed: ValueError: not foreseen"
    assert isinstance(read_file(tmp_path, "b.md"), Readable)


@pytest.mark.parametrize(
    "page",
    [
        "<h1>One<b><h2>two</h2></b> more</h1><p>text",
        "<h2>One<b><h1>two</h1></b></h2><p>text",
        "<dl><dt class=sig>f(<h2>x</h2>)</dt><dd>text</dl>",
        "<h1>One<dl><dt class=sig>f</dt><dd>g</dl></h1><p>text",
        "<dl><dt class=sig>f<dl><dt class=sig>g</dt></dl></dt><dd>text</dl><p>more",
    ],
)
def test_a_heading_inside_a_heading_is_a_part_of_it(page: str) -> None:
    content = webpage.read(page)
    assert len(content.sections) == 1 + page.endswith("more")
    assert [(section.start, section.end) for section in content.sections][-1][1] == len(content.text)


def test_a_page_may_declare_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes("<meta charset=windows-1251><p>Привет".encode("windows-1251"))
    assert readable(tmp_path, "a.html").text == "Привет"


def test_a_page_that_is_nested_too_deep_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<div>" * 1_000_000)
    assert reason(tmp_path, "a.html") == "elements nested deeper than 1,000"


@given(st.text(alphabet="<>/!-apdivtr h12ul\n=\"'&;", max_size=200))
def test_any_markup_is_read_without_an_error(markup: str) -> None:
    content = webpage.read(markup)
    end = 0
    for section in content.sections:
        assert not content.text[end : section.start].strip()
        end = section.end
    assert not content.text[end:].strip()


# Code


def test_definitions_of_python_have_qualified_names() -> None:
    code = (
        '"""Doc."""\nimport os\n\n# about f\n@deco\ndef f():\n    pass\n\nclass A:\n    """An A."""\n\n    x = 1\n\n'
        "    async def b(self):\n        def inner(): ...\n\n    y = 2\n\nif os:\n    def g(): ...\nrest = 1\n"
    )
    content = definitions.read(code, "Python")
    assert titles(content) == [(), ("f",), ("A",), ("A", "A.b"), ("A",), (), ("g",), ()]
    assert parts(content)[("f",)] == "# about f\n@deco\ndef f():\n    pass"


@pytest.mark.parametrize(
    ("language", "code", "names"),
    [
        ("Go", "package x\n\n// Adds.\nfunc (s *S) Add(a int) int {\n}\n\ntype S struct {\n}\n", ["Add", "S"]),
        ("Rust", "#[test]\npub(crate) fn run<T>() {}\n\nimpl<T> Foo for Bar {\n}\n", ["run", "Foo"]),
        (
            "C",
            "#include <x.h>\n\nstatic int\nmain(int a)\n{\n}\nint declared(void);\n\nvoid *f(int a) {\n}\n",
            ["main", "f"],
        ),
        ("JavaScript", "export default class A {\n}\nasync function f() {\n}\n", ["A", "f"]),
        ("TOML", "[project]\nname = 1\n[[tool.x]]\n", ["project", "tool.x"]),
        ("YAML", "on: push\njobs:\n  build: 1\n", ["on", "jobs"]),
        ("SQL", "CREATE TABLE IF NOT EXISTS users (id int);\ncreate or replace view v as select 1;\n", ["users", "v"]),
        ("Shell", "set -e\nrun() {\n  ls\n}\n", ["run"]),
        ("Python", "print 'old'\n\ndef f(x):\n    pass\n", ["f"]),
    ],
)
def test_definitions_of_other_languages_are_found_by_their_lines(language: str, code: str, names: list[str]) -> None:
    content = definitions.read(code, language)
    assert [title[0] for title in titles(content) if title] == names
    assert content.text == code


def test_comments_above_a_definition_belong_to_it() -> None:
    content = definitions.read("package x\n\n// Adds\n// two.\nfunc Add() {\n}\n", "Go")
    assert parts(content)[("Add",)].startswith("// Adds\n// two.\nfunc")


def test_a_notebook_is_read_as_its_script(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text(
        '{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "code", "source": "def f(): ..."}]}'
    )
    assert titles(readable(tmp_path, "a.ipynb")) == [("f",)]
    (tmp_path / "b.ipynb").write_text("{}")
    assert reason(tmp_path, "b.ipynb") == "a notebook that cannot be read"


# OpenAPI

API = """
openapi: "3.1.0"
info: {title: Pets, version: 1.10, description: "Line one.\\nLine two."}
paths:
  /pets/{id}:
    parameters: [{name: id, in: path}]
    get:
      summary: Info of a pet
      parameters:
      - name: id
        required: no
      responses:
        '200': {content: {application/json: {schema: {$ref: '#/components/schemas/Pet'}}}}
components:
  schemas:
    Pet: {type: object, required: [id, name], properties: {id: {type: integer}}}
"""


def test_operations_and_schemas_of_an_api_are_sections(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(API)
    document = readable(tmp_path, "api.yaml")
    assert document.kind == "openapi"
    assert parts(document) == {
        (
            "Pets",
        ): "Pets\nopenapi: 3.1.0\ninfo:\n  title: Pets\n  version: 1.10\n  description:\n    Line one.\n    Line two.",
        ("Pets", "/pets/{id}"): "/pets/{id}\nparameters:\n  - name: id\n    in: path",
        ("Pets", "GET /pets/{id}"): (
            "GET /pets/{id}\nsummary: Info of a pet\nparameters:\n  - name: id\n    required: no\nresponses:\n  200:\n"
            "    content:\n      application/json:\n        schema:\n          $ref: #/components/schemas/Pet"
        ),
        ("Pets", "Pet"): "Pet\ntype: object\nrequired: id, name\nproperties:\n  id:\n    type: integer",
    }


def test_an_api_in_json_is_read_likewise_and_other_json_as_lines(tmp_path: Path) -> None:
    (tmp_path / "api.json").write_text(
        '{"openapi": "3.0.0", "paths": {"/a": {"get": {"deprecated": true, "x": 1.50}}}}'
    )
    document = readable(tmp_path, "api.json")
    assert parts(document)[("GET /a",)] == "GET /a\ndeprecated: true\nx: 1.50"
    (tmp_path / "other.json").write_text('{"a": {"openapi": "3"}}')
    assert readable(tmp_path, "other.json").kind == "code"


def test_bombs_of_aliases_and_of_nesting_are_reported(tmp_path: Path) -> None:
    levels = "".join(f"  a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(20))
    bombs = {
        "laughs.yaml": f"openapi: '3'\nx:\n  a0: &a0 [ha]\n{levels}",
        "circle.yaml": "openapi: '3'\nx: &x {y: *x}\n",
        "deep.yaml": f"openapi: '3'\nx: {'[' * 100_000}",
        "dashes.yaml": f"openapi: '3'\nx:\n  {'- ' * 100_000}",
        "deep.json": '{"openapi": "3", "x": ' + "[" * 100_000,
        "broken.yaml": "openapi: '3'\nx: [\n",
        "broken.json": '{"openapi": "3",',
    }
    for name, text in bombs.items():
        (tmp_path / name).write_text(text)
        assert reason(tmp_path, name).startswith("OpenAPI"), name


# PDF


NEXT_LINE = ") Tj 0 -20 Td ("


def test_pages_and_bookmarks_of_a_pdf_are_sections(tmp_path: Path) -> None:
    lines = f"end of it{NEXT_LINE}Chapter  2{NEXT_LINE}second"
    bookmarks = {"Chapter 1": 1, "Chapter 2": 2}
    (tmp_path / "a.pdf").write_bytes(pdf("cover", "first words", lines, "more", bookmarks=bookmarks))
    assert parts(readable(tmp_path, "a.pdf")) == {
        ("page 1",): "cover",
        ("page 2", "Chapter 1"): "first words",
        ("page 3", "Chapter 1"): "end of it",
        ("page 3", "Chapter 2"): "Chapter  2\nsecond",
        ("page 4", "Chapter 2"): "more",
    }


def test_running_titles_of_a_pdf_are_left_out(tmp_path: Path) -> None:
    pages = [f"Manual 1.{number}{NEXT_LINE}text {number}{NEXT_LINE}{number}" for number in range(4)]
    (tmp_path / "a.pdf").write_bytes(pdf(*pages, "Manual of another"))
    shown = readable(tmp_path, "a.pdf").text.split("\n\n")
    assert shown == ["Manual 1.0\ntext 0", "text 1", "text 2", "text 3", "Manual of another", ""]


def test_an_encrypted_pdf_is_reported_unless_everybody_may_open_it(tmp_path: Path) -> None:
    (tmp_path / "secret.pdf").write_bytes(pdf("words", password="owner", user_password="user"))
    (tmp_path / "open.pdf").write_bytes(pdf("words", password="owner"))
    assert reason(tmp_path, "secret.pdf") == "an encrypted PDF file; save it without a password"
    assert readable(tmp_path, "open.pdf").text.strip() == "words"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_pdf_is_reported(tmp_path: Path, share: float) -> None:
    whole = pdf("one", "two")
    (tmp_path / "a.pdf").write_bytes(whole[: int(len(whole) * share)])
    assert reason(tmp_path, "a.pdf") == "a truncated PDF file: its end is missing"


def test_a_pdf_that_is_malformed_or_without_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "malformed.pdf").write_bytes(b"%PDF-1.7\nnothing\n%%EOF\n")
    (tmp_path / "empty.pdf").write_bytes(pdf("", ""))
    (tmp_path / "none.pdf").write_bytes(b"hello")
    assert reason(tmp_path, "malformed.pdf").startswith("a malformed PDF file: ")
    assert reason(tmp_path, "empty.pdf").startswith("a PDF file without text, 2 pages")
    assert reason(tmp_path, "none.pdf") == "not a PDF file"


def test_a_pdf_has_bounded_pages_text_time_and_memory(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("one", "two", "three"))
    assert reason(tmp_path, "a.pdf", ReadConfig(max_pdf_pages=2)) == "a PDF file of 3 pages, more than 2"
    assert reason(tmp_path, "a.pdf", ReadConfig(max_bytes=5)) == "a PDF file with more than 5 bytes of text"
    (tmp_path / "slow.pdf").write_bytes(pdf("x) Tj (" * 500_000))
    limits = ReadConfig(cpu_s=1, max_bytes=1 << 30)
    assert reason(tmp_path, "slow.pdf", limits) == "reading takes more than 1 CPU-second"
    (tmp_path / "big.pdf").write_bytes(pdf("x" * 30_000_000))
    assert "memory" in reason(tmp_path, "big.pdf", ReadConfig(memory_bytes=200 << 20))


# All


def test_a_large_file_is_read_as_a_small_one_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "a.md": "# A\n\n```\nx\n```\n",
        "b.html": "<h1>Ä</h1><pre>x</pre>",
        "c.py": "def f(): ...\n",
        "d.yaml": API,
        "e.txt": "\0",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    small = list(read_folder(tmp_path))
    monkeypatch.setattr(folder, "ISOLATED_BYTES", 0)
    assert list(read_folder(tmp_path)) == small


@pytest.mark.parametrize(
    ("ended", "said"), [(signal.SIGXCPU, "more than 7 CPU-seconds"), (signal.SIGKILL, "out of memory")]
)
def test_a_reader_that_is_killed_is_reported_with_the_likely_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: int, said: str
) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("one"))
    real = isolation.subprocess.run
    monkeypatch.setattr(
        isolation.subprocess,
        "run",
        lambda _command, **more: real(["/bin/sh", "-c", f"kill -{int(ended)} $$"], **more),
    )
    assert said in reason(tmp_path, "a.pdf", ReadConfig(cpu_s=7))


def test_the_text_of_a_pdf_is_limited_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("\u00fc\u00fc\u00fc\u00fc"))
    text = readable(tmp_path, "a.pdf").text.strip()
    chars, size = len(text), len(text.encode())
    assert size > chars
    assert readable(tmp_path, "a.pdf", ReadConfig(max_bytes=size)).text.strip() == text
    assert reason(tmp_path, "a.pdf", ReadConfig(max_bytes=chars)) == f"a PDF file with more than {chars} bytes of text"


def test_a_file_that_makes_its_parser_slow_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<a " + "".join(f"a{number} " for number in range(500_000)) + ">")
    assert reason(tmp_path, "a.html", ReadConfig(cpu_s=1)) == "reading takes more than 1 CPU-second"


def test_a_reading_depends_on_path_and_bytes_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("# A\n\ntext\n")
        (tmp_path / name / "b.html").write_text("<h1>B</h1>x")
    (tmp_path / "two" / "c.md").write_text("# C\n")
    one, two = (list(read_folder(tmp_path / name)) for name in ("one", "two"))
    assert one == two[:2]


@given(st.text())
def test_titles_are_one_short_line(text: str) -> None:
    title = title_of(text)
    assert len(title) <= 120
    assert title.split() == title.split(" ") or not title
