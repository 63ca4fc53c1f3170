r"""Secrets and personal data become typed placeholders, with counts.

One hyperscan pass over the UTF-8 bytes finds the anchors of all rules; Python looks at those places alone. An anchor is
a short, loose pattern whose start is known; the rule's own pattern is matched there, and a validator decides. Of
overlapping finds the longest wins, then the earliest, then the rule that stands first. Passes repeat until nothing is
found, so that scrubbing a scrubbed text changes nothing.

What stays, because it is nobody's data and the model should know it:

* email: the domains reserved for examples (RFC 2606: `example.com`, `.test`, `.invalid`), `git@host`, users of URLs;
* IP addresses: what is not globally routable (loopback, private, documentation, ...), the well-known public resolvers,
  networks (`x.y.z.0`, `x:y::`), versions by their context (`version = `, `==`, `name-`, `name/`), and dotted quads
  with no number above 31: section numbers, object identifiers and versions look like that, 1 address in 3,500 does;
* phone numbers: those set aside for fiction in North America (555-0100 to 555-0199);
* secrets: values that say that they are examples (`EXAMPLE`, `xxxx`, runs such as `12345678`), templates
  (`${TOKEN}`, `{password}`), and the markers of a private key with no key between them.
"""

import base64
import ipaddress
import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import log2
from typing import Any, NamedTuple

from ibidem.config import configuration

Match = re.Match[bytes]
Span = tuple[int, int]


@configuration
class ScrubPolicy:
    """What becomes a placeholder."""

    secrets: bool = True
    """Keys, tokens, private keys, and passwords: in URLs, and random ones of 16 characters or more in quotes."""
    personal: bool = True
    """Email and IP addresses, phone, card and account numbers, US social security numbers."""


class Rule(NamedTuple):
    """How one kind is found. What the pattern calls `found` is replaced, otherwise the whole match."""

    kind: str
    anchor: str
    """For hyperscan: selective, and the match starts where it starts."""
    pattern: str
    """For `re`, on bytes, matched where the anchor starts."""
    is_genuine: Callable[[Match], bool] | None = None
    before: bytes = b""
    """Characters of the match that may stand before the anchor."""


class Scrubber:
    """Replaces secrets and personal data. Build it once a process; two threads must not share it."""

    def __init__(self, policy: ScrubPolicy) -> None:
        rules = (SECRETS if policy.secrets else ()) + (PERSONAL if policy.personal else ())
        anchors = list(dict.fromkeys(rule.anchor for rule in rules))
        self._order = {rule: number for number, rule in enumerate(rules)}
        self._patterns = {rule: re.compile(rule.pattern.encode()) for rule in rules}
        self._rules_of = [[rule for rule in rules if rule.anchor == anchor] for anchor in anchors]
        self._database = _compile(anchors) if anchors else None

    def __call__(self, text: str) -> tuple[str, dict[str, int]]:
        """Replace secrets and personal data; give the text and the count by kind.

        Returns:
            the same object and {} when nothing was found.

        >>> Scrubber(ScrubPolicy())("Ask Ann <ann@ibidem.org>.")
        ('Ask Ann <<EMAIL>>.', {'email': 1})
        """
        data = text.encode("utf-8", "surrogatepass")
        finds = self._find(data)
        if not finds:
            return text, {}
        counts: Counter[str] = Counter()
        while finds:
            data = _replace(data, finds)
            counts.update(kind for _, kind in finds)
            finds = self._find(data)
        return data.decode("utf-8", "surrogatepass"), dict(counts)

    def _find(self, data: bytes) -> list[tuple[Span, str]]:
        """Give disjoint spans and their kinds, in order."""
        hits = array("Q")
        if self._database is not None:
            self._database.scan(data, match_event_handler=_note, context=hits)
        if not hits:
            return []
        finds: set[tuple[Span, Rule]] = set()
        last = -1
        for hit in hits:
            if hit != last:
                finds.update(self._judge(data, hit >> _ANCHOR_BITS, hit & _ANCHOR_MASK))
                last = hit
        ranked = sorted(finds, key=lambda find: (find[0][0] - find[0][1], find[0][0], self._order[find[1]]))
        return _disjoint([(span, rule.kind) for span, rule in ranked], len(data)) if ranked else []

    def _judge(self, data: bytes, start: int, anchor: int) -> Iterable[tuple[Span, Rule]]:
        for rule in self._rules_of[anchor]:
            match = self._patterns[rule].match(data, _walk_back(data, start, rule.before) if rule.before else start)
            if match and (rule.is_genuine is None or rule.is_genuine(match)):
                yield match.span("found" if "found" in match.re.groupindex else 0), rule


def placeholder(kind: str) -> str:
    """Give what stands for a kind, in StarCoder's form.

    Source: Li et al. 2023, arXiv:2305.06161, section 4.

    >>> placeholder("ip-address"), placeholder("key.github")
    ('<IP_ADDRESS>', '<KEY:github>')
    """
    if kind in SECRET_KINDS:
        return f"<KEY:{kind.removeprefix('key.')}>"
    return f"<{kind.upper().replace('-', '_')}>"


_ANCHOR_BITS = 8
_ANCHOR_MASK = (1 << _ANCHOR_BITS) - 1
_FARTHEST_BEFORE = 128


def _compile(anchors: Sequence[str]) -> Any:
    import hyperscan

    database = hyperscan.Database()
    database.compile(
        expressions=[anchor.encode() for anchor in anchors],
        ids=list(range(len(anchors))),
        elements=len(anchors),
        flags=[hyperscan.HS_FLAG_SOM_LEFTMOST] * len(anchors),
    )
    return database


# Eight bytes a hit, so that a hostile document of 100 MB cannot fill the memory with tuples.
def _note(anchor: int, start: int, _end: int, _flags: int, hits: "array[int]") -> None:
    hits.append(start << _ANCHOR_BITS | anchor)


def _walk_back(data: bytes, start: int, characters: bytes) -> int:
    window = data[max(0, start - _FARTHEST_BEFORE) : start]
    return start - len(window) + len(window.rstrip(characters))


def _disjoint(ranked: list[tuple[Span, str]], size: int) -> list[tuple[Span, str]]:
    taken = bytearray(size)
    kept = []
    for (start, end), kind in ranked:
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\1" * (end - start)
            kept.append(((start, end), kind))
    return sorted(kept)


def _replace(data: bytes, finds: list[tuple[Span, str]]) -> bytes:
    parts, done = [], 0
    for (start, end), kind in finds:
        parts += [data[done:start], placeholder(kind).encode()]
        done = end
    return b"".join([*parts, data[done:]])


# ---- Secrets -------------------------------------------------------------------------------------------------------

_EXAMPLE = re.compile(
    rb"(?i)example|x{4}|\*{3}|\.{3}|0{7}|1{7}|1234567|abcdefg|your[_-]|placeholder|changeme|change[_-]me|dummy|redacted"
)
_HEX = re.compile(rb"[0-9a-f]+|[0-9A-F]+")
_WORD = re.compile(rb"[a-z]{8}|[A-Z]{10}|[A-Za-z]{24}|[a-z]{4}[_./-][a-z]{4}|(?:[A-Z][a-z]{3,}){2}")
_LOWER_WORD = re.compile(rb"[a-z]{7}")
_TEMPLATE = re.compile(rb"[$%{(\[<]|.*(?:\{|\}|\$\(|%s)")
_NO_PASSWORD = re.compile(
    rb"(?i)[$%{(\[<]|.*(?:\{|\}|\$\(|%s)|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$|\d{4}-\d\d-\d\dT|https?:"
)
_EXAMPLE_PASSWORD = re.compile(
    rb"(?i)(?:my|the|some|your|user|db|test|a|an)?[_-]?(?:pass(?:word|wd|phrase)?|pwd?|secret|token|user(?:name)?|foo"
    rb"|bar|baz|test|postgres|mysql|root|guest|admin|tiger|hunter2|credentials?|hello|x-oauth-basic|port|(.)\1*)[0-9]{0,3}"
)
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/]{24}")


def _found(match: Match) -> bytes:
    return match["found" if "found" in match.re.groupindex else 0]


def _is_no_example(match: Match) -> bool:
    found = _found(match)
    return len(set(found)) >= 7 and not _EXAMPLE.search(found)


def _is_mixed(match: Match) -> bool:
    """A key of letters of both cases and digits: no name, no digest."""
    found = _found(match)
    kinds = (any(map(test, _characters(found))) for test in (str.islower, str.isupper, str.isdigit))
    return all(kinds) and _is_no_example(match)


def _is_scrambled(match: Match) -> bool:
    return _is_mixed(match) and not _LOWER_WORD.search(_found(match))


def _characters(found: bytes) -> str:
    return found.decode("latin-1")


def _is_password(match: Match) -> bool:
    """A random string in quotes, behind a word such as `password`."""
    found = _found(match)
    digits = sum(map(str.isdigit, _characters(found)))
    if digits < 2 or digits == len(found) or _NO_PASSWORD.match(found) or not _is_no_example(match):
        return False
    if _HEX.fullmatch(found):
        return len(found) >= 24 and _entropy(found) >= 2.9
    return _entropy(found) >= 3.5 and not _WORD.search(found)


def _entropy(found: bytes) -> float:
    """In bits a character."""
    return -sum(n / len(found) * log2(n / len(found)) for n in Counter(found).values())


def _is_url_password(match: Match) -> bool:
    found, host = match["found"], match["host"].lower()
    if found == match["user"] or _TEMPLATE.match(found) or _EXAMPLE.search(found) or _EXAMPLE_PASSWORD.fullmatch(found):
        return False
    return not (_RESERVED_DOMAIN.search(host) or host.startswith(b"localhost"))


def _is_jwt(match: Match) -> bool:
    try:
        header, payload = (json.loads(_base64url(part)) for part in match[0].split(b".")[:2])
    except ValueError:
        return False
    return isinstance(header, dict) and isinstance(payload, dict)


def _base64url(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(part.rstrip(b"=") + b"=" * (-len(part.rstrip(b"=")) % 4))


def _is_discord(match: Match) -> bool:
    try:
        return _base64url(match["user"]).isdigit()
    except ValueError:
        return False


def _is_key_block(match: Match) -> bool:
    return _BASE64_RUN.search(match["body"]) is not None


_KEYWORD = "(?:key|pwd|pw|password|pass|token)"
_ASSIGN = r"""["']?\]?[ \t]{0,8}(?:=>|:=|::|=|:| )[ \t]{0,8}["']?"""
_ASSIGNED = rf"(?i){_KEYWORD}{_ASSIGN}[a-z0-9_/+-]{{20}}"
_IDENTIFIER = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
_CLOUDANT = rf"(?i)[\w-]*?(?<![a-z0-9])(?:cloudant|clou|cl)[_-]?(?:api)?[_-]?{_KEYWORD}{_ASSIGN}"
_IBM = rf"(?i)[\w-]*?(?<![a-z0-9])(?:ibm[_-]?)?(?:cloud[_-]?)?(?:iam[_-]?)?(?:api)?[_-]?{_KEYWORD}{_ASSIGN}"
_COS = rf"(?i)[\w-]*?(?<![a-z0-9])(?:(?:ibm)?[_-]?cos[_-]?(?:hmac)?[_-]?)?secret[_-]?(?:access)?[_-]?key{_ASSIGN}"
_SOFTLAYER = rf"(?i)[\w-]*?(?<![a-z0-9])(?:softlayer|sl)[_-]?(?:api)?[_-]?{_KEYWORD}{_ASSIGN}"
_AWS_ASSIGNED = r"""(?i)aws[^\n]{0,20}?(?:key|pwd|pw|password|pass|token)[^\n]{0,20}?[=: "']"""
_QUOTED = (
    r"(?i)(?:password|passwd|passphrase|pwd|secret|token|(?:api|access|private|encryption|auth|signing)[_-]?key)"
    r"""[a-z_-]{0,8}["']?\]?(?::[ ]?str)?[ \t]{0,4}(?:=>|:=|=|:)[ \t]{0,4}["']"""
)
_URL_USER = r"""://[^\s/?#@:"'<>\[\]]{0,64}:"""
_CLOUDANT_URL = r"://[\w-]{1,64}:(?P<found>[0-9a-fA-F]{64}|[A-Za-z]{24})@[\w-]+\.cloudant\.com"
_PEM_BODY = r"(?P<body>(?:(?!-----)[\t\n\r\x20-\x7e]){40,20000}?)-----END [A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?-----"
_SSH2_BODY = r"(?P<body>(?:(?!---- )[\t\n\r\x20-\x7e]){40,20000}?)---- END SSH2 (?:ENCRYPTED )?PRIVATE KEY ----"
_OPEN_BODY = r"(?P<body>(?:(?:\\[nr]|[\s\"',+])*[A-Za-z0-9+/=]{40,100}(?![A-Za-z0-9+/=]))+)"
_PUTTY_BODY = r"[23]:(?P<body>(?:(?!PuTTY-User-Key)[\t\n\r\x20-\x7e]){40,20000}?)Private-MAC: ?[0-9a-f]{40,64}"

SECRETS: tuple[Rule, ...] = (
    Rule(
        "key.aws-access-key",
        r"\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}",
        r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])",
        _is_no_example,
    ),
    Rule(
        "key.aws-secret-key",
        _AWS_ASSIGNED + "[0-9a-z/+]{40}",
        _AWS_ASSIGNED + "(?P<found>[0-9a-z/+]{40})(?![0-9a-z/+=])",
        _is_mixed,
    ),
    Rule("key.artifactory", r"\bAKC[A-Za-z0-9]{10}", r"(?<![\w./-])AKC[A-Za-z0-9]{10,200}(?![\w./-])", _is_scrambled),
    Rule(
        "key.artifactory",
        r"\bAP[0-9A-F][A-Za-z0-9]{8}",
        r"(?<![\w./-])AP[0-9A-F][A-Za-z0-9]{8,200}(?![\w./-])",
        _is_scrambled,
    ),
    Rule("key.azure-storage", "AccountKey=", r"AccountKey=(?P<found>[A-Za-z0-9+/=]{88})", _is_no_example),
    Rule("key.cloudant", _ASSIGNED, _CLOUDANT + "(?P<found>[0-9a-f]{64})(?![0-9a-z])", _is_no_example, _IDENTIFIER),
    Rule("key.cloudant", _ASSIGNED, _CLOUDANT + "(?P<found>[a-z]{24})(?![0-9a-z_])", _is_no_example, _IDENTIFIER),
    Rule("key.cloudant", _URL_USER, _CLOUDANT_URL, _is_no_example),
    Rule(
        "key.basic-auth",
        _URL_USER,
        r"""://(?P<user>[^\s/?#@:"'<>\[\]]{0,64}):(?P<found>[^\s/?#@:"'<>`(){}\[\]\\]{3,128})@(?P<host>[^\s/:"'<>]{0,253})""",
        _is_url_password,
    ),
    Rule(
        "key.discord",
        r"\b[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27}",
        r"(?<![\w.-])(?P<user>[MNO][\w-]{23,25})\.[\w-]{6}\.[\w-]{27,38}(?![\w-])",
        _is_discord,
    ),
    Rule("key.github", r"\bgh[opusr]_[A-Za-z0-9_]{8}", r"gh[opusr]_[A-Za-z0-9_]{36,251}(?!\w)", _is_no_example),
    Rule("key.github", r"\bgithub_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}(?!\w)", _is_no_example),
    Rule(
        "key.gitlab",
        r"\bgl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-[\w-]{8}",
        r"gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-[\w-]{20,1024}(?:\.[\w-]{2}\.[\w-]{9})?(?![\w-])",
        _is_no_example,
    ),
    Rule("key.gitlab", r"\bGR1348941", r"GR1348941[\w-]{20,50}(?![\w-])", _is_no_example),
    Rule("key.ibm-cloud", _ASSIGNED, _IBM + r"(?P<found>[\w-]{44})(?![\w-])", _is_mixed, _IDENTIFIER),
    Rule("key.ibm-cos", _ASSIGNED, _COS + "(?P<found>[a-f0-9]{48})(?![a-z0-9])", _is_no_example, _IDENTIFIER),
    Rule(
        "key.jwt",
        r"\beyJ[\w-]{8}",
        r"(?<![\w-])eyJ[\w-]{8,16384}={0,2}\.[\w-]{3,65536}={0,2}(?:\.[\w-]{0,4096}={0,2})?",
        _is_jwt,
    ),
    Rule("key.mailchimp", r"\b[0-9a-f]{32}-us[0-9]", r"[0-9a-f]{32}-us[0-9]{1,2}(?!\w)", _is_no_example),
    Rule(
        "key.npm",
        r":_authToken",
        r""":_authToken[ \t]*=[ \t]*["']?(?P<found>npm_\w{20,100}|[A-Fa-f0-9-]{36})(?![\w-])""",
        _is_no_example,
    ),
    Rule("key.npm", r"\bnpm_[A-Za-z0-9]{36}", r"npm_[A-Za-z0-9]{36}(?!\w)", _is_mixed),
    Rule(
        "key.openai",
        r"\bsk-[\w-]{20}",
        r"(?<![\w-])sk-[\w-]{0,200}?[A-Za-z0-9_-]{20}T3BlbkFJ[\w-]{20,200}",
        _is_no_example,
    ),
    Rule("key.openai", r"\bsk-[\w-]{20}", r"(?<![\w-])sk-[A-Za-z0-9]{48}(?![\w-])", _is_mixed),
    Rule("key.anthropic", r"\bsk-[\w-]{20}", r"(?<![\w-])sk-ant-[a-z0-9]{2,12}-[\w-]{80,200}", _is_no_example),
    Rule(
        "key.private-key",
        r"-----BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY",
        rf"-----BEGIN [A-Z0-9 ]{{0,24}}PRIVATE KEY(?: BLOCK)?-----(?:{_PEM_BODY}|{_OPEN_BODY.replace('body', 'open')})",
        lambda match: match["open"] is not None or _is_key_block(match),
    ),
    Rule(
        "key.private-key",
        "---- BEGIN SSH2 (?:ENCRYPTED )?PRIVATE KEY",
        rf"---- BEGIN SSH2 (?:ENCRYPTED )?PRIVATE KEY ----{_SSH2_BODY}",
        _is_key_block,
    ),
    Rule("key.private-key", "PuTTY-User-Key-File-[23]:", "PuTTY-User-Key-File-" + _PUTTY_BODY, _is_key_block),
    Rule("key.pypi", r"\bpypi-AgE", r"pypi-AgE(?:IcHlwaS5vcmc|NdGVzdC5weXBpLm9yZw)[\w-]{70,1000}", _is_no_example),
    Rule("key.sendgrid", r"\bSG\.[\w-]{22}\.[\w-]", r"(?<![\w.-])SG\.[\w-]{22}\.[\w-]{43}(?![\w-])", _is_no_example),
    Rule("key.slack-token", r"(?i)\bxox[abposr]-[0-9]", r"(?i)xox[abposr]-(?:[0-9]+-)+[a-z0-9]+", _is_no_example),
    Rule("key.slack-token", r"\bxapp-[0-9]", r"xapp-[0-9]-[A-Z0-9]+-[0-9]+-[a-z0-9]+", _is_no_example),
    Rule(
        "key.slack-webhook",
        r"(?i)hooks\.slack\.com/services/T",
        r"(?i)hooks\.slack\.com/services/(?P<found>T\w{1,64}/B\w{1,64}/\w{1,64})",
        _is_no_example,
    ),
    Rule("key.softlayer", _ASSIGNED, _SOFTLAYER + "(?P<found>[a-z0-9]{64})(?![a-z0-9])", _is_no_example, _IDENTIFIER),
    Rule(
        "key.softlayer",
        r"(?i)api\.softlayer\.com/soap/v3",
        r"(?i)api\.softlayer\.com/soap/v3(?:\.1)?/(?P<found>[a-z0-9]{64})(?![a-z0-9])",
        _is_no_example,
    ),
    Rule(
        "key.square", r"\bsq0(?:csp|atp|idp)-", r"sq0(?:csp-[\w\\-]{43}|(?:atp|idp)-[\w-]{22})(?![\w-])", _is_no_example
    ),
    Rule("key.stripe", r"\b[rs]k_live_", r"[rs]k_live_[0-9a-zA-Z]{24,247}(?!\w)", _is_no_example),
    Rule("key.telegram", r"\b[0-9]{8,10}:[\w-]{35}", r"(?<![\w:.-])[0-9]{8,10}:[\w-]{35}(?![\w-])", _is_mixed),
    Rule("key.twilio", r"\b(?:AC|SK)[0-9a-f]{32}\b", r"(?:AC|SK)[0-9a-f]{32}(?!\w)", _is_no_example),
    Rule("key.google-api", r"\bAIza[\w-]{35}", r"AIza[\w-]{35}(?![\w-])", _is_no_example),
    Rule("key.google-api", r"\bGOCSPX-[\w-]{28}", r"GOCSPX-[\w-]{28}(?![\w-])", _is_no_example),
    Rule("key.huggingface", r"\bhf_[A-Za-z0-9]{34}", r"hf_[A-Za-z0-9]{34}(?!\w)", _is_no_example),
    Rule(
        "key.password",
        _QUOTED + "[!-~]{16}",
        _QUOTED + r"""(?P<found>[^\s"'<>\x00-\x1f\x80-\xff]{16,128})["']""",
        _is_password,
    ),
)

# ---- Personal data -------------------------------------------------------------------------------------------------

_COUNTRY_DOMAINS = frozenset(
    b"ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca "
    b"cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo "
    b"fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it "
    b"je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn "
    b"mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps "
    b"pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj "
    b"tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw".split()
)
_GENERIC_DOMAINS = frozenset(
    b"com org net edu gov mil int info biz name pro aero coop museum jobs mobi travel tel cat asia post arpa app "
    b"dev page cloud online site website space tech xyz email mail blog shop store club live life world today "
    b"group team company agency studio design digital media network systems solutions software services "
    b"engineering consulting academy university school institute foundation science health care legal finance bank "
    b"capital fund energy berlin london paris nyc tokyo wien hamburg koeln bayern swiss brussels amsterdam moscow "
    b"africa codes works zone ninja guru rocks expert social chat top win icu vip link click one global "
    b"international google".split()
)
_RESERVED_DOMAIN = re.compile(rb"(?:^|[.@])example(?:\.[a-z]{2,3}){0,2}$|(?:^|\.)(?:example|test|invalid|localhost)$")
_URL_BEFORE = re.compile(rb"://[^\s/@\"']{0,128}$")
_SERVICE_USERS = {b"git", b"hg", b"svn", b"cvs"}
_VERSION_BEFORE = re.compile(
    rb"(?i)(?:(?:(?:version|release|revision|firmware|build)\w*|(?<![a-z])(?:oid|ver|rev|section|sec\.|chapter|v))"
    rb"[\"'\])]*\s*[:=(,]{0,2}\s*[\"'(]*|(?:[=~<>!]=|[\^~])\s*[\"']?)$"
)
_RESOLVERS = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "149.112.112.112", "208.67.222.222", "208.67.220.220",
        "4.2.2.1", "4.2.2.2", "64.6.64.6", "64.6.65.6",
        "2606:4700:4700::1111", "2606:4700:4700::1001", "2001:4860:4860::8888", "2001:4860:4860::8844", "2620:fe::fe",
        "2620:fe::9", "2620:119:35::35", "2620:119:53::53",
    )
)  # fmt: skip
_LARGEST_VERSION_PART = 31
_LOW_64_BITS = (1 << 64) - 1
_MADE_UP_ADDRESSES = {b"12.34.56.78", b"98.76.54.32", b"123.45.67.89", b"11.22.33.44", b"1.2.3.255", b"1.2.3.128"}
_CARD_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
_COUNTING = "01234567890123456789 98765432109876543210"
_FICTIONAL = re.compile(r"\+1\d{3}55501\d\d")
_CARD_WORD = re.compile(
    rb"(?i)card|visa|amex|american express|discover|diners|jcb|payment|credit|debit|charge|(?<![a-z])cc(?![a-z])"
)
_QUOTES = (b'"', b"'", b"`")
_IBAN_LENGTHS = {
    country.decode(): int(length)
    for country, length in re.findall(
        rb"([A-Z]{2})(\d\d)",
        b"AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23"
        b"GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21MC27MD24ME22MK19MR27MT31MU30NL18"
        b"NO15PK24PL28PS29PT25QA29RO24RS22SA24SC31SE24SI19SK24SM27ST25SV28TN24TR26UA29VA22VG24XK20",
    )
}
_PUBLISHED_SSNS = {"078051120", "219099999", "123456789", "111111111"}


def _is_email(match: Match) -> bool:
    local, _, domain = match["found"].lower().rpartition(b"@")
    start = match.start("found")
    if match.string[start - 1 : start] == b"%" or local in _SERVICE_USERS or _RESERVED_DOMAIN.search(domain):
        return False
    top = domain.rpartition(b".")[2]
    if not (top in _COUNTRY_DOMAINS or top in _GENERIC_DOMAINS or top.startswith(b"xn--") or top[0] >= 0x80):
        return False
    return not _URL_BEFORE.search(match.string[max(0, start - 136) : start])


def _is_public_address(match: Match) -> bool:
    try:
        address = ipaddress.ip_address(match[0].decode())
    except ValueError:
        return False
    is_network = address.version == 6 and int(address) & _LOW_64_BITS == 0
    return address.is_global and not (address.is_multicast or is_network or address in _RESOLVERS)


def _is_host(match: Match) -> bool:
    """An address of a host: no network, no version, no section number."""
    parts = [int(part) for part in match[0].split(b".")]
    if parts[-1] == 0 or max(parts) <= _LARGEST_VERSION_PART or len(set(parts)) == 1 or match[0] in _MADE_UP_ADDRESSES:
        return False
    before = match.string[max(0, match.start() - 48) : match.start()]
    return not _VERSION_BEFORE.search(before) and _is_public_address(match)


def _digits(match: Match) -> str:
    return re.sub(rb"\D", b"", _found(match)).decode()


def _is_phone(match: Match, regions: Iterable[str | None]) -> bool:
    import phonenumbers

    written = _found(match).decode()
    if _digits(match) in _COUNTING:
        return False
    for region in regions:
        found = next(iter(phonenumbers.PhoneNumberMatcher(written, region)), None)
        if found is not None and (found.start, found.end) == (0, len(written)):
            return not _FICTIONAL.fullmatch(
                phonenumbers.format_number(found.number, phonenumbers.PhoneNumberFormat.E164)
            )
    return False


def _is_phone_of(*regions: str | None) -> Callable[[Match], bool]:
    return lambda match: _is_phone(match, regions)


def _is_card(match: Match) -> bool:
    digits = _digits(match)
    if len(set(digits)) == 1 or not _CARD_ISSUERS.fullmatch(digits) or _luhn(digits) != 0:
        return False
    return match[1] != b"" or _is_called_card(match)


def _is_called_card(match: Match) -> bool:
    """One number in ten passes the Luhn check: bare digits need quotes or a word that says what they are."""
    before = match.string[max(0, match.start() - 64) : match.start()]
    after = match.string[match.end() : match.end() + 1]
    return (before[-1:] in _QUOTES and before[-1:] == after) or _CARD_WORD.search(before) is not None


def _luhn(digits: str) -> int:
    """Give the remainder of the Luhn sum: 0 for a valid number (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(number - 9 * (number > 9) for number in doubled) % 10


def _is_iban(match: Match) -> bool:
    """The country's length, and 1 modulo 97 (ISO 13616)."""
    iban = match[0].replace(b" ", b"").decode()
    return (
        _IBAN_LENGTHS.get(iban[:2]) == len(iban)
        and int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1
    )


def _is_ssn(match: Match) -> bool:
    digits = _digits(match)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    issued = area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"
    return issued and digits not in _PUBLISHED_SSNS


_LOCAL_PART = _IDENTIFIER + b".+" + bytes(range(0x80, 0x100))
_PHONE_WORD = r"(?i)(?:phone|mobile|whatsapp|tel|fax|call|contact|cell)"
_PHONE_WORD_WHOLE = r"(?i)(?:phone|mobile|whatsapp|(?<![a-z])(?:tel|fax|call|contact|cell))"
_SSN_WORD = r"(?i)(?:ssn|social[ _-]security)"
_NATIONAL = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR", "ES", "IT", "AU", "CH", "NL", "JP", "MX", "PL", "SE")

PERSONAL: tuple[Rule, ...] = (
    Rule(
        "email",
        r"[A-Za-z0-9_+\x80-\xff-]@[A-Za-z0-9\x80-\xff]",
        r"(?<![\w.+@\x80-\xff-])[.+-]*(?>(?:(?<=\\)[nrt])?)(?P<found>[\w\x80-\xff][\w.+\x80-\xff-]{0,63}@"
        r"(?>(?:[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff-]{0,62})\.)+[A-Za-z\x80-\xff][A-Za-z0-9\x80-\xff-]+))(?![\w@(])",
        _is_email,
        _LOCAL_PART,
    ),
    Rule(
        "ip-address",
        r"\b[1-9][0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        r"(?<![\w.])(?<![A-Za-z_]-)(?<![^/]/)[1-9]\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.[0-9a-z]|-[A-Za-z])",
        _is_host,
    ),
    Rule(
        "ip-address",
        r"(?i)\b[23][0-9a-f]{3}:[0-9a-f]{0,4}:[0-9a-f:]",
        r"(?i)(?<![\w:.])[23][0-9a-f]{3}(?::[0-9a-f]{0,4}){2,7}(?![\w:]|\.\d)",
        _is_public_address,
    ),
    Rule(
        "phone-number",
        r"\+[1-9][0-9 ().-]{7}",
        r"(?<![\w+])\+[1-9](?:[ ().-]{0,3}\d){5,13}\d(?!\w|\.\d)",
        _is_phone_of(None),
    ),
    Rule(
        "phone-number",
        r"\b[2-9][0-9]{2}(?:\) ?|[-.])[0-9]{3}[-.][0-9]{4}\b",
        r"(?<![\w.+-])(?P<found>(?:\([2-9]\d\d\) ?\d{3}[-.]|[2-9]\d\d([-.])\d{3}\2)\d{4})(?![\w-]|\.\d)",
        _is_phone_of("US"),
        b"(",
    ),
    Rule(
        "phone-number",
        r"\b0[1-9](?:[ .-][0-9]{2}){4}\b",
        r"(?<![\w.,-])(?<!\b[0-9a-fA-F]{2} )0[1-9]([ .-])\d\d(?:\1\d\d){3}(?![\w-]|[., -][0-9a-fA-F]{2}\b)",
        _is_phone_of("FR"),
    ),
    Rule(
        "phone-number",
        r"\b0[127][0-9]{1,3}\)?[ -][0-9]{3,4}[ -]?[0-9]{3,4}\b",
        r"(?<![\w.,(-])(?P<found>\(?0[127]\d{1,3}\)?[ -]\d{3,4}[ -]?\d{3,4})(?![\w-]|[., ]\d)",
        _is_phone_of("GB"),
        b"(",
    ),
    Rule(
        "phone-number",
        _PHONE_WORD + r"[^0-9\n]{1,16}[0-9][0-9 ()./-]{5}[0-9]",
        _PHONE_WORD_WHOLE + r"[^0-9\n]{1,16}?(?P<found>[+(]?\d(?:[ ()./-]{0,3}\d){5,13}\d)(?!\w|\.\d)",
        _is_phone_of(*_NATIONAL),
    ),
    Rule(
        "credit-card",
        r"\b[2-6][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{1,4}\b",
        r"(?<![\w.-])[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,4}(?:\1\d{3})?(?![\w-]|\.\d)",
        _is_card,
    ),
    Rule(
        "credit-card",
        r"\b3[04-8][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{4,5}\b",
        r"(?<![\w.-])3\d{3}([ -]?)\d{6}\1\d{4,5}(?![\w-]|\.\d)",
        _is_card,
    ),
    Rule(
        "iban",
        r"\b[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4} ?[A-Z0-9]{4}",
        r"(?<![\w/+-])[A-Z]{2}\d\d(?:[A-Z0-9]{11,28}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![\w/+=-])",
        _is_iban,
    ),
    Rule(
        "us-ssn",
        r"\b[0-8][0-9]{2}-[0-9]{2}-[0-9]{4}\b",
        r"(?<![\w.-])\d{3}-\d\d-\d{4}(?![\w-]|\.\d)",
        _is_ssn,
    ),
    Rule(
        "us-ssn",
        _SSN_WORD + r"[^0-9\n]{1,16}[0-9]",
        _SSN_WORD + r"[^0-9\n]{1,16}(?P<found>\d{3}([ .-]?)\d\d\2\d{4})(?![\w-]|\.\d)",
        _is_ssn,
    ),
)

SECRET_KINDS = frozenset(rule.kind for rule in SECRETS)
