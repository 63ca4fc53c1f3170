"""Notebooks become scripts, or pages where there is no code; templates and other files get their language."""

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.test_preprocess import rows, run

from ibidem.data.sources import notebooks
from ibidem.data.text import language

PYTHON = {"kernelspec": {"name": "python3", "language": "python"}, "language_info": {"name": "python"}}


def cell(kind: str, source: object, **more: object) -> dict[str, object]:
    return {"cell_type": kind, "source": source, "metadata": {"tags": ["secret"]}} | more


def made(*cells: dict[str, object], **more: object) -> tuple[str, str]:
    return notebooks.read(json.dumps({"nbformat": 4, "metadata": PYTHON, "cells": cells} | more).encode())


def test_a_notebook_is_the_script_of_its_kernel_with_the_prose_as_comments(tmp_path: Path) -> None:
    content = json.dumps(
        {
            "nbformat": 4,
            "metadata": PYTHON,
            "cells": [
                cell("markdown", ["# A title\n", "\n", "Some *prose*."], attachments={"a.png": {"image/png": "AAAA"}}),
                cell("code", "import os\n\nprint(os.name)\n", outputs=[{"output_type": "stream", "text": "posix"}]),
                cell("code", [], outputs=[]),
                cell("code", ["%matplotlib inline\n", "!pip install x \\\\\n", "  y\n", "total = 7 % 3"]),
                cell("code", "%%bash\nls\n"),
            ],
        }
    ).replace("\\\\\\\\", "\\\\")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.ipynb").write_text(content)
    run(tmp_path / "out", f"{tmp_path / 'd'}:train:text")
    (row,) = rows(tmp_path / "out")
    assert row["text"] == (
        "# # A title\n#\n# Some *prose*.\n\nimport os\n\nprint(os.name)\n\n"
        "# %matplotlib inline\n# !pip install x \\\n#   y\ntotal = 7 % 3\n\n# %%bash\n# ls\n"
    )
    ast.parse(row["text"])
    assert (row["language"], row["category"], row["path"]) == ("Python", "code", "a.ipynb")
    assert row["raw_sha256"] == hashlib.sha256(content.encode()).hexdigest()


@pytest.mark.parametrize(
    ("metadata", "name", "text"),
    [
        ({}, "Python", "# Hi\n\nx <- 1\n"),
        ({"kernelspec": {"name": "conda-env-mine"}}, "Python", "# Hi\n\nx <- 1\n"),
        ({"kernelspec": {"name": "ir"}}, "R", "# Hi\n\nx <- 1\n"),
        ({"kernelspec": {"name": "x", "language": "C++17"}}, "C++", "// Hi\n\nx <- 1\n"),
        ({"language_info": {"name": "haskell"}, "kernelspec": {"language": "r"}}, "Haskell", "-- Hi\n\nx <- 1\n"),
        ({"language_info": {"name": "coconut"}}, "Markdown", "Hi\n\n```coconut\nx <- 1\n```\n"),
    ],
)
def test_the_language_of_a_notebook_is_that_of_its_kernel(metadata: dict[str, Any], name: str, text: str) -> None:
    assert made(cell("markdown", "Hi"), cell("code", "x <- 1"), metadata=metadata) == (text, name)


def test_every_language_of_a_kernel_is_known_and_code() -> None:
    for kernel in notebooks._COMMENT:
        name = notebooks._linguist(kernel)
        assert language.category(name) == "code"


def test_magics_are_those_of_python_alone() -> None:
    javascript = {"language_info": {"name": "javascript"}}
    assert made(cell("code", "!function(){}()\n%%x"), metadata=javascript) == ("!function(){}()\n%%x\n", "JavaScript")
    assert made(cell("code", "x = (1\n!= 2\n% 3)"))[0] == "x = (1\n!= 2\n% 3)\n"
    assert made(cell("code", "if x:\n    ! pip install y"))[0] == "if x:\n# ! pip install y\n"


def test_a_notebook_without_code_is_a_page() -> None:
    page = cell("markdown", "# Hi\n![a](data:image/png;base64,iVBORw0KGgo=) and <img src='data:image/gif;base64,AAA'>")
    assert made(page, cell("raw", "end")) == (
        "# Hi\n![a](data:image/png;base64,) and <img src='data:image/gif;base64,'>\n\nend\n",
        "Markdown",
    )


def test_a_fence_is_longer_than_those_in_the_code() -> None:
    text, _ = made(cell("code", "'```'"), metadata={"language_info": {"name": "coconut` x"}})
    assert text == "````coconutx\n'```'\n````\n"


def test_notebooks_of_format_3_are_read() -> None:
    cells = [cell("heading", "Title", level=2), {"cell_type": "code", "input": ["x = 1"], "language": "python"}]
    second = {"cells": [cell("markdown", "end")]}
    assert made(nbformat=3, metadata={}, worksheets=[{"cells": cells}, second])[0] == "# ## Title\n\nx = 1\n\n# end\n"


def test_templates_are_code_in_the_language_of_what_they_make(tmp_path: Path) -> None:
    names = {
        "page.html.j2": "HTML", "Dockerfile.jinja": "Dockerfile", "app.py.jinja2": "Python", "README.md.j2": "Markdown",
        "motd.j2": "Jinja", "main.tf": "HCL", "lib.mts": "TypeScript", "list.hbs": "Handlebars", "justfile": "Just",
        "guide.mdx": "MDX",
    }  # fmt: skip
    (tmp_path / "d").mkdir()
    for number, name in enumerate(names):
        (tmp_path / "d" / name).write_text(f"value_{number} = {{{{ name }}}}\n")
    artifact = run(tmp_path / "out", f"{tmp_path / 'd'}:train:text", skip=("filters",), dedup={"near": False})
    assert {row["path"]: row["language"] for row in rows(tmp_path / "out")} == names
    assert {row["path"] for row in rows(tmp_path / "out") if row["category"] != "code"} == {"guide.mdx"}
    assert artifact.counts["skipped_files"] == {}
    (tmp_path / "rows.jsonl").write_text('{"text": "value = {{ name }}", "path": "README.md.j2"}\n')
    run(tmp_path / "rows", f"{tmp_path / 'rows.jsonl'}:train:text")
    assert [(row["language"], row["category"]) for row in rows(tmp_path / "rows")] == [("Markdown", "code")]


def test_a_name_of_many_endings_is_a_template() -> None:
    assert language.by_name("a.py" + ".j2" * 5000) == "Python"
    assert language.by_name("page.J2") == "Jinja"
    assert language.by_name(".j2") is None
