"""The pages of a server, as bytes: what they say, to whom, and what they never hold."""

import csv
import json
import re
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.testclient import TestClient
from tests.grounding.corpus import make_index
from tests.serving.server.site import LEAVE, NOTICE, SALARY, TOKEN, UNKNOWN, FakeDocuments, Site, sealed_form

from ibidem.cli import main
from ibidem.evaluation import evidence
from ibidem.grounding import review
from ibidem.grounding.access import YamlPermissions
from ibidem.grounding.audit.log import FILE, AuditLog, folder_beside, reading
from ibidem.grounding.index import Index
from ibidem.grounding.review import order_file
from ibidem.grounding.store import Chunk, Query
from ibidem.serving.config import ServeConfig
from ibidem.serving.server.documents import OpenedDocuments
from ibidem.serving.server.tokens import Caller
from ibidem.signatures import secret_key

POISON = (
    '<img src="http://evil.example/i.png" onerror="alert(1)"><script>alert(2)</script><style>@import "http://evil.example"'
    '</style><a href="javascript:alert(3)" style="background:url(http://evil.example)">x</a>'
)
JSON = {"accept": "application/json"}


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    """An audit log of a hundred and twenty events."""
    with AuditLog(tmp_path / "index.audit", b"k" * 32) as log:
        for number in range(120):
            log.record(
                "answer" if number % 3 == 2 else "query", "ada", query=log.keyed(f"question {number}"), chunks=["5b1f"]
            )
    return tmp_path / "index.audit"


@pytest.fixture
def site(tmp_path: Path, log_folder: Path) -> Site:
    form = sealed_form(tmp_path, [NOTICE, SALARY, LEAVE])
    return Site(tmp_path / "state", audit=log_folder, reviews=[form])


@pytest.fixture
def client(site: Site) -> Generator[TestClient]:
    with TestClient(site.app(), follow_redirects=False) as client:
        yield client


def as_admin(site: Site) -> None:
    site.caller = site.caller._replace(is_admin=True)


# ---------------------------------------------------------------- all pages


class Inline(HTMLParser):
    """Notes what a Content-Security-Policy without 'unsafe-inline' forbids, and addresses elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.found += [f"{tag} {name}" for name in names if name == "style" or name.startswith("on")]
        self.found += ["style"] if tag == "style" else []
        for name in ("src", "href", "action"):
            if name in names and not str(names[name]).startswith(("/", "#")):
                self.found.append(f"{tag} {name} {names[name]}")
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = None

    def handle_data(self, data: str) -> None:
        if self._in == "script" and data.strip():
            self.found.append("script")


def inline(text: str) -> list[str]:
    parser = Inline()
    parser.feed(text)
    return parser.found


def test_no_page_has_anything_inline_or_from_elsewhere_whatever_documents_and_people_are_called(tmp_path: Path) -> None:
    chunk = Chunk("e" * 32, POISON, (POISON,), 0, 99, POISON)
    with AuditLog(tmp_path / "log", b"k" * 32) as log:
        log.record("query", POISON, query=POISON, chunks=[POISON])
    site = Site(tmp_path / "state", audit=tmp_path / "log", reviews=[sealed_form(tmp_path, [chunk], name="form <b>")])
    site.documents.chunks = [chunk]
    site.caller = Caller("1", POISON, is_admin=True)
    with TestClient(site.app()) as client:
        paths = (
            "/",
            "/login",
            f"/passages/{chunk.id}?from=0&to=9",
            "/review",
            "/review/1",
            "/audit",
            "/audit/0",
            "/audit/9",
            f"/audit/{'9' * 5000}",
            f"/review/{'9' * 5000}",
        )
        texts = [client.get(path).text for path in paths]
        texts += [client.post("/audit").text, client.post("/login", data={"token": POISON}).text]
    for text in texts:
        assert inline(text) == []
        assert "<img" not in text
    assert sum("&lt;img" in text for text in texts) >= 7
    assert inline(f"<p>{POISON}</p>") != []


def test_files_of_pages_are_listed_ones_and_the_login_has_its_own(client: TestClient) -> None:
    for path in ("/static/page.css", "/static/chat.js", "/static/icon.svg", "/login/page.css", "/login/login.js"):
        assert client.get(path).status_code == 200
    for path in ("/login/chat.js", "/static/page.html", "/static/..%2Flayout.py", "/static/%2e%2e/layout.py"):
        assert client.get(path).status_code == 404
    assert client.get("/static/chat.js").headers["content-type"].startswith("text/javascript")


def test_links_lead_to_what_the_caller_may_open(site: Site, client: TestClient) -> None:
    assert re.findall(r'<a href="(/[a-z]*)"', client.get("/").text) == ["/", "/review"]
    as_admin(site)
    assert re.findall(r'<a href="(/[a-z]*)"', client.get("/").text) == ["/", "/review", "/audit"]


# ---------------------------------------------------------------- login


def test_a_token_begins_a_session_whose_cookie_scripts_and_other_sites_cannot_use(
    site: Site, client: TestClient
) -> None:
    for body in ({"data": {"token": f" {TOKEN}\n"}}, {"json": {"token": TOKEN}}):
        response = client.post("/login", **cast("Any", body))
        assert (response.status_code, response.headers["location"]) == (303, "/")
        parts = response.headers["set-cookie"].split("; ")
        assert parts[0].removeprefix("ibidem_session=") in site.tokens.sessions
        assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(parts)
        assert TOKEN not in response.headers["set-cookie"]


@pytest.mark.parametrize("body", [b"token=ib-wrong-token", b"", b"\xff=\xff", b"token=" + b"&a=1" * 99])
def test_a_wrong_token_is_refused_in_one_line_and_not_repeated(client: TestClient, body: bytes) -> None:
    response = client.post("/login", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.status_code == 401
    assert response.text.count('role="alert"') == 1
    assert "ib-wrong-token" not in response.text
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[]", b'{"token": 5}', b"{"])
def test_json_that_is_no_token_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/login", content=body, headers={"content-type": "application/json"}).status_code == 401


def test_a_logout_ends_the_session(site: Site, client: TestClient) -> None:
    client.post("/login", data={"token": TOKEN})
    assert site.tokens.sessions
    response = client.post("/logout")
    assert (response.status_code, response.headers["location"]) == (303, "/login")
    assert not site.tokens.sessions
    assert 'ibidem_session=""' in response.headers["set-cookie"]


# ---------------------------------------------------------------- passages


def test_a_passage_is_shown_with_the_cited_words_marked_and_recorded(site: Site, client: TestClient) -> None:
    start = NOTICE.start + NOTICE.text.index("six weeks")
    page = client.get(f"/passages/{NOTICE.id}?from={start}&to={start + 9}").text
    assert "<mark>six weeks</mark>" in page
    assert "handbook/notice.md" in page
    assert client.get(f"/passages/{NOTICE.id}", headers=JSON).json() == {
        "chunk": NOTICE.id,
        "path": NOTICE.path,
        "title": list(NOTICE.title),
        "start": 120,
        "end": 284,
        "text": NOTICE.text,
    }
    assert site.documents.recorded == [("ada", NOTICE.id)] * 2


@pytest.mark.parametrize("places", ["", "?from=1&to=2", "?from=130&to=120", "?from=x&to=²", f"?from={'9' * 5000}&to=1"])
def test_places_outside_of_the_passage_mark_nothing(client: TestClient, places: str) -> None:
    response = client.get(f"/passages/{NOTICE.id}{places}")
    assert response.status_code == 200
    assert "<mark>" not in response.text


def test_a_forbidden_a_deleted_and_an_unknown_passage_are_the_same_bytes(site: Site, client: TestClient) -> None:
    site.documents.chunks = [chunk for chunk in site.documents.chunks if chunk is not LEAVE]
    for accept in ("text/html", "application/json"):
        told = [client.get(f"/passages/{each}", headers={"accept": accept}) for each in (SALARY.id, LEAVE.id, UNKNOWN)]
        assert {(each.status_code, each.content) for each in told} == {(404, told[0].content)}
        assert {tuple(each.headers.items()) for each in told} == {tuple(told[0].headers.items())}


def test_what_cannot_be_recorded_is_not_shown_and_no_path_is_told(site: Site, client: TestClient) -> None:
    site.documents.is_full = True
    for accept in ("text/html", "application/json"):
        response = client.get(f"/passages/{NOTICE.id}", headers={"accept": accept})
        assert response.status_code == 503
        assert "six weeks" not in response.text
        assert "/var/secret" not in response.text


# ---------------------------------------------------------------- review


def pair_of(page: str) -> str:
    """Return where the choice of a page is posted."""
    found = re.search(r'action="(/review/\d+\?pair=[0-9a-f]+)"', page)
    assert found, page
    return found[1]


def rate_all(client: TestClient, *scores: str) -> int:
    """Rate pair by pair, as often as there is one; return how many there were."""
    for number in range(99):
        page = client.get("/review/1").text
        if "You have rated everything" in page:
            return number
        assert client.post(pair_of(page), data={"score": scores[number % len(scores)]}).status_code == 303
    raise AssertionError


def test_a_rater_sees_the_pairs_that_they_may_read_and_no_figure_counts_others(site: Site, client: TestClient) -> None:
    assert "0 of 2 pairs rated" in client.get("/review").text
    assert site.documents.recorded == []
    seen = []
    for _ in range(2):
        page = client.get("/review/1").text
        seen.append(page)
        client.post(pair_of(page), data={"score": "1"})
    assert "six weeks" in seen[0]
    assert "30 days" in seen[1]
    assert "1 of 2 pairs rated" in seen[1]
    assert not any("quokka" in page for page in seen)
    assert site.documents.recorded == [("ada", NOTICE.id), ("ada", LEAVE.id)]
    assert "You have rated everything" in client.get("/review/1").text
    site.documents.hidden["ada"] = {NOTICE.id, LEAVE.id, SALARY.id}
    assert "nothing here for you to rate" in client.get("/review").text
    assert client.get("/review/1").content == client.get("/review/2").content


def test_a_pair_of_a_passage_that_may_not_be_read_cannot_be_opened_or_rated(site: Site, client: TestClient) -> None:
    site.documents.hidden["ada"] = set()
    client.get("/review/1")
    client.post(pair_of(client.get("/review/1").text), data={"score": "1"})
    forbidden = pair_of(client.get("/review/1").text)
    assert "quokka" in client.get(forbidden).text
    site.documents.hidden["ada"] = {SALARY.id}
    site.documents.recorded.clear()
    assert client.get(forbidden).status_code == 404
    assert client.post(forbidden, data={"score": "1"}).status_code == 404
    assert "quokka" not in client.get(forbidden).text
    assert site.documents.recorded == []


def test_a_right_lost_between_the_list_and_the_passage_shows_nothing(site: Site, client: TestClient) -> None:
    async def all_of_them(chunks: list[str], _: str) -> frozenset[str]:
        return frozenset(chunks)

    site.documents.hidden["ada"] = {NOTICE.id}
    site.documents.readable, show = all_of_them, FakeDocuments(hidden=site.documents.hidden).show  # type: ignore[method-assign,assignment]
    site.documents.show = show  # type: ignore[method-assign]
    response = client.get("/review/1")
    assert response.status_code == 404
    assert "six weeks" not in response.text


def test_a_passage_that_cannot_be_recorded_is_not_rated(site: Site, client: TestClient) -> None:
    site.documents.is_full = True
    response = client.get("/review/1")
    assert response.status_code == 503
    assert "six weeks" not in response.text


def test_without_documents_there_is_no_review(site: Site) -> None:
    site.service = replace(site.service, documents=None)
    with TestClient(site.app()) as client:
        assert client.get("/review").status_code == 404
        assert client.get("/review/1").status_code == 404
        assert 'href="/review"' not in client.get("/").text


def test_of_an_index_only_what_is_shown_is_recorded_and_what_is_forgotten_is_gone(tmp_path: Path) -> None:
    index = make_index(tmp_path)
    with closing(OpenedDocuments(ServeConfig(index=index))) as documents:
        with closing(Index(index, secret_key(None))) as store:
            rules = YamlPermissions(tmp_path / "acl.yaml").current()
            hits = store.search(Query("leave notice allowance deployed", None), "hr", rules, 20)
            chunks = [hit.chunk for hit in hits]
        site = Site(tmp_path / "state", reviews=[sealed_form(tmp_path, chunks)])
        site.service = replace(site.service, documents=documents)
        with TestClient(site.app()) as client:

            def recorded() -> list[dict[str, Any]]:
                with reading(folder_beside(index)) as database:
                    return [json.loads(event) for (event,) in database.execute("SELECT event FROM events")]

            before, mine = len(recorded()), [each for each in chunks if each.path.startswith("handbook")]
            assert len(chunks) > len(mine) > 2
            assert f"0 of {len(mine)} pairs rated" in client.get("/review").text
            assert len(recorded()) == before
            assert mine[0].text in client.get("/review/1").text
            (event,) = recorded()[before:]
            assert (event["kind"], event["principal"], event["chunks"]) == ("query", "ada", [mine[0].id])
            with closing(Index(index, secret_key(None))) as store:
                num_forgotten = sum(each.path == mine[0].path for each in mine)
                store.forget(mine[0].path)
            assert mine[0].text not in client.get("/review/1").text
            assert f"0 of {len(mine) - num_forgotten} pairs rated" in client.get("/review").text


def test_the_heads_order_is_never_opened(site: Site, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    order_file(site.service.reviews[0]).unlink()
    monkeypatch.setattr(review, "read_order", lambda _: pytest.fail("the order was read"))
    assert rate_all(client, "1") == 2


def test_a_choice_is_saved_at_once_for_each_rater_and_can_be_changed(site: Site, client: TestClient) -> None:
    first = pair_of(client.get("/review/1").text)
    answer = client.post(first, data={"score": "0"})
    page = client.get(answer.headers["location"]).text
    assert "Saved: Statement 2." in page
    assert f'href="{first}"' in page
    with TestClient(site.app(), follow_redirects=False) as restarted:
        assert "1 of 2 pairs rated" in restarted.get("/review").text
        assert restarted.get(first).text.count("(your answer)") == 1
        restarted.post(first, data={"score": "0.5"})
        assert "Saved: Both, or neither" in restarted.get(f"/review/1?last={first.rpartition('=')[2]}").text
    site.caller = site.caller._replace(principal="bob")
    assert "0 of 2 pairs rated" in client.get("/review").text


@pytest.mark.parametrize("score", ["", "2", "0.7", "nan", "=1+1"])
def test_scores_are_the_three_choices(site: Site, client: TestClient, score: str) -> None:
    pair = pair_of(client.get("/review/1").text)
    assert client.post(pair, data={"score": score}).status_code == 400
    assert not (site.service.state / "ratings").exists()


def test_the_ratings_of_two_people_are_read_as_they_are(site: Site, client: TestClient, tmp_path: Path) -> None:
    site.documents.hidden.clear()
    for principal in ("ada", "../=HYPERLINK(1)"):
        site.caller = site.caller._replace(principal=principal)
        assert rate_all(client, "1", "0", "1") == 3
    files = sorted((site.service.state / "ratings").rglob("*.csv"))
    assert {path.parent.parent for path in files} == {site.service.state / "ratings"}
    form, output = site.service.reviews[0], tmp_path / "rated"
    words = [word for file in files for word in ("--ratings", str(file))]
    assert main(["evaluate", "ratings", "--responses", str(form), *words, "--output-dir", str(output)]) == 0
    found = evidence.read(output)
    assert found.results["good.downranked"] == 1
    assert found.results["unrated.downranked"] == 0
    assert found.results["alpha.downranked"] == 1
    assert found.results["raters"] == 2


def test_a_file_of_ratings_holds_no_text_of_a_document_and_no_formula(site: Site, client: TestClient) -> None:
    site.caller = site.caller._replace(principal="=cmd|'/c calc'!A1")
    site.documents.hidden[site.caller.principal] = {SALARY.id}
    assert rate_all(client, "1") == 2
    (file,) = (site.service.state / "ratings").rglob("*.csv")
    text = file.read_text()
    assert "notice" not in text
    assert "30 days" not in text
    with file.open(newline="") as lines:
        assert {row["rater"][0] for row in csv.DictReader(lines)} == {"'"}
    assert file.parent.stat().st_mode & 0o077 == 0


# ---------------------------------------------------------------- audit


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "x", "²", "1.5"])
def test_what_is_no_number_of_ours_is_not_found(number: str, site: Site, client: TestClient) -> None:
    as_admin(site)
    for method in ("GET", "POST"):
        for page in ("audit", "review"):
            assert client.request(method, f"/{page}/{number}").status_code == 404


def test_the_audit_log_is_for_administrators(client: TestClient) -> None:
    for method, path in (("GET", "/audit"), ("POST", "/audit"), ("GET", "/audit/3"), ("POST", "/audit/3")):
        response = client.request(method, path)
        assert response.status_code == 403
        assert response.text.count('role="alert"') == 1
        assert "query" not in response.text


def numbers(page: str) -> list[int]:
    return [int(each) for each in re.findall(r'href="/audit/(\d+)"', page)]


def test_events_are_listed_the_latest_first_page_by_page_and_by_kind(site: Site, client: TestClient) -> None:
    as_admin(site)
    seen, path = [], "/audit"
    while path:
        page = client.get(path).text
        seen += numbers(page)
        older = re.search(r'href="([^"]*)">Older', page)
        path = older[1].replace("&amp;", "&") if older else ""
    assert seen == list(range(119, -1, -1))
    assert numbers(client.get("/audit?kind=answer").text) == list(range(119, -1, -3))
    assert numbers(client.get("/audit?kind=answer&before=10").text) == [8, 5, 2]
    assert numbers(client.get("/audit?kind=' OR 1&before=²").text) == list(range(119, 69, -1))


def test_hashes_are_short_with_the_whole_in_the_title(site: Site, client: TestClient, log_folder: Path) -> None:
    as_admin(site)
    with reading(log_folder) as database:
        (text,) = database.execute("SELECT event FROM events WHERE number = 119").fetchone()
    whole = json.loads(text)["query"]
    page = client.get("/audit").text
    assert f'title="{whole}"' in page
    assert f">{whole}<" not in page


def test_verify_now_reads_the_whole_log_and_says_what_is_wrong(
    site: Site, client: TestClient, log_folder: Path
) -> None:
    as_admin(site)
    assert "120 events, consistent" in client.post("/audit").text
    import sqlite3

    database = sqlite3.connect(log_folder / FILE)
    with database:
        database.execute("DROP TRIGGER events_UPDATE")
        database.execute("UPDATE events SET event = replace(event, 'ada', 'eve') WHERE number = 7")
    database.close()
    page = client.post("/audit").text
    assert "Not verified: an event between" in page
    assert str(log_folder) not in page


def test_verify_now_compares_with_the_head_that_was_signed_last(
    site: Site, client: TestClient, log_folder: Path
) -> None:
    as_admin(site)
    assert client.post("/audit/119").status_code == 200
    import sqlite3

    database = sqlite3.connect(log_folder / FILE)
    with database:
        for table in ("events", "subtrees"):
            database.execute(f"DROP TRIGGER {table}_DELETE")
            database.execute(f"DELETE FROM {table}")
        database.execute("UPDATE sqlite_sequence SET seq = -1 WHERE name = 'events'")
    database.close()
    page = client.post("/audit").text
    assert "Not verified: it has 0 events" in page
    assert "/state/" not in page.partition("<main")[2]


def test_an_event_has_a_proof_that_is_checked_without_the_log(
    site: Site, client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_admin(site)
    page = client.get("/audit/77").text
    assert "Event 77" in page
    assert "root of 120 events" in page
    response = client.post("/audit/77")
    assert response.headers["content-disposition"] == 'attachment; filename="event-77.proof"'
    (tmp_path / "event-77.proof").write_bytes(response.content)
    assert main(["audit", "verify", "--proof", str(tmp_path / "event-77.proof")]) == 0
    assert "event 77 of the 120" in capsys.readouterr().out


@pytest.mark.parametrize("number", [120, 10**30])
def test_an_event_that_is_not_there_is_not_found(site: Site, client: TestClient, number: int) -> None:
    as_admin(site)
    assert client.get(f"/audit/{number}").status_code == 404
    assert client.post(f"/audit/{number}").status_code == 404


def test_a_log_that_is_not_there_is_one_line_without_its_path(site: Site, client: TestClient, log_folder: Path) -> None:
    as_admin(site)
    (log_folder / FILE).unlink()
    for method, path in (("GET", "/audit"), ("POST", "/audit"), ("GET", "/audit/3")):
        response = client.request(method, path)
        assert response.status_code == 500
        assert str(log_folder) not in response.text
