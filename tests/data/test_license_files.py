"""What license files, the pages that include them, and the manifests of packages state for the files around them."""

from pathlib import Path

import pytest
from tests.data.test_preprocess import rows

from ibidem.data.licenses import includes, reuse
from ibidem.data.licenses.files import LicenseFiles, Stated
from ibidem.data.licenses.precedence import AGGREGATE, CLOSEST, OVERRIDE
from ibidem.data.licenses.spdx import UNKNOWN
from ibidem.data.preprocess import PreprocessConfig, preprocess

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software. " * 3
BSD = (
    "Redistribution and use in source and binary forms, with or without modification, are permitted. Neither the name "
    "of the author may be used. THIS SOFTWARE IS PROVIDED AS IS. " * 2
)
GPL = "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007. Copyright (C) 2007 Free Software Foundation. " * 3
CHOICE = '{"license": "MIT OR GPL-3.0-only"}'
ODD = "You may look at it, but only on Sundays. " * 9


def corpus(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def stated(root: Path, name: str) -> Stated:
    found = LicenseFiles(root).of(root / name)
    assert found is not None
    return found


def license_of(tmp_path: Path, files: dict[str, str], name: str = "docs/conf.py") -> str:
    return stated(corpus(tmp_path / "p", files), name).expression


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("license.rst", "BSD-3-Clause License\n====\n\n.. literalinclude:: ../LICENSE.txt\n    :language: text\n"),
        ("license.rst", ".. _license:\n\nLicense\n---\n\nThe terms:\n\n.. include:: /../LICENSE.txt\n   :literal:\n"),
        ("LICENSE.md", "# License\n\n```{include} ../LICENSE.txt\n```\n"),
        ("license.md", '# License\n\n--8<-- "LICENSE.txt"\n'),
        ("license.md", "--8<--\nLICENSE.txt\n--8<--\n"),
        ("license.md", "# License\n\n{!LICENSE.txt!}\n"),
        ("license.md", '{%\ninclude-markdown "../LICENSE.txt"\n%}\n{% include-markdown "../LICENSE.txt" %}\n'),
        ("license.txt", "include::../LICENSE.txt[]\n"),
    ],
)  # fmt: skip
def test_a_page_states_the_license_that_it_includes(name: str, page: str, tmp_path: Path) -> None:
    root = corpus(tmp_path / "p", {"LICENSE.txt": BSD, f"docs/{name}": page})
    assert stated(root, "docs/conf.py") == Stated(
        "BSD-3-Clause", f"license-file: docs/{name}, LICENSE.txt", (root / "docs" / name, root / "LICENSE.txt")
    )


def test_what_a_page_includes_is_read_like_the_page(tmp_path: Path) -> None:
    page = "License\n\n.. include:: ../legal/all.inc\n"
    inner = {"legal/all.inc": ".. include:: gnu.inc\n\n.. include:: free.inc\n", "legal/free.inc": MIT}
    assert license_of(tmp_path, inner | {"docs/license.rst": page, "legal/gnu.inc": GPL}) == "GPL-3.0-only AND MIT"
    assert license_of(tmp_path, {"legal/gnu.inc": "Parts are GPL."}) == "GPL-1.0-or-later AND MIT"
    assert license_of(tmp_path, {"legal/gnu.inc": "Thanks to all who helped."}) == "MIT"


@pytest.mark.parametrize(
    "page", ["See the LICENSE file.\n", "# License\n\nThe license of the [project](../LICENSE).\n"]
)
def test_a_page_that_says_nothing_inherits_what_stands_above(page: str, tmp_path: Path) -> None:
    assert license_of(tmp_path, {"LICENSE": GPL, "docs/license.rst": page, "docs/conf.py": ""}) == "GPL-3.0-only"
    assert license_of(tmp_path, {"LICENSE": MIT}) == "MIT"
    assert license_of(tmp_path, {"LICENSE": ODD}) == UNKNOWN


@pytest.mark.parametrize(
    "page",
    [
        ODD,
        "Nobody may copy it.",
        "All rights reserved.",
        "Under a commercial license.",
        "Some of it is GPL.",
        "words " * 99,
    ],
)
def test_a_page_with_terms_of_its_own_inherits_nothing(page: str, tmp_path: Path) -> None:
    assert license_of(tmp_path, {"LICENSE": MIT, "docs/license.rst": page}) in {UNKNOWN, "GPL-1.0-or-later"}


@pytest.mark.parametrize(
    ("page", "expression"),
    [
        ("*attrs* is licensed under the [MIT](https://example.org/mit/) license.\nThe [text](../LICENSE).", "MIT"),
        ("Foo is licensed under a three clause BSD License. It basically means: do whatever you want.", "BSD-3-Clause"),
        ("The code is released under the `MIT License`_. The data is available under CC0.", "MIT AND CC0-1.0"),
        ("The code is released under the MIT License. The data is available under terms of our own.", UNKNOWN),
        ("Foo is not licensed under the MIT License.", UNKNOWN),
        ("Foo is licensed under the MIT License, parts of it under the GPL.", "GPL-1.0-or-later"),
    ],
)  # fmt: skip
def test_the_sentences_of_a_license_page_count_if_all_are_understood(
    page: str, expression: str, tmp_path: Path
) -> None:
    found = license_of(tmp_path, {"LICENSE": BSD, "docs/license.md": page})
    assert found == expression or (expression.startswith("GPL") and "GPL" in found)


def test_the_page_at_the_root_inherits_nothing(tmp_path: Path) -> None:
    assert license_of(tmp_path, {"LICENSE.md": "See the license there."}, "a.py") == UNKNOWN


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../secret.txt", "../../../../etc/hostname", "https://example.org/x"]
)
def test_an_include_never_leaves_the_corpus(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.txt").write_text(MIT)
    root = corpus(tmp_path / "p", {"LICENSE": MIT, "docs/license.rst": f"License\n\n.. include:: {target}\n"})
    opened: list[Path] = []
    whole = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *more: (opened.append(path), whole(path, *more))[1])
    assert stated(root, "docs/conf.py").expression == UNKNOWN
    assert opened == [root / "docs" / "license.rst"]


def test_a_license_text_is_read_even_if_a_page_that_it_includes_is_missing(tmp_path: Path) -> None:
    page = f".. include:: ../docs/header.txt\n\nLicense\n\n{MIT}\n"
    assert license_of(tmp_path, {"docs/LICENSE.rst": page}) == "MIT"
    assert license_of(tmp_path, {"docs/header.txt": GPL}) == "MIT AND GPL-3.0-only"


def test_an_include_leaves_the_corpus_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "MIT.txt").write_text(MIT)
    root = corpus(tmp_path / "p", {"LICENSE": MIT, "docs/license.rst": ".. include:: here.txt\n"})
    (root / "docs" / "here.txt").symlink_to(tmp_path / "secret" / "MIT.txt")
    assert stated(root, "docs/conf.py").expression == UNKNOWN
    (root / "docs" / "folder").symlink_to(tmp_path / "secret")
    corpus(root, {"docs/license.rst": ".. include:: folder/MIT.txt\n"})
    assert stated(root, "docs/conf.py").expression == UNKNOWN
    (root / "docs" / "here.txt").unlink()
    (root / "docs" / "here.txt").symlink_to("../LICENSE")
    corpus(root, {"docs/license.rst": ".. include:: here.txt\n"})
    assert stated(root, "docs/conf.py").evidence == "license-file: docs/license.rst, LICENSE"


def test_pages_that_include_one_another_end(tmp_path: Path) -> None:
    files = {
        "docs/license.rst": "MIT\n\n.. include:: more.rst\n",
        "docs/more.rst": "More\n\n.. include:: license.rst\n",
    }
    assert license_of(tmp_path, files) == "MIT"
    chain = {f"docs/{n}.rst": f"{n}\n\n.. include:: {n + 1}.rst\n" for n in range(99)}
    assert license_of(tmp_path, chain | {"docs/license.rst": ".. include:: 0.rst\n", "docs/99.rst": MIT}) == UNKNOWN
    root = corpus(tmp_path / "q", {"docs/license.rst": ".. include:: loop.txt\n", "LICENSE": MIT})
    (root / "docs" / "loop.txt").symlink_to("loop.txt")
    assert stated(root, "docs/conf.py").expression == UNKNOWN


def test_hostile_targets_name_no_file(tmp_path: Path) -> None:
    for target in ("\0", "x" * 5000, ".", "..", "", "\ud800"):
        assert includes.find(target, tmp_path, tmp_path) is None


@pytest.mark.parametrize(
    ("name", "text", "expression"),
    [
        ("package.json", '{"license": "(MIT OR Apache-2.0)"}', "MIT OR Apache-2.0"),
        ("package.json", '{"license": {"type": "ISC", "url": "https://example.org"}}', "ISC"),
        ("package.json", '{"licenses": [{"type": "MIT"}, {"type": "GPL-2.0"}]}', "MIT AND GPL-2.0-only"),
        ("package.json", '{"license": "SEE LICENSE IN legal/terms.inc"}', "BSD-3-Clause"),
        ("package.json", '{"license": "SEE LICENSE IN ../../secret.txt"}', UNKNOWN),
        ("package.json", '{"license": "UNLICENSED"}', UNKNOWN),
        ("composer.json", '{"license": ["MIT", "GPL-2.0-or-later"]}', "MIT OR GPL-2.0-or-later"),
        ("META.json", '{"license": ["perl_5"]}', "Artistic-1.0-Perl OR GPL-1.0-or-later"),
        ("Cargo.toml", '[package]\nlicense = "MIT/Apache-2.0"\n', "MIT OR Apache-2.0"),
        ("Cargo.toml", '[workspace.package]\nlicense = "ISC"\n', "ISC"),
        ("Cargo.toml", '[package]\nlicense-file = "legal/terms.inc"\n', "BSD-3-Clause"),
        ("pyproject.toml", '[project]\nlicense = "Apache-2.0"\n', "Apache-2.0"),
        ("pyproject.toml", '[project]\nlicense = {text = "GPLv3"}\n', "GPL-3.0-only"),
        ("pyproject.toml", '[project]\nlicense = {file = "legal/terms.inc"}\n', "BSD-3-Clause"),
        ("pyproject.toml", '[project]\nclassifiers = ["License :: OSI Approved :: MIT License"]\n', "MIT"),
        ("pyproject.toml", '[tool.poetry]\nlicense = "MIT"\n', "MIT"),
        ("foo.gemspec", 'Gem.new do |s|\n  s.licenses = ["Ruby", "BSD-2-Clause"] # both\n', "Ruby AND BSD-2-Clause"),
        ("PKG-INFO", "Metadata-Version: 2.1\nName: x\nLicense: MIT\n", "MIT"),
    ],
)  # fmt: skip
def test_a_manifest_states_the_license_of_its_package(name: str, text: str, expression: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(MIT)
    files = {f"lib/{name}": text, "lib/legal/terms.inc": BSD, "lib/src/a.py": ""}
    assert license_of(tmp_path, files, "lib/src/a.py") == expression


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"license": null}', '{"license": ""}', '"MIT"', "[" * 9999])
def test_a_manifest_without_a_license_says_nothing(text: str, tmp_path: Path) -> None:
    root = corpus(tmp_path / "p", {"package.json": text, "Cargo.toml": text, "pyproject.toml": text, "x.gemspec": text})
    assert LicenseFiles(root).of(root / "a.js") is None


@pytest.mark.parametrize(
    ("files", "expression"),
    [
        ({"LICENSE": GPL, "web/package.json": '{"license": "ISC"}'}, "GPL-3.0-only AND ISC"),
        ({"LICENSE": MIT, "web/package.json": '{"license": "GPL-3.0-only"}'}, "MIT AND GPL-3.0-only"),
        ({"LICENSE": MIT, "web/package.json": '{"license": "who knows"}'}, "MIT"),
        ({"LICENSE": ODD, "web/package.json": '{"license": "MIT"}'}, UNKNOWN),
        ({"web/LICENSE": GPL, "web/package.json": '{"license": "MIT"}'}, "GPL-3.0-only AND MIT"),
        ({"web/LICENSE": GPL, "web/package.json": CHOICE}, "GPL-3.0-only AND (MIT OR GPL-3.0-only)"),
        ({"web/LICENSE-GPL": GPL, "web/LICENSE-MIT": MIT, "web/package.json": CHOICE}, "MIT OR GPL-3.0-only"),
        (
            {"web/LICENSE.md": MIT + GPL, "web/package.json": CHOICE.replace("only", "or-later")},
            "MIT OR GPL-3.0-or-later",
        ),
        ({"web/LICENSE": ODD, "web/package.json": '{"license": "MIT"}'}, UNKNOWN),
    ],
)  # fmt: skip
def test_a_manifest_lifts_nothing_that_license_files_state(
    files: dict[str, str], expression: str, tmp_path: Path
) -> None:
    assert license_of(tmp_path, files, "web/a.js") == expression


def test_the_choice_of_a_manifest_opens_no_license_text(tmp_path: Path) -> None:
    root = corpus(tmp_path / "p", {"LICENSE.md": MIT + GPL, "package.json": CHOICE, "a.js": ""})
    files = LicenseFiles(root)
    found = [files.of(root / name) for name in ("a.js", "LICENSE.md", "package.json")]
    assert [one and one.expression for one in found] == [
        "MIT OR GPL-3.0-only", "MIT AND GPL-3.0-only", "MIT OR GPL-3.0-only",
    ]  # fmt: skip


DEP5 = "Format: x\n\nFiles: *\nLicense: MIT\n\nFiles: tools/*\nLicense: GPL-3.0-only\n\nFiles: odd.c\nLicense: Odd\n"
TOML = """
version = 1
[[annotations]]
path = ["**", "x"]
SPDX-License-Identifier = "MIT"
[[annotations]]
path = "tools/**"
SPDX-License-Identifier = ["GPL-3.0-only", "MIT"]
[[annotations]]
path = "*.c"
SPDX-License-Identifier = "Odd"
[[annotations]]
path = "**"
SPDX-FileCopyrightText = "someone"
"""


@pytest.mark.parametrize(("name", "text"), [(".reuse/dep5", DEP5), ("REUSE.toml", TOML)])
@pytest.mark.parametrize("page", ["LICENSE.MIT", "LICENSES/MIT.txt"])
def test_annotations_say_which_of_the_licenses_a_file_has(name: str, text: str, page: str, tmp_path: Path) -> None:
    files = {"LICENSES/GPL-3.0-only.txt": GPL, page: MIT, name: text, "vendored/COPYING": GPL}
    files |= {"claimed/package.json": '{"license": "GPL-2.0-only"}', "docs/package.json": "{}", "tools/deep/a.c": ""}
    root = corpus(tmp_path / "p", files)
    precedence = CLOSEST if name == "REUSE.toml" else AGGREGATE
    assert stated(root, "docs/a.py") == Stated("MIT", f"license-file: {name}", (root / name,), precedence)
    assert "GPL-3.0-only" in stated(root, "tools/deep/a.c").expression
    assert stated(root, "odd.c").expression == UNKNOWN
    assert "GPL-3.0-only" in stated(root, "vendored/a.c").expression
    assert "GPL-2.0-only" in stated(root, "claimed/a.js").expression


def annotation(path: str, license_id: str, precedence: str = "") -> str:
    order = f'precedence = "{precedence}"\n' if precedence else ""
    return f"[[annotations]]\npath = '{path}'\n{order}SPDX-License-Identifier = \"{license_id}\"\n"


def test_a_file_s_own_note_outranks_annotations_and_what_it_says_is_read_like_its_head(tmp_path: Path) -> None:
    files = {"LICENSES/MIT.txt": MIT, "LICENSES/GPL-3.0-only.txt": GPL, "REUSE.toml": annotation("**", "MIT")}
    files |= {"b.c": "", "b.c.license": "SPDX-License-Identifier: GPL-3.0-only\n", "d.c": ""}
    files |= {"c.c": "", "c.c.license": "what is this"}
    root = corpus(tmp_path / "p", files)
    own = stated(root, "b.c")
    assert (own.expression, own.precedence) == ("GPL-3.0-only", OVERRIDE)
    assert stated(root, "c.c").expression == UNKNOWN
    plain = stated(root, "d.c")
    assert (plain.expression, plain.precedence) == ("MIT", CLOSEST)


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [
        ("", "", ("BSD-3-Clause", CLOSEST)),
        ("closest", "closest", ("BSD-3-Clause", CLOSEST)),
        ("unheard", "unheard", ("BSD-3-Clause", CLOSEST)),
        ("aggregate", "closest", ("BSD-3-Clause AND MIT", AGGREGATE)),
        ("closest", "aggregate", ("MIT AND BSD-3-Clause", AGGREGATE)),
        ("closest", "override", ("BSD-3-Clause", OVERRIDE)),
        ("override", "closest", ("MIT", OVERRIDE)),
        ("override", "aggregate", ("MIT", OVERRIDE)),
        ("override", "override", ("MIT", OVERRIDE)),
    ],
)
def test_the_precedence_of_annotations_decides_which_of_them_counts(
    above: str, below: str, expected: tuple[str, str], tmp_path: Path
) -> None:
    files = {"LICENSES/MIT.txt": MIT, "LICENSES/BSD-3-Clause.txt": BSD, "vendor/deep/a.c": ""}
    files |= {"REUSE.toml": annotation("**", "MIT", above)}
    files |= {"vendor/REUSE.toml": annotation("**", "BSD-3-Clause", below)}
    found = stated(corpus(tmp_path / "p", files), "vendor/deep/a.c")
    assert (found.expression, found.precedence) == expected


def test_an_overriding_annotation_outranks_license_files_below_it_manifests_and_notes(tmp_path: Path) -> None:
    files = {"LICENSES/MIT.txt": MIT, "REUSE.toml": annotation("vendor/**", "MIT", "override")}
    files |= {"vendor/COPYING": GPL, "vendor/package.json": '{"license": "GPL-2.0-only"}', "vendor/a.c": ""}
    files |= {"vendor/b.c": "", "vendor/b.c.license": "SPDX-License-Identifier: GPL-3.0-only\n"}
    root = corpus(tmp_path / "p", files)
    for name in ("vendor/a.c", "vendor/b.c"):
        found = stated(root, name)
        assert (found.expression, found.precedence) == ("MIT", OVERRIDE)
        assert found.evidence == "license-file: REUSE.toml"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "REUSE.toml",
            'version = 1\n[[annotations]]\npath = "**"\nprecedence = "aggregate"\nSPDX-License-Identifier = "MIT"\n',
        ),
        (".reuse/dep5", "Format: x\n\nFiles: *\nCopyright: 2026 A\nLicense: MIT\n"),
    ],
)
def test_an_annotation_does_not_explain_license_files_below_it_that_are_not_recognized(
    name: str, text: str, tmp_path: Path
) -> None:
    root = corpus(tmp_path, {name: text, "LICENSES/MIT.txt": MIT, "vendor/LICENSE": ODD, "vendor/a.c": "", "b.c": ""})
    assert stated(root, "vendor/a.c").expression == UNKNOWN
    assert stated(root, "b.c").expression == "MIT"


def test_the_step_that_judges_licenses_is_told_the_precedence(tmp_path: Path) -> None:
    head = "# SPDX-License-Identifier: Apache-2.0\nimport os\n"
    files = {
        "LICENSES/MIT.txt": MIT,
        **{f"{name}.py": f"{head}{name} = 1\n" for name in "abc"},
        "c.py.license": "SPDX-License-Identifier: MIT\n",
    }
    order = annotation("*.py", "MIT", "override"), annotation("b.py", "MIT", "aggregate"), annotation("c.py", "MIT")
    root = corpus(tmp_path / "p", files | {"REUSE.toml": "".join(order)})
    skipped = ("clean", "filters", "scrub", "contamination")
    preprocess(PreprocessConfig(dataset=(f"{root}:train:text",), output_dir=tmp_path / "out", workers=1, skip=skipped))
    found = {row["path"] or row["record"]: row["license"] for row in rows(tmp_path / "out")}
    assert {name: found[name] for name in ("a.py", "b.py", "c.py")} == {
        "a.py": "MIT", "b.py": "MIT AND Apache-2.0", "c.py": "MIT",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("glob", "named", "others"),
    [
        ("[a-z]*", ["[a-z]x.c"], ["b.c", "z"]),
        ("a?.c", ["a?.c"], ["ab.c"]),
        ("{a,b}.c", ["{a,b}.c"], ["a.c"]),
        (r"a\*.c", ["a*.c"], ["ab.c"]),
        (r"a\\*", [r"a\b"], ["ab", "a*"]),
        (r"\a.c", ["a.c"], [r"\a.c"]),
        ("*.c", [".c", "a.c"], ["src/a.c"]),
        ("src/**", ["src/a/b.c"], ["src", "a.c"]),
        ("src/**/a.c", ["src/a.c", "src/x/y/a.c"], ["a.c"]),
        ("**/a.c", ["a.c", "x/a.c"], ["x/b.c"]),
    ],
)
def test_of_globs_only_stars_and_escapes_are_special(glob: str, named: list[str], others: list[str]) -> None:
    notes = reuse.Annotations(Path("REUSE.toml"), annotation(glob, "MIT"))
    assert [name for name in [*named, *others] if notes.of(name)] == named


def test_globs_of_many_stars_take_no_time(tmp_path: Path) -> None:
    glob = "**a" * 9 + "*a" * 9
    text = f'[[annotations]]\npath = "{glob}"\nSPDX-License-Identifier = "MIT"\n'
    files = {"LICENSES/GPL-3.0-only.txt": GPL, "REUSE.toml": text, "dep5/LICENSES/GPL-3.0-only.txt": GPL}
    files["dep5/.reuse/dep5"] = f"Files: {glob}\nLicense: MIT\n"
    root = corpus(tmp_path / "p", files)
    for name in ("a" * 200 + ".c", "dep5/" + "a" * 200 + ".c"):
        assert "GPL-3.0-only" in stated(root, name).expression


DAMAGED = [
    *(("REUSE.toml", text) for text in (
        b"", b"[", b"\0", b"a" * 2_000_000, b"annotations = 1", b"annotations = [1]", b"[[annotations]]\n",
        b"[[annotations]]\npath = 5\n", b"[[annotations]]\npath = []\n", b"[[annotations]]\npath = ['a', 5]\n",
        b"[[annotations]]\npath = '**'\nSPDX-License-Identifier = 'MIT\n",
        b"[[annotations]]\npath = '**a*b**a*b**a*b**'\nSPDX-License-Identifier = 'MIT'\n",
        b"[[annotations]]\nSPDX-License-Identifier = 'MIT'\n",
        b"[[annotations]]\npath = '**'\nSPDX-License-Identifier = ['MIT', 5]\n",
        b"[[annotations]]\npath = '**'\nSPDX-License-Identifier = 'MIT'\nSPDX-FileCopyrightText = 'M\xfcller'\n",
    )),
    *((".reuse/dep5", text) for text in (
        b"", b"\0", b"a" * 2_000_000, b"what is this?\n", b"Format: x\n\nFiles: *\nLicence: MIT\n",
        b"Files: *\nLicense: MIT\n\nFiles: vendor/*\nLicence: GPL-3.0-only\n", b"Files:\nLicense: MIT\n",
        b"Files: *\nCopyright: M\xfcller\nLicense: MIT\n",
    )),
]  # fmt: skip


def damaged(folder: Path, files: dict[str, str], name: str, content: bytes | None) -> Path:
    """Write a corpus in which one file has this content; None: it is a link to nothing."""
    root = corpus(folder, files | {name: ""})
    if content is None:
        (root / name).unlink()
        (root / name).symlink_to("nothing")
    else:
        (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize(
    ("name", "content"), [*DAMAGED, ("REUSE.toml", None), (".reuse/dep5", None)], ids=lambda value: repr(value)[:50]
)
def test_annotations_that_cannot_be_read_make_the_licenses_below_them_unknown(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    for number, beside in enumerate(({}, {"LICENSE": MIT}, {"LICENSES/MIT.txt": MIT}, {"package.json": CHOICE})):
        root = damaged(tmp_path / str(number), {**beside, "src/a.py": "", "a.py": ""}, name, content)
        for file in ("a.py", "src/a.py"):
            found = stated(root, file)
            assert (found.expression, found.evidence.split(", ")[0]) == (UNKNOWN, f"license-file: {name}")


@pytest.mark.parametrize(("name", "content"), [("REUSE.toml", b"["), (".reuse/dep5", b"?")])
def test_only_what_is_nearer_to_a_file_outranks_annotations_that_cannot_be_read(
    name: str, content: bytes, tmp_path: Path
) -> None:
    above = {"LICENSE": MIT, "REUSE.toml": annotation("**", "MIT"), "vendor/a.c": "", "vendor/web/package.json": CHOICE}
    near = {"vendor/b.c": "", "vendor/b.c.license": "SPDX-License-Identifier: ISC", "vendor/lib/LICENSE": BSD}
    near |= {"vendor/deep/REUSE.toml": annotation("a.c", "Zlib")}
    root = damaged(tmp_path / "p", above | near, f"vendor/{name}", content)
    files = LicenseFiles(root)
    names = ("a.c", "web/a.c", "deep/b.c", "b.c", "lib/a.c", "deep/a.c", "../a.c")
    found = [files.of((root / "vendor" / one).resolve()) for one in names]
    licenses = [one and one.expression for one in found]
    assert licenses == [*[UNKNOWN] * 3, "ISC", "BSD-3-Clause", "Zlib", "MIT"]
    whole = annotation("**", "MIT", "aggregate")
    assert stated(corpus(root, {"REUSE.toml": whole}), "vendor/a.c").expression == UNKNOWN
    outranking = annotation("**", "MIT", "override")
    assert stated(corpus(root, {"REUSE.toml": outranking}), "vendor/a.c") == Stated(
        "MIT", "license-file: REUSE.toml", (root / "REUSE.toml",), OVERRIDE
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("REUSE.toml", "version = 1\n"),
        ("REUSE.toml", "version = 1\n[[annotations]]\npath = '**'\nSPDX-FileCopyrightText = 'A'\n"),
        (".reuse/dep5", "Format: x\n\nFiles:\n src/*\n lib/*\nLicense: GPL-3.0-only\n\nLicense: GPL-3.0-only\n text\n"),
        ("REUSE.toml/a", "["),
    ],
)
def test_annotations_that_name_no_license_of_a_file_change_nothing(name: str, text: str, tmp_path: Path) -> None:
    assert license_of(tmp_path, {"LICENSE": MIT, name: text}, "a.py") == "MIT"


def test_files_below_annotations_that_cannot_be_read_are_dropped_unless_they_state_a_license(tmp_path: Path) -> None:
    files = {"LICENSE": MIT, "REUSE.toml": "[[annotations]]\npath = '**\n", "a.py": "a = 1\n"}
    files |= {"b.py": "# SPDX-License-Identifier: Apache-2.0\nb = 1\n"}
    assert kept(tmp_path, files) == {"b.py": "Apache-2.0"}


def kept(tmp_path: Path, files: dict[str, str]) -> dict[str, str]:
    """Return the licenses of the Python files that enter a dataset."""
    root = corpus(tmp_path / "p", files)
    skipped = ("clean", "filters", "scrub", "contamination")
    preprocess(PreprocessConfig(dataset=(f"{root}:train:text",), output_dir=tmp_path / "out", workers=1, skip=skipped))
    found = {row["path"] or row["record"]: row["license"] for row in rows(tmp_path / "out")}
    return {name: license_id for name, license_id in found.items() if name.endswith(".py")}


@pytest.mark.parametrize(
    "around",
    [
        {"LICENSES/GPL-3.0-only.txt": GPL},
        {"LICENSE": GPL},
        {"LICENSE": ODD},
        {"package.json": '{"license": "GPL-3.0-only"}'},
        {"LICENSES/GPL-3.0-only.txt": GPL, "REUSE.toml": annotation("**", "GPL-3.0-only")},
        {"REUSE.toml": "["},
    ],
)
def test_the_note_beside_a_file_does_what_the_file_s_own_head_would_do(around: dict[str, str], tmp_path: Path) -> None:
    tag = "SPDX-License-Identifier: MIT\n"
    files = {"s.py": "s = 1\n", "s.py.license": tag, "h.py": f"# {tag}h = 1\n", "n.py": "n = 1\n"}
    assert kept(tmp_path, around | files) == {"s.py": "MIT", "h.py": "MIT"}
    note = stated(tmp_path / "p", "s.py")
    assert (note.evidence, note.precedence) == ("license-file: s.py.license", OVERRIDE)


def test_a_note_that_cannot_be_read_makes_the_license_of_its_file_unknown(tmp_path: Path) -> None:
    files = {"LICENSE": MIT, "a.py": "", "b.py": "", "b.py.license/c": ""}
    root = damaged(tmp_path / "p", files, "a.py.license", None)
    assert stated(root, "a.py").evidence == "license-file: a.py.license"
    long = "a" * 250 + ".c"
    found = {name: stated(root, name).expression for name in ("a.py", "b.py", long)}
    assert found == {"a.py": UNKNOWN, "b.py": "MIT", long: "MIT"}


def test_a_file_that_no_annotation_names_may_have_any_of_the_licenses(tmp_path: Path) -> None:
    files = {"LICENSES/GPL-3.0-only.txt": GPL, "LICENSE": MIT, ".reuse/dep5": "Files: src/*\nLicense: MIT\n"}
    assert "GPL-3.0-only" in license_of(tmp_path, files, "a.py")
