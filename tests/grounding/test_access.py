"""Access rules: who may read what, against a naive resolver; and a clear line for each file that is no rules."""

import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import REPOSITORY

from ibidem.errors import ConfigError
from ibidem.grounding import access, acl
from ibidem.grounding.access import YamlPermissions, YamlRules, unmatched
from ibidem.grounding.acl import Acl, Rule
from ibidem.grounding.globs import compile_glob
from ibidem.grounding.store import Access, Permissions, Rules

COMPANY = """
groups:
  engineering: [dev-1, dev-2]
  staff: [engineering, hr]
  outside: [contractor-1]
rules:
  - {path: "handbook/**", read: [everyone]}
  - {path: "salaries/**", read: [hr, outside], deny: [contractor-1]}
  - {path: "notes/*.md", read: staff}
  - {path: "notes/private.md", deny: [dev-2]}
"""


def rules_of(text: str) -> YamlRules:
    return YamlRules(acl.parse(text.encode(), "acl.yaml"))


def may(rules: Rules, principal: str, path: str) -> bool:
    return rules.permits(principal, rules.access(path))


def write(path: Path, text: str) -> None:
    """Replace a file at once, as its documentation asks."""
    path.with_name("new").write_text(text)
    path.with_name("new").rename(path)


# --- who may read


@pytest.mark.parametrize(
    ("principal", "path", "expected"),
    [
        ("dev-1", "handbook/a.md", True),
        ("stranger", "handbook/a/b/c.md", True),
        ("", "handbook/a.md", True),
        ("dev-1", "handbook", False),
        ("dev-1", "other/handbook/a.md", False),
        ("hr", "salaries/2026.md", True),
        ("dev-1", "salaries/2026.md", False),
        ("contractor-1", "salaries/2026.md", False),
        ("dev-1", "notes/a.md", True),
        ("dev-1", "notes/private.md", True),
        ("dev-2", "notes/private.md", False),
        ("hr", "notes/a/b.md", False),
        ("hr", "notes/a.mdx", False),
        ("dev-1", "unnamed.md", False),
        ("Dev-1", "notes/a.md", False),
        ("dev-1 ", "notes/a.md", False),
    ],
)
def test_readers_are_whom_the_rules_name(principal: str, path: str, expected: bool) -> None:
    assert may(rules_of(COMPANY), principal, path) is expected


@pytest.mark.parametrize("name", ["staff", "engineering", "outside", "everyone"])
def test_the_name_of_a_group_is_nobody(name: str) -> None:
    rules = rules_of(COMPANY)
    assert not any(may(rules, name, path) for path in ("handbook/a.md", "notes/a.md", "salaries/a.md"))


def test_a_deny_is_not_evaded_by_another_case_of_the_name() -> None:
    rules = rules_of("groups: {out: [Mallory]}\nrules: [{path: a, read: [everyone], deny: [contractor-1, out]}]")
    for name in ("contractor-1", "Contractor-1", "CONTRACTOR-1", "Mallory", "mallory", "MALLORY", "OUT"):
        assert not may(rules, name, "a"), name
    assert may(rules, "contractor-2", "a")


def test_who_is_not_listed_under_principals_may_read_nothing() -> None:
    rules = rules_of("principals: [ada, Bob]\nrules: [{path: a, read: [everyone]}]")
    assert {name: may(rules, name, "a") for name in ("ada", "Bob", "bob", "Ada", "stranger", "")} == {
        "ada": True,
        "Bob": True,
        "bob": False,
        "Ada": False,
        "stranger": False,
        "": False,
    }


def test_everyone_can_be_denied_and_can_be_in_a_group() -> None:
    rules = rules_of(
        "groups: {all: [everyone]}\nrules: [{path: a, read: [all]}, {path: b, read: [x]}, {path: b, deny: [everyone]}]"
    )
    assert may(rules, "anybody", "a")
    assert not may(rules, "x", "b")


def test_documents_with_the_same_readers_are_one_class() -> None:
    rules = rules_of(COMPANY)
    assert rules.access("handbook/a") == rules.access("handbook/b/c") == Access(frozenset({"everyone"}), frozenset())
    assert rules.access("nowhere") == Access(frozenset(), frozenset())


def test_names_and_paths_are_compared_in_one_unicode_form() -> None:
    name, path = unicodedata.normalize("NFD", "josé"), unicodedata.normalize("NFD", "café/å.md")
    assert (name, path) != ("josé", "café/å.md")
    for rule_name, rule_path in (("josé", "café/å.md"), (name, path)):
        rules = rules_of(f"rules: [{{path: '{rule_path}', read: ['{rule_name}']}}]")
        assert all(may(rules, p, document) for p in ("josé", name) for document in ("café/å.md", path))
    with pytest.raises(ConfigError, match="group 'josé' appears twice"):
        rules_of(f"groups: {{'josé': [a], '{name}': [b]}}\nrules: []")


NAMES = ["a", "b", "c", "d", "e", "everyone"]
PATHS = ["x", "x/y", "x/y/z", "x/z", "y/x", "z.md", "x/.md", "x/a\nb"]
GLOBS = ["**", "*", "x/**", "x/*", "**/z", "x/**/z", "**/x/**", "?/y", "*.md", "x", "**/*", "x/**/**", "x/*/*"]


def naive_match(glob: list[str], path: list[str]) -> bool:
    """Match components by the definition."""
    if not glob:
        return not path
    if glob[0] == "**":
        if len(glob) == 1:
            return len(path) > 0
        return any(naive_match(glob[1:], path[skipped:]) for skipped in range(len(path)))
    return bool(path) and naive_name(glob[0], path[0]) and naive_match(glob[1:], path[1:])


def naive_name(glob: str, name: str) -> bool:
    if not glob:
        return not name
    if glob[0] == "*":
        return any(naive_name(glob[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and glob[0] in {"?", name[0]} and naive_name(glob[1:], name[1:])


def naive_members(group: str, groups: dict[str, frozenset[str]]) -> set[str]:
    found: set[str] = set()
    for member in groups[group]:
        found |= naive_members(member, groups) if member in groups else {member}
    return found


def naive_may(content: Acl, principal: str, path: str) -> bool:
    def is_meant(names: Iterable[str]) -> bool:
        for name in names:
            members = naive_members(name, dict(content.groups)) if name in content.groups else {name}
            if principal in members or "everyone" in members:
                return True
        return False

    matching = [rule for rule in content.rules if naive_match(rule.path.split("/"), path.split("/"))]
    is_principal = principal not in content.groups and principal != "everyone"
    return (
        is_principal
        and any(is_meant(rule.read) for rule in matching)
        and not any(is_meant(rule.deny) for rule in matching)
    )


@st.composite
def contents(draw: st.DrawFn) -> Acl:
    """Groups hold only names that come later, so there is no cycle."""
    names = st.frozensets(st.sampled_from(NAMES), max_size=3)
    groups = {
        name: draw(st.frozensets(st.sampled_from(NAMES[place + 1 :]), max_size=3))
        for place, name in enumerate(NAMES[:3])
        if draw(st.booleans())
    }
    rule = st.builds(Rule, st.sampled_from(GLOBS), names, names, st.just(1))
    return Acl(groups, tuple(draw(st.lists(rule, max_size=4))), None)


@given(contents())
def test_access_is_that_of_a_naive_resolver(content: Acl) -> None:
    rules = YamlRules(content)
    for path in PATHS:
        for principal in [*NAMES, "stranger"]:
            assert may(rules, principal, path) == naive_may(content, principal, path), (principal, path)


@given(
    st.lists(st.sampled_from(["**", "*", "a", "b*", "*b", "?", "a*b*a", "ab"]), min_size=1, max_size=5),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5),
)
def test_globs_match_by_their_definition(glob: list[str], path: list[str]) -> None:
    assert bool(compile_glob("/".join(glob)).fullmatch("/".join(path))) == naive_match(glob, path)


@pytest.mark.parametrize("glob", ["*a" * 12 + "b", "**/*a/" * 12 + "b", "a/**/" * 8 + "b", "**/" * 50 + "b"])
def test_no_glob_backtracks_without_end(glob: str) -> None:
    """A pattern with plain repeats needs more steps here than there is time."""
    assert compile_glob(glob).fullmatch("a" * 250 + "/a" * 2000) is None


def test_classes_of_many_paths_are_shared_objects() -> None:
    rules = rules_of(COMPANY)
    assert len({id(rules.access(f"handbook/{number}")) for number in range(100)}) == 1


def test_principals_that_are_remembered_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_REMEMBERED", 8)
    rules = rules_of(COMPANY)
    assert all(may(rules, f"p{number}", "handbook/a") for number in range(100))
    assert len(rules._names) <= 8


# --- the version


def test_the_version_changes_with_a_rule_a_group_or_a_member_and_with_nothing_else() -> None:
    same = [
        COMPANY,
        COMPANY.replace("[dev-1, dev-2]", "[dev-2, dev-1, dev-1]"),
        "# of the company" + COMPANY,
        COMPANY.replace("staff}", '["staff"]}'),
    ]
    other = [
        COMPANY.replace("[dev-1, dev-2]", "[dev-1]"),
        COMPANY.replace("deny: [contractor-1]", "deny: [contractor-2]"),
        COMPANY.replace("notes/*.md", "notes/*"),
        COMPANY.replace("outside: [contractor-1]", "outside: []"),
        COMPANY + "principals: [dev-1, dev-2, hr, contractor-1]",
    ]
    assert len({rules_of(text).version for text in same}) == 1
    assert len({rules_of(text).version for text in [COMPANY, *other]}) == len(other) + 1


# --- what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("groups: {no: [a]}\nrules: []", 'line 1: a name: YAML reads no as bool, not as text; write "no"'),
        ("groups: {a: [on]}\nrules: []", 'write "on"'),
        ("rules: [{path: a, read: [off]}]", 'YAML reads off as bool, not as text; write "off"'),
        ("rules:\n- {path: a, read: [7]}", 'line 2: a name: YAML reads 7 as int, not as text; write "7"'),
        ("rules: [{path: a, read: [1.5, x]}]", 'write "1.5"'),
        ("rules: [{path: 2026-01-31, read: [x]}]", "YAML reads 2026-01-31 as timestamp, not as text"),
        ("rules: [{path: a, read: [null]}]", 'YAML reads null as null, not as text; write "null"'),
        ("rules: [{path: a, read: }]", "read must be a list"),
        ("rules: [{path: a, deny: b, c}]", "unknown key 'c'"),
        ("rules:\n- path: b\n  deny: y, z", "name 'y, z' has a comma; write several names as a list: [y, z]"),
        ('rules: [{path: a, deny: ["y, z"]}]', "write several names as a list: [y, z]"),
        ("groups: {g: 'y, z'}\nrules: []", "write several names as a list: [y, z]"),
        ("rules: [{path: a, read: [{b: c}]}]", "a name must be a text"),
        ("groups: {a: [b], b: [c], c: [a]}\nrules: []", "groups form a cycle: a -> b -> c -> a"),
        ("groups: {a: [a]}\nrules: []", "groups form a cycle: a -> a"),
        ("rules: [{path: a/../b, read: [x]}]", "path 'a/../b': '..' leads out of a folder"),
        ("rules: [{path: /etc/passwd, read: [x]}]", "it is absolute"),
        ("rules: [{path: 'a\\b', read: [x]}]", "not by a backslash"),
        ("rules: [{path: a/, read: [x]}]", "for all below a folder, write a/**"),
        ("rules: [{path: a//b, read: [x]}]", "a part of it is empty"),
        ("rules: [{path: ./a, read: [x]}]", "a part of it is empty or '.'"),
        ("rules: [{path: 'a**', read: [x]}]", "** stands alone between slashes"),
        ("rules: [{path: '[ab].md', read: [x]}]", "its wildcards are *, ** and ?"),
        ("rules: [{path: '!a', read: [x]}]", "its wildcards are *, ** and ?"),
        ("rules: [{path: ' a', read: [x]}]", "a blank at an end"),
        ('rules: [{path: "a\\0b", read: [x]}]', "it has a control character"),
        ("rules: [{path: '', read: [x]}]", "a path is empty"),
        ("rules: [{read: [x]}]", "a rule has no key 'path'"),
        ("rules: [{path: a}]", "rule 'a' has neither read nor deny"),
        ("rules: [{path: a, read: []}]", "read names nobody"),
        ("rules: [{path: a, raed: [x]}]", "unknown key 'raed'; did you mean read?"),
        ("rules: [{path: a, write: [x]}]", "unknown key 'write'; known: path, read, deny"),
        ("rule: []", "unknown key 'rule'; did you mean rules?"),
        ("groups: {}", "the file has no key 'rules'"),
        ("rules: {path: a}", "rules must be a list"),
        ("rules: [a]", "a rule must be keys with values"),
        ("rules: []\nrules: []", "line 2: key 'rules' appears twice"),
        ("rules: [{path: a, read: [x], read: [y]}]", "key 'read' appears twice"),
        ("groups: {a: [x], a: [y]}\nrules: []", "group 'a' appears twice"),
        ("groups: {everyone: [x]}\nrules: []", "'everyone' is the built-in group of all principals"),
        ("groups: {Everyone: [x]}\nrules: []", "'Everyone' differs from 'everyone' only in case"),
        ("groups: {hr: [x]}\nrules: [{path: a, read: [HR]}]", "line 2: name 'HR' differs from 'hr' only in case"),
        ("groups: {hr: [' x']}\nrules: []", "a blank at an end"),
        ('groups: {hr: ["x\\u200b"]}\nrules: []', "a control character"),
        ("groups: {hr: }\nrules: []", "group 'hr' must be a list; an empty one is []"),
        ("groups: {hr: [x]}\nrules: []\nprincipals: [hr, x]", "'hr' is both a group and a principal"),
        ("rules: []\nprincipals: [everyone]", "'everyone' is both a group and a principal"),
        (
            "rules: [{path: a, read: [contracter-1]}]\nprincipals: [contractor-1]",
            "'contracter-1' is neither a group nor listed under principals; did you mean contractor-1?",
        ),
        ("", "the file is empty"),
        ("# nothing", "the file is empty"),
        ("rules", "the file must be keys with values"),
        ("rules: [", "not YAML"),
        ("rules: []\n---\nrules: []", "not YAML"),
        ("\0", "not YAML"),
        ("[" * 5_000, "nested too deeply"),
        ("rules: &a [*a]", "a rule must be keys with values"),
        ("? [a]\n: b", "a key must be a text"),
        ("<<: {rules: []}", "YAML reads << as merge"),
        ("rules: [{path: a, read: [!!binary aGk=]}]", "not as text"),
    ],
)  # fmt: skip
def test_what_is_no_rules_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        rules_of(text)
    assert said in str(refused.value)
    assert str(refused.value).startswith("acl.yaml: ")
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="not YAML"):
        acl.parse(b"rules: [\xff]", "acl.yaml")


def test_words_in_quotes_are_names() -> None:
    rules = rules_of("groups: {'no': ['7', \"null\"]}\nrules: [{path: '1', read: ['no']}]")
    assert may(rules, "7", "1")
    assert may(rules, "null", "1")
    assert not may(rules, "no", "1")


def test_a_byte_order_mark_anchors_and_an_emptied_group_are_fine() -> None:
    text = (
        "\ufeffgroups: {old: []}\nrules:\n- {path: a, read: &team [x, y]}\n- {path: b, read: *team}\nprincipals: [x, y]"
    )
    assert may(rules_of(text), "y", "b")


def test_nested_groups_can_be_deep() -> None:
    groups = {f"g{number}": frozenset({f"g{number + 1}"}) for number in range(20_000)}
    content = Acl(groups, (Rule("a", frozenset({"g0"}), frozenset(), 1),), None)
    acl._Reader("acl.yaml").check_cycles(groups)
    assert may(YamlRules(content), "g20000", "a")


# --- rules without documents


@pytest.mark.parametrize(
    ("glob", "said"),
    [
        ("Handbook/**", "; 'handbook/a.md' differs in case"),
        ("handbook", "; it is a folder: write handbook/**"),
        ("handbok/**", "; did you mean handbook?"),
        ("elsewhere/**", ""),
    ],
)
def test_a_rule_that_matches_no_document_is_reported(glob: str, said: str) -> None:
    rules = rules_of(f"rules:\n- {{path: '**/*.md', read: [x]}}\n- {{path: {glob}, read: [x]}}")
    documents = ["handbook/a.md", "handbook/b.md"]
    assert unmatched(rules, documents) == [f"line 3: rule {glob!r} matches no document{said}"]
    assert not may(rules_of(f"rules: [{{path: {glob}, read: [x]}}]"), "x", "handbook/a.md")


def test_rules_that_match_are_not_reported() -> None:
    assert unmatched(rules_of(COMPANY), ["handbook/a", "salaries/b", "notes/private.md"]) == []


# --- the file as it is now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "acl.yaml").write_text(COMPANY)
    return tmp_path / "acl.yaml"


def test_a_change_counts_at_the_next_look(file: Path) -> None:
    permissions = YamlPermissions(file)
    before = permissions.current()
    assert permissions.current() is before
    assert permissions.holds(before, ["handbook/a.md"])
    write(file, COMPANY.replace("[dev-1, dev-2]", "[dev-1]"))
    assert not permissions.holds(before, ["handbook/a.md"])
    after = permissions.current()
    assert (may(before, "dev-2", "notes/a.md"), may(after, "dev-2", "notes/a.md")) == (True, False)


def test_an_edit_of_the_same_size_and_time_counts(file: Path) -> None:
    permissions = YamlPermissions(file)
    assert may(permissions.current(), "hr", "salaries/a")
    about = file.stat()
    file.write_text(COMPANY.replace("[hr, outside]", "[ab, outside]"))
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)
    assert not may(permissions.current(), "hr", "salaries/a")


def looking(monkeypatch: pytest.MonkeyPatch, file: Path, meanwhile: Callable[[], object]) -> None:
    """Let something happen while a file that was changed just now is watched."""

    class Clock:
        @staticmethod
        def time() -> float:
            return file.stat().st_ctime

        @staticmethod
        def sleep(_: float) -> None:
            meanwhile()

    monkeypatch.setattr(access, "time", Clock)


def test_two_edits_within_one_tick_of_the_clock_are_not_taken_for_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second leaves size and times as they are; a file is believed only once no edit can hide so."""
    about = file.stat()
    looks = []

    def edit_again() -> None:
        looks.append(1)
        if len(looks) == 1:
            file.write_text(COMPANY.replace("dev-2]", "dev-3]"))

    looking(monkeypatch, file, edit_again)
    assert may(YamlPermissions(file).current(), "dev-3", "notes/a.md")
    assert (about.st_size, len(looks)) == (file.stat().st_size, 2)


def test_a_file_that_is_being_written_is_not_read_half(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first half alone is valid, and lacks a denial."""
    half = COMPANY.index('  - {path: "notes/private.md"')
    assert may(rules_of(COMPANY[:half]), "dev-2", "notes/private.md")
    file.write_text(COMPANY[:half])
    looking(monkeypatch, file, lambda: file.write_text(COMPANY) if file.read_text() != COMPANY else None)
    assert not may(YamlPermissions(file).current(), "dev-2", "notes/private.md")


def test_a_link_that_is_pointed_elsewhere_meanwhile_is_followed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes replaces mounted configurations; the file that was read stays as it is."""
    (tmp_path / "revoked.yaml").write_text(COMPANY.replace("[hr, outside]", "[outside]"))
    link = tmp_path / "link"
    link.symlink_to(file)

    def point_elsewhere() -> None:
        (tmp_path / "new").symlink_to(tmp_path / "revoked.yaml")
        (tmp_path / "new").rename(link)

    looking(monkeypatch, file, point_elsewhere)
    assert not may(YamlPermissions(link).current(), "hr", "salaries/a")


def test_a_file_that_never_settles_is_an_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = itertools.count()
    looking(monkeypatch, file, lambda: file.write_text(COMPANY + "#" * next(sizes)))
    with pytest.raises(ConfigError, match="it keeps changing"):
        YamlPermissions(file).current()


def test_while_the_file_is_away_nobody_may_read_anything(file: Path) -> None:
    permissions = YamlPermissions(file)
    before = permissions.current()
    file.rename(file.with_name("away"))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"acl\.yaml: No such file.*nobody may read anything"):
            permissions.current()
        with pytest.raises(ConfigError):
            permissions.holds(before, [])
    file.with_name("away").rename(file)
    assert may(permissions.current(), "hr", "salaries/a")
    write(file, "rules: [")
    for _ in range(2):
        with pytest.raises(ConfigError, match="not YAML"):
            permissions.current()


def test_a_file_that_may_not_be_read_is_an_error(file: Path) -> None:
    permissions = YamlPermissions(file)
    permissions.current()
    file.chmod(0)
    is_root = os.geteuid() == 0
    for folder in file.parents:
        if is_root and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            permissions.current()
    finally:
        if is_root:
            os.seteuid(0)


def test_what_is_no_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("rules: []" + " " * 200)
    monkeypatch.setattr(access, "MAX_BYTES", 100)
    for name, said in (("pipe", "not a file"), (".", "Is a directory"), ("large", "is it a file of access rules")):
        with pytest.raises(ConfigError, match=said):
            YamlPermissions(tmp_path / name).current()


def test_the_file_is_found_from_another_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    permissions = YamlPermissions(Path(file.name))
    monkeypatch.chdir("/")
    assert may(permissions.current(), "hr", "salaries/a")


# --- a source of rules of one's own


def test_the_directory_of_the_documentation_is_a_source_of_rules() -> None:
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "access.md").read_text(), re.MULTILINE | re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(code, names)
    content = {"version": "41", "groups": {"dev-1": {"engineering"}}, "read": {"handbook": {"engineering"}}}
    permissions: Permissions = names["Directory"](content)
    before = permissions.current()
    assert may(before, "dev-1", "handbook/a.md")
    assert not may(before, "dev-2", "handbook/a.md")
    assert not may(before, "dev-1", "salaries/a.md")
    assert permissions.holds(before, ["handbook/a.md"])
    content.update(version="42", groups={})
    assert not permissions.holds(before, ["handbook/a.md"])
    assert not may(permissions.current(), "dev-1", "handbook/a.md")


def test_the_rules_of_the_documentation_are_rules() -> None:
    text = (REPOSITORY / "docs" / "access.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rules = rules_of(example)
    assert may(rules, "hr", "salaries/2026.md")
    assert not may(rules, "contractor-1", "salaries/2026.md")
