"""The pages in a browser: nothing is fetched from elsewhere, keys suffice, narrow screens do, axe-core finds nothing.

.venv/bin/python -m pytest -m "" tests/serving/server/test_pages_browser.py
"""

import re
import shutil
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, Playwright, expect, sync_playwright
from tests.grounding.corpus import make_index
from tests.serving.server.running import running
from tests.serving.server.site import (
    LEAVE,
    NOTICE,
    SALARY,
    TOKEN,
    Site,
    citation,
    delta,
    ended,
    sealed_form,
)

from ibidem.grounding.ask import NO_ANSWER
from ibidem.grounding.audit.log import AuditLog
from ibidem.grounding.store import Chunk
from ibidem.serving.config import ServeConfig
from ibidem.serving.server.documents import OpenedDocuments
from ibidem.serving.server.service import Documents
from ibidem.serving.server.speech import Cited, Delta, Ended

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BROWSER = shutil.which("chromium")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")


class Tab(NamedTuple):
    """A page of a browser, the site that it shows, and the addresses that it asked for."""

    page: Page
    site: Site
    address: str
    asked: list[str]

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.address + path)
        return self.page

    def ask(self, question: str, *says: dict[str, Any]) -> Page:
        """Ask, and wait until the answer is whole."""
        self.site.says = list(says)
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")
        expect(self.page.get_by_role("button", name="Send")).to_be_visible()
        return self.page


@pytest.fixture(scope="module")
def playwright() -> Generator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture
def site(tmp_path: Path) -> Site:
    with AuditLog(tmp_path / "index.audit", b"k" * 32) as log:
        log.record("index", store="sha256:" + "3b" * 32, documents=48)
        for number in range(60):
            log.record(
                "query",
                "ada",
                query=log.keyed(f"question {number}"),
                chunks=["5b1f", "0aa4"],
                store="sha256:" + "3b" * 32,
            )
            log.record("answer", "ada", answer=log.keyed(f"answer {number}"), model="sha256:" + "9c" * 32)
    forms = [sealed_form(tmp_path, [NOTICE, SALARY, LEAVE], name="notice and leave")]
    site = Site(tmp_path / "state", audit=tmp_path / "index.audit", reviews=forms)
    site.caller = site.caller._replace(is_admin=True)
    return site


@pytest.fixture
def context(playwright: Playwright, tmp_path: Path) -> Generator[BrowserContext]:
    context = playwright.chromium.launch_persistent_context(
        tmp_path / "profile",
        executable_path=BROWSER,
        args=list(FLAGS),
        headless=True,
        viewport={"width": 1280, "height": 800},
    )
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def tab(site: Site, context: BrowserContext) -> Generator[Tab]:
    with site.running() as address:
        page, asked = context.pages[0], list[str]()
        context.on("request", lambda request: asked.append(request.url))
        yield Tab(page, site, address, asked)


ANSWER = (
    "The notice period is six weeks [1]. Employees have 30 days of leave [2]. The office is in Lisbon (unsupported)."
)


def cited(text: str = ANSWER) -> list[dict[str, Any]]:
    """Return the chunks of an answer with two citations and a claim without support."""
    one, two, claim = text.index("[1]"), text.index("[2]"), text.index("The office")
    return [
        delta(text[:12]),
        delta(text[12:one]),
        delta("[1]", citation(one, NOTICE, 1, quote="The notice period is six weeks")),
        delta(text[one + 3 : two]),
        delta("[2]", citation(two, LEAVE, 2, quote="30 days of paid leave", supported=False, score=0.21)),
        delta(text[two + 3 : claim + 9]),
        delta(text[claim + 9 :]),
        ended(unsupported=[[claim, len(text)]]),
    ]


POISON = (
    '<img src="http://evil.example/img"> <script src="http://evil.example/s"></script> '
    '<link rel="stylesheet" href="http://evil.example/l"> <style>@import "http://evil.example/i";</style> '
    '<div style="background:url(http://evil.example/u)">x</div> <a href="javascript:fetch(\'//evil.example/j\')">a</a> '
    '<iframe src="data:text/html,<img src=//evil.example/d>"></iframe> <svg onload="fetch(\'//evil.example/o\')"/> '
    "![i](http://evil.example/m) [a](javascript:alert(1)) http://evil.example/plain\n```html\n"
    "<img src=x onerror=\"fetch('http://evil.example/e')\">\n```\n"
)


def test_a_poisoned_answer_with_a_poisoned_passage_fetches_nothing_and_runs_nothing(tab: Tab) -> None:
    chunk = Chunk("e" * 32, f"a/{POISON}", (POISON,), 0, len(POISON), POISON)
    tab.site.documents.chunks = [chunk]
    tab.site.headers = {}  # the pages' own defense, without the policy that would also forbid it
    page = tab.open()
    text = f"{POISON}[1] (unsupported)"
    place = text.index("[1]")
    said = tab.ask(POISON, delta(POISON), delta("[1]", citation(len(POISON), chunk, 1)), delta(" (unsupported)"),
                   ended(unsupported=[[0, len(text)]]))  # fmt: skip
    assert place == len(POISON)
    said.get_by_role("button", name="Source 1").first.click()
    expect(said.locator("#passage mark")).to_have_text(POISON)
    page.wait_for_load_state("networkidle")
    assert {url.partition("/")[2].partition("/")[2].partition("/")[0] for url in tab.asked} == {tab.address[7:]}
    assert "http://evil.example/img" in page.locator("#log").inner_text()
    assert page.locator("#chat").locator("img, script, style, link, iframe, svg, a, [style]").count() == 0


# ---------------------------------------------------------------- conversation

slow = pytest.mark.slow


@slow
def test_the_policy_of_the_server_permits_all_that_the_pages_do(tab: Tab) -> None:
    told = list[str]()
    tab.page.on("console", lambda message: told.append(message.text))
    tab.page.on("pageerror", lambda error: told.append(str(error)))
    for path in ("/login", "/review", "/review/1", "/audit", "/audit/3", f"/passages/{NOTICE.id}?from=120&to=150", "/"):
        tab.open(path)
    tab.ask("How long is the notice period?", *cited()).get_by_role("button", name="Source 1").first.click()
    expect(tab.page.locator("#passage mark")).to_be_visible()
    assert told == []


@slow
def test_citations_are_buttons_that_open_the_passage_with_the_cited_words_marked(tab: Tab) -> None:
    tab.open()
    page = tab.ask("How long is the notice period?", *cited())
    answer = page.locator("article.assistant .body")
    expect(answer).to_have_text(ANSWER.replace("[1]", "1").replace("[2]", "2"))
    expect(answer.locator(".doubt").first).to_have_text("The office is in Lisbon")
    expect(answer.locator(".badge")).to_have_text(" (unsupported)")
    answer.get_by_role("button", name="Source 1: Employment › Notice").click()
    expect(page.locator("#passage mark")).to_have_text("The notice period is six weeks")
    expect(page.locator("#passage")).to_contain_text("Supports the claim, score 0.83")
    expect(page.locator("#passage")).to_contain_text("handbook/notice.md")
    expect(page.get_by_role("heading", name="Employment › Notice")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#passage")).to_be_hidden()
    expect(answer.get_by_role("button", name="Source 1")).to_be_focused()
    answer.get_by_role("button", name="Source 2: Employment › Leave, does not support this").click()
    expect(page.locator("#passage")).to_contain_text("Does not support the claim, score 0.21")
    assert tab.site.documents.recorded == [("ada", NOTICE.id), ("ada", LEAVE.id)]


@slow
def test_places_are_counted_in_characters_also_beyond_the_basic_plane(tab: Tab) -> None:
    text = "🦦🦦 swim 𝔉ast [1] and well."
    chunk = Chunk("f" * 32, "otters.md", (), 50, 90, "🦦🦦🦦 Otters swim 𝔉ast. They sleep.")
    tab.site.documents.chunks = [chunk]
    place = text.index("[1]")
    tab.open()
    source = citation(place, chunk, 1, quote="swim 𝔉ast")
    page = tab.ask(
        "otters", delta(text[:place]), delta("[1]", source), delta(text[place + 3 :]), ended(unsupported=[[0, 2]])
    )
    body = page.locator("article.assistant .body")
    expect(body.locator(".doubt")).to_have_text("🦦🦦")
    expect(body.locator(".cite")).to_have_text("1")
    expect(body).to_have_text("🦦🦦 swim 𝔉ast 1 and well.")
    body.get_by_role("button").click()
    expect(page.locator("#passage mark")).to_have_text("swim 𝔉ast")


@slow
def test_line_breaks_and_code_are_kept_and_nothing_else_is_markup(tab: Tab) -> None:
    text = "First *line*.\nSecond\n\n```python\nfor a in b:\n    print(a)\n```\n\nAfter `code`."
    tab.open()
    page = tab.ask("code", *(delta(letter) for letter in text), ended())
    body = page.locator("article.assistant .body")
    assert body.locator("> *").evaluate_all("all => all.map((each) => [each.localName, each.textContent])") == [
        ["p", "First *line*.\nSecond"],
        ["pre", "for a in b:\n    print(a)"],
        ["p", "After `code`."],
    ]


@slow
def test_a_conversation_is_held_with_the_keyboard_alone(tab: Tab) -> None:
    page = tab.open()
    tab.site.says = cited()
    press = page.keyboard.press
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("One")
    press("Shift+Enter")
    page.keyboard.type("two")
    press("Enter")
    expect(page.locator(".sources")).to_be_visible()
    expect(page.get_by_label("Your question")).to_be_focused()
    assert tab.site.asked[-1]["messages"] == [{"role": "user", "content": "One\ntwo"}]
    for _ in range(4):
        press("Shift+Tab")
    expect(page.get_by_role("button", name="Source 1: Employment › Notice")).to_be_focused()
    press("Enter")
    expect(page.get_by_role("heading", name="Employment › Notice")).to_be_focused()
    press("Escape")
    expect(page.get_by_role("button", name="Source 1: Employment › Notice")).to_be_focused()
    for _ in range(4):
        press("Tab")
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("three")
    press("Enter")
    expect(page.locator(".sources")).to_have_count(2)
    assert [each["role"] for each in tab.site.asked[-1]["messages"]] == ["user", "assistant", "user"]
    assert tab.site.asked[-1]["messages"][1]["content"] == ANSWER
    for _ in range(2):
        press("Tab")
    expect(page.get_by_role("button", name="New conversation")).to_be_focused()
    press("Enter")
    expect(page.locator("article")).to_have_count(0)
    expect(page.get_by_label("Your question")).to_be_focused()


@slow
def test_stop_ends_the_request_and_keeps_what_was_said(tab: Tab) -> None:
    page = tab.open()
    tab.site.says, tab.site.waits = [delta("So far")], True
    page.get_by_label("Your question").fill("Go on")
    page.keyboard.press("Enter")
    expect(page.locator("article.assistant .body")).to_have_text("So far")
    assert not tab.site.stopped.is_set()
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("article.assistant")).to_contain_text("Stopped.")
    assert tab.site.stopped.wait(10)
    expect(page.get_by_label("Your question")).to_be_focused()
    tab.site.waits = False
    tab.ask("And then?", delta("Then."), ended())
    assert [each["content"] for each in tab.site.asked[-1]["messages"]] == ["Go on", "So far", "And then?"]


@slow
def test_a_new_conversation_while_nothing_is_said_brings_no_question_back(tab: Tab) -> None:
    page = tab.open()
    tab.site.waits = True
    page.get_by_label("Your question").fill("Go on")
    page.keyboard.press("Enter")
    expect(page.locator("article.assistant")).to_have_count(1)
    page.get_by_role("button", name="New conversation").click()
    assert tab.site.stopped.wait(10)
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))")
    assert page.get_by_label("Your question").input_value() == ""


@slow
def test_a_new_conversation_ends_the_answer_and_forgets_everything(tab: Tab) -> None:
    page = tab.open()
    tab.site.says, tab.site.waits = [delta("So far")], True
    page.get_by_label("Your question").fill("Go on")
    page.keyboard.press("Enter")
    expect(page.locator("article.assistant .body")).to_have_text("So far")
    page.get_by_role("button", name="New conversation").click()
    assert tab.site.stopped.wait(10)
    expect(page.locator("article")).to_have_count(0)
    tab.site.waits = False
    tab.ask("Hello", delta("Hi"), ended())
    assert tab.site.asked[-1]["messages"] == [{"role": "user", "content": "Hello"}]
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]


@slow
@pytest.mark.parametrize(
    ("says", "refusal", "told"),
    [
        ([delta("So"), {"error": {"message": "The model has stopped."}}], None, "The model has stopped."),
        ([], (429, "Too many requests; wait a minute."), "Too many requests; wait a minute."),
        ([], (401, "who?"), "Your session has ended. Log in"),
        ([], (500, "<b>no</b>"), "<b>no</b>"),
    ],
)
def test_errors_are_one_line(tab: Tab, says: list[dict[str, Any]], refusal: tuple[int, str] | None, told: str) -> None:
    tab.open()
    tab.site.refuses = refusal
    page = tab.ask("Hello", *says)
    expect(page.get_by_role("alert")).to_have_text(told)
    if not says:
        expect(page.get_by_label("Your question")).to_have_value("Hello")


@slow
def test_an_answer_that_is_cut_off_says_so(tab: Tab) -> None:
    tab.open()
    tab.site.is_cut = True
    page = tab.ask("Hello", delta("So"))
    expect(page.get_by_role("alert")).to_have_text("The connection ended before the answer did.")
    tab.site.is_cut = False
    page = tab.ask("Again", delta("So"), ended("length", removed=1, left_out=2))
    expect(page.locator("article.assistant").last).to_contain_text("Cut at the maximum length.")
    expect(page.locator("article.assistant").last).to_contain_text("1 citation of passages that do not exist removed.")
    expect(page.locator("article.assistant").last).to_contain_text("2 passages did not fit")


@slow
def test_a_passage_that_may_not_be_read_any_more_says_what_is_said_of_all(tab: Tab) -> None:
    tab.open()
    page = tab.ask("How long?", *cited())
    tab.site.documents.hidden["ada"].add(NOTICE.id)
    page.get_by_role("button", name="Source 1").first.click()
    expect(page.get_by_role("alert")).to_have_text("There is no such passage, or you may not read it.")


@slow
def test_the_token_of_a_login_link_leaves_the_address_before_it_is_sent(tab: Tab) -> None:
    sent = list[tuple[str, str]]()
    shown = list[str]()
    tab.page.on("request", lambda request: sent.append((request.url, str(request.headers))))
    tab.page.on("request", lambda request: shown.append(tab.page.url) if request.method == "POST" else None)
    tab.page.goto(f"{tab.address}/login#{TOKEN}")
    tab.page.wait_for_url(f"{tab.address}/")
    assert not any(TOKEN in part for each in sent for part in each)
    assert shown == [f"{tab.address}/login"]
    assert tab.site.tokens.sessions
    cookie = tab.page.context.cookies()[0]
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("ibidem_session", True, "Strict")
    assert tab.page.evaluate("document.cookie") == ""
    tab.page.go_back()
    assert TOKEN not in tab.page.url


@slow
def test_a_form_is_rated_with_the_keyboard(tab: Tab) -> None:
    page = tab.open("/review")
    page.get_by_role("link", name="Begin").press("Enter")
    for _ in range(2):
        page.get_by_role("button", name="Choose statement 2").press("Enter")
        expect(page.get_by_text("Saved: Statement 2.")).to_be_visible()
    expect(page.get_by_text("You have rated everything.")).to_be_visible()


@slow
def test_the_pages_work_behind_the_guard_of_a_server(context: BrowserContext, site: Site, tmp_path: Path) -> None:
    text = "The notice period is six weeks [1]. The office is in Lisbon (unsupported)."
    place, claim = text.index("[1]"), text.index("The office")
    span = (NOTICE.start, NOTICE.start + len("The notice period is six weeks"))
    cited = Cited(place, place + 3, 1, NOTICE.id, NOTICE.path, NOTICE.title, span, "The notice ...", True, 0.9)
    grounding = {"abstained": False, "removed": 0, "left_out": 0, "unsupported": [[claim, len(text)]]}
    documents = site.documents
    documents.says = [
        Delta(text[:place]),
        Delta("[1]", (cited,)),
        Delta(text[place + 3 :]),
        Ended("stop", 9, 9, grounding),
    ]
    page, told = context.pages[0], list[str]()
    page.on("console", lambda message: told.append(message.text))
    about = {"audit": site.service.audit, "reviews": site.service.reviews}
    with running(tmp_path / "server", documents=cast("Documents", documents), **about) as server:
        page.goto(server.url)
        assert page.url == f"{server.url}/login"
        page.get_by_label("Token").fill("ib-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not valid")
        told.clear()  # the browser notes the status 401
        page.goto(f"{server.url}/login#{server.service.tokens.create('ada', is_admin=True, days=1)}")
        page.get_by_label("Your question").fill("How long is the notice period?")
        page.keyboard.press("Enter")
        expect(page.locator(".doubt").first).to_have_text("The office is in Lisbon")
        page.get_by_role("button", name="Source 1").first.click()
        expect(page.locator("#passage mark")).to_have_text("The notice period is six weeks")
        page.get_by_role("link", name="Review").click()
        page.get_by_role("link", name="Begin").click()
        page.get_by_role("button", name="Choose statement 1").click()
        expect(page.get_by_text("Saved: Statement 1.")).to_be_visible()
        page.get_by_role("link", name="Audit").click()
        page.get_by_role("button", name="Verify now").click()
        expect(page.get_by_text("121 events, consistent")).to_be_visible()
        page.get_by_role("link", name="120").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the proof").click()
        assert download.value.suggested_filename == "event-120.proof"
        page.goto(server.url)
        server.service.tokens.revoke(server.service.tokens.listed()[-1].caller.token)
        page.get_by_label("Your question").fill("And now?")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("Your session has ended. Log in")
        page.get_by_role("link", name="Log in").click()
        page.wait_for_url(f"{server.url}/login")
    assert [each for each in told if "401" not in each] == []


@slow
def test_an_index_is_quoted_and_what_may_not_be_read_is_as_if_it_were_not_there(
    context: BrowserContext, tmp_path: Path
) -> None:
    documents, page = OpenedDocuments(ServeConfig(index=make_index(tmp_path))), context.pages[0]
    with closing(documents), running(tmp_path / "server", documents=documents) as server:
        page.goto(f"{server.url}/login#{server.token}")
        answers = page.locator("article.assistant")
        for number, question in enumerate(
            ("How long is the notice period?", "How much is the quokka allowance?", "wombats")
        ):
            page.get_by_label("Your question").fill(question)
            page.keyboard.press("Enter")
            expect(answers).to_have_count(number + 1)
            expect(page.get_by_role("button", name="Send")).to_be_visible()
        expect(answers.first).to_contain_text("The notice period is six weeks to the end of a quarter.")
        assert answers.nth(1).inner_text() == answers.nth(2).inner_text() == f"Answer\n\n{NO_ANSWER}"
        answers.first.get_by_role("button", name="Source 1").first.click()
        expect(page.locator("#passage mark")).to_contain_text("The notice period is six weeks to the end of a quarter")


# ---------------------------------------------------------------- accessibility


@slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(tab: Tab, scheme: Any) -> None:
    tab.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")

    def check(what: str) -> None:
        found = Axe().run(tab.page).response["violations"]
        assert [(what, each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []

    for path in ("/login", "/", "/review", "/review/1", "/audit", "/audit/3", f"/passages/{NOTICE.id}?from=120&to=150"):
        tab.open(path)
        check(path)
    tab.open("/")
    page = tab.ask("How long is the notice period?", *cited())
    check("citations")
    page.get_by_role("button", name="Source 2").first.click()
    expect(page.locator("#passage mark")).to_be_visible()
    check("passage")
    tab.ask("code", delta("Look:\n```python\nprint(1)\n```"), {"error": {"message": "Broken."}})
    check("error")


@slow
def test_nothing_is_wider_than_a_narrow_screen(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 360, "height": 740})
    long = "x" * 400
    tab.site.documents.chunks = [*tab.site.documents.chunks, Chunk("9" * 32, long, (long,), 0, 400, long)]

    def width() -> int:
        return int(tab.page.evaluate("document.documentElement.scrollWidth"))

    for path in ("/login", "/", "/review", "/review/1", "/audit", "/audit/3", f"/passages/{'9' * 32}"):
        tab.open(path)
        assert width() <= 360, path
    tab.open("/")
    page = tab.ask(
        long, delta(f"{long}\n```\n{long}\n```\n"), delta("[1]", citation(810, tab.site.documents.chunks[-1], 1))
    )
    assert width() <= 360
    tab.ask("How long?", *cited())
    page.locator(".cite").last.click()
    expect(page.locator("#passage mark")).to_be_visible()
    assert width() <= 360
    assert re.search(
        "auto|scroll", str(page.evaluate("getComputedStyle(document.querySelector('.body pre')).overflowX"))
    )


COPIED = '```python\ndef merge(a, b):\n    """Merge two sorted lists."""\n    return sorted(a + b)\n```'


def repeated(start: int, end: int, path: str) -> dict[str, Any]:
    """Return the annotation of a span that a training document contains."""
    source = {"repo": "owner/tools", "path": path, "license": "MIT", "swhid": f"swh:1:cnt:{'0' * 40}"}
    about = {"num_tokens": 74, "num_documents": 1, "is_common": False, "sources": [source | {"is_removed": True}]}
    return {"type": "training_source", "start_index": start, "end_index": end, **about}


@slow
def test_training_documents_that_an_answer_repeats_are_marked_and_open_below_it(tab: Tab) -> None:
    tab.open()
    head = "Sort both lists together: "
    start = len(head) + 2 + COPIED.index("def")
    said = delta(f"{head}\n\n{COPIED}\n\nThat is all."), delta("", repeated(start, start + 16, f"{POISON}.py"))
    page = tab.ask("How do I merge two lists?", *said, ended("content_filter"))
    article = page.locator("article.assistant")
    expect(article.locator(".repeat")).to_have_text("def merge(a, b):")
    expect(article.locator(".repeat")).to_have_css("box-decoration-break", "clone")  # a mark beside each line
    expect(article.locator("summary")).to_have_text("74 tokens as in a training document: def merge(a, b):")
    expect(article.get_by_text("Ended before training text that is blocked.")).to_be_visible()
    article.get_by_text("74 tokens as in a training document").click()
    expect(article.locator("details.repeats")).to_contain_text(f"owner/tools {POISON}.py MIT, swh:1:cnt:0000")
    expect(article.locator("details.repeats")).to_contain_text("removed since")
    assert page.locator("#chat").locator("img, script, style, link, iframe, svg, a, [style]").count() == 0
    assert Axe().run(page).response["violations"] == []
