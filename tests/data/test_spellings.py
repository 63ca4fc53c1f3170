"""Requests for removal find their documents in the spellings of strangers, or say that they name nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize
from urllib.parse import quote

import pytest
from tests.conftest import python_file

from ibidem.cli import main
from ibidem.data.filters.removals import Matcher, load_requests
from ibidem.data.preprocess import PreprocessConfig, preprocess
from ibidem.errors import ConfigError

DOCUMENTS = [
    ("octo/Cat", "src/caf\u00e9/men\u00fc.py"),
    ("octo/Cat", "docs/my file (1).md"),
    ("octo/Cat", "app/[id]/page.tsx"),
    ("octo/Cat", "Src/Upper.PY"),
    ("codeberg.org/octo/dog", "a+b/c#d.py"),
]
OTHERS = [
    ("octo/cats", "src/a.py"),
    ("other/Cat", "app/x/page.tsx"),
    ("octo/Cat", "my file (1).md"),
    ("a/b", "src/cafe/x"),
]


def address(repo: str) -> str:
    return repo if repo.startswith("codeberg.org/") else f"github.com/{repo}"


def spellings(repo: str, path: str) -> Iterator[tuple[str, str]]:
    at, folder = address(repo), path.rpartition("/")[0]
    yield from (("repo", each) for each in (repo, repo.lower(), f" {repo} ", f"{repo}/", repo.replace("/", "\\")))
    yield from (
        ("repo", f"{scheme}{at}") for scheme in ("https://", "http://", "HTTPS://", "git://", "git+https://", "")
    )
    yield from (
        ("repo", f"https://{at}{rest}") for rest in (".git", "/", "?tab=readme-ov-file", "#readme", "/issues/3")
    )
    yield from (("repo", f"https://{at}/{rest}") for rest in ("tree/main", "tree/main/", "blob/main/README.md"))
    yield from (
        ("repo", each) for each in (f"<https://{at}>", f"git@{at.replace('/', ':', 1)}.git", f"ssh://git@{at}.git")
    )
    blob, kinds = ("blob", ("raw", "-/blob", "blame")) if at != repo else ("src/branch", ("src/tag", "-/blob"))
    for encoded in dict.fromkeys((path, quote(path))):
        yield from (("url", f"https://{at}/{blob}/{ref}/{encoded}") for ref in ("main", "v1.2", "0a1b2c"))
        yield from (("path", f"https://{at}/{kind}/main/{encoded}") for kind in (blob, *kinds))
    yield "url", f"https://{at}/{blob}/main/{quote(path)}#L10-L20"
    yield "url", f"https://{at}/{blob}/main/{quote(path)}?plain=1"
    yield "url", f"https://{at}/{blob}/main/{quote(folder)}"
    if at != repo:
        yield "path", f"{at}/blob/main/{quote(path)}"
        yield "url", f"https://raw.githubusercontent.com/{repo}/main/{quote(path)}"
        yield "url", f"https://raw.githubusercontent.com/{repo}/refs/heads/main/{quote(path)}"
    decomposed = normalize("NFD", path)
    yield from (
        ("path", each) for each in (path, f"./{path}", f"/{path}", f"{path} ", f"{path}\n", f'"{path}"', f"`{path}`")
    )
    yield from (("path", each) for each in (quote(path), decomposed, quote(decomposed), path.replace("/", "\\")))
    yield from (("path", each) for each in (f"{folder}/", folder, path.replace("/", "//"), f"src/../{path}"))


def fields(repo: str, path: str) -> dict[str, str]:
    url = f"https://{address(repo)}/blob/0123abc/{path}"
    return {"record": path, "repo": repo, "path": path, "url": url, "raw_sha256": "1", "sha256": "2", "swhid": "3"}


def matcher(kind: str, value: str, folder: Path) -> Matcher:
    path = folder / "requests.jsonl"
    path.write_text(json.dumps({"kind": kind, "value": value}) + "\n")
    return Matcher(load_requests([path]))


def test_two_hundred_spellings_find_their_document_and_no_other(tmp_path: Path) -> None:
    requests = [(document, *spelled) for document in DOCUMENTS for spelled in spellings(*document)]
    assert len(requests) >= 200
    for document, kind, value in requests:
        found = matcher(kind, value, tmp_path)
        assert found.find(fields(*document)), (kind, value)
        decomposed = (document[0], normalize("NFD", document[1]))
        assert found.find(fields(*decomposed)), (kind, value, "in a file system that decomposes")
        for other in OTHERS:
            assert other[0] == document[0] == "octo/Cat" or not found.find(fields(*other)), (kind, value, other)


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": "path", "value": "lib/git/tree/main.py"},
        {"kind": "path", "value": "pkg/core/tree/main.go", "repo": "octo/cat"},
        {"kind": "path", "value": "https://github.com/lib/git/tree/main", "repo": "octo/cat"},
        {"kind": "url", "value": "https://blog.example.org/u/posts/tree/oak"},
    ],
)
def test_what_only_looks_like_an_address_names_no_repository(request_: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(request_) + "\n")
    found = Matcher(load_requests([path]))
    for repo in ("lib/git", "pkg/core", "octo/cat"):
        assert not found.find(fields(repo, "some/other.py"))
    posts = fields("lib/git", "x") | {"repo": "", "url": "https://blog.example.org/u/posts/tree/pine"}
    assert not found.find(posts)


def test_an_address_is_no_glob_and_a_backslash_may_belong_to_a_name(tmp_path: Path) -> None:
    for kind, value in (
        ("url", "https://github.com/o/a.b/blob/main/app/%5Bid%5D/p.py"),
        ("url", "https://github.com/o/a.b/blob/main/app/*/p.py"),
        ("path", "app/%2A/p.py"),
    ):
        assert not matcher(kind, value, tmp_path).find(fields("o/a.b", "app/i/p.py"))
    assert matcher("path", "back\\slash.py", tmp_path).find(fields("o/a.b", "back\\slash.py"))
    assert matcher("path", "back\\slash.py", tmp_path).find(fields("o/a.b", "back/slash.py"))


@pytest.mark.parametrize(("kind", "value"), [("repo", "o/a.b"), ("owner", "o"), ("url", "https://github.com/o/a.b")])
def test_the_bare_text_of_a_file_is_of_its_repository(kind: str, value: str, tmp_path: Path) -> None:
    found = fields("o/a.b", "d/f.py") | {"repo": "", "url": "https://raw.githubusercontent.com/o/a.b/main/d/f.py"}
    assert matcher(kind, value, tmp_path).find(found)
    bare = "https://raw.githubusercontent.com/o/a.b/main/d/f.py"
    assert matcher("url", bare, tmp_path).find(fields("o/a.b", "d/f.py"))


@pytest.mark.parametrize("value", ["<https://github.com>", "https%3A//github.com", '"https://github.com/"'])
def test_a_host_in_quotes_is_still_everything_on_it(value: str, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps({"kind": "url", "value": value}) + "\n")
    [request] = load_requests([path])
    assert request.names_everything


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"value": "*", "repo": "/"}, "repo '/' names no repository"),
        ({"value": "docs", "repo": ["octo/cat"]}, "names no repository"),
        ({"value": "docs/.."}, "names nothing"),
    ],
)
def test_a_request_that_would_name_more_than_it_says_is_refused(
    request_: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps({"kind": "path", **request_}) + "\n")
    with pytest.raises(ConfigError, match=message):
        load_requests([path])


def test_a_path_in_another_case_is_told_with_what_was_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"text": python_file(number), "id": path, "path": path, "repo": repo}
        for number, (repo, path) in enumerate(DOCUMENTS)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    preprocess(PreprocessConfig(dataset=(f"{tmp_path / 'a.jsonl'}:train:text",), output_dir=tmp_path / "data"))
    values = [path.swapcase() for _, path in DOCUMENTS]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps({"kind": "path", "value": value}) + "\n" for value in values))
    command = [str(path), "--dataset", str(tmp_path / "data"), "--artifacts", str(tmp_path)]
    assert main(["takedown", "apply", *command]) == 2
    shown = capsys.readouterr()
    assert shown.out.count(": matches nothing in ") == len(values)
    assert "did you mean path Src/Upper.PY?" in shown.out
    assert "5 of 5 requests match nothing" in shown.err
