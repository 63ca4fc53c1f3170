"""Keys, tokens, private keys and passwords, and their validators.

The following is kept: values marked as examples (`EXAMPLE`, `xxxx`, runs such as `12345678`), templates (`${TOKEN}`,
`{password}`), the markers of a private key without a key between them, alphabets (32 characters or more, none twice),
tokens of pages (`NextContinuationToken`), and passwords of the hosts that are reserved for examples.

A password of fewer than 16 characters is found where a name for passwords is assigned a value that is none of the words
that people make up (`changeme`, `test123`, `my-secret`), has a digit, and is in quotes, alone on its line, in the
environment (`DB_PASSWORD=...`), or in a connection string (`password=...;host=db`). Bare words of a programming
language are names, not passwords.
"""

import base64
import json
import re
import unicodedata
from collections import Counter
from math import log2
from urllib.parse import unquote_to_bytes

from ibidem.data.scrub.rules import (
    EXAMPLE,
    IDENTIFIER,
    RESERVED_DOMAIN,
    Match,
    Rule,
    characters,
    found_in,
    is_no_example,
)

_HEX = re.compile(rb"[0-9a-f]+|[0-9A-F]+")
_WORD = re.compile(rb"[a-z]{8}|[A-Z]{10}|[A-Za-z]{24}|[a-z]{4}[_./-][a-z]{4}|(?:[A-Z][a-z]{3,}){2}")
_LOWER_WORD = re.compile(rb"[a-z]{7}")
_TEMPLATE = re.compile(rb"[$%{(\[<]|.*(?:\{|\}|\$\(|%s)")
_NO_PASSWORD = re.compile(
    rb"(?i)[$%{(\[<]|.*(?:\{|\}|\$\(|%s)|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$|\d{4}-\d\d-\d\dT|https?:|urn:"
)
_MADE_UP_WORDS = (
    b"credentials? p[a@4][s$5]{2}w[o0]rd passphrase passwd passw? p[a@4][s$5]{2} pwd? username user postgres "
    b"x-oauth-basic mysql mongo redis oracle scott tiger guest admin root test demo sample default s[e3]cr[e3]t "
    b"secure strong weak super wrong invalid correct login auth access token string value random initial temp "
    b"letmein welcome hello world q1w2e3r4t5 q1w2e3r4 q1w2e3 1q2w3e4r5t 1q2w3e4r 1q2w3e 1qaz2wsx zaq12wsx qazwsx "
    b"qwerty asdfgh asdf zxcvbn a1b2c3d4 a1b2c3 abcdef abcd abc some your the new old bad good my db key foo bar baz "
    b"qux info port none null true false private s[e3]kr[ei]ts? temporary hunter fake with for no not us uk pw an a"
)
_MADE_UP = re.compile(
    rb"(?i)[0-9]{0,9}(?>(?:%b)[0-9]{0,9}[_@!#.$:-]*)++|.*pass[-_]?word.*|(.)\1*[0-9]{0,3}"
    % b"|".join(_MADE_UP_WORDS.split())
)
_LEET = re.compile(rb"(?<=[A-Za-z@$!])[0-9]{1,2}(?=[A-Za-z@$!])|(?<=[A-Za-z0-9])[@$]+(?=[A-Za-z0-9])")
_LETTERS = bytes.maketrans(b"@$0123457", b"asoiaeast")
_LEAST_OF_URL = 4
_NO_URL_PASSWORD = re.compile(
    rb"[a-z]{1,7}|[A-Z]{1,7}|[a-z]+(?:[_.][a-z0-9]+)+|[A-Z]+(?:_[A-Z0-9]+)+"
    rb"|(?:[A-Z]?[a-z]{2,}|[A-Z]{2,})(?:[A-Z][a-z]{2,})*(?:[A-Z][a-z]{2,}|[A-Z]{2,3})|1?2345(?:6(?:7(?:8(?:90?)?)?)?)?|54321"
)
"""A short word, a name, or digits that count. Other passwords in a URL are what is between two signs."""
_NAMED = re.compile(rb"(?i)(?:^|[-_./])(?:token|secret|some|fake|test|mock|dummy|sample|valid|invalid)(?:[-_./]|$)")
_PUBLISHED = frozenset(
    b"2YotnFZFEjr1zCsicMWpAA tGzv3JOkF0XG5Qx2TlKWIA A3ddj3w SplxlOBeZQQYbYS6WxSbIA 7Fjfp0ZBr1KtDRbnfVdmIw gX1fBat3bV "
    b"mF_9.B5f-4.1JqM ad180jjd733klru7 kkk9d7dh3k39sjv7 j49sk3j29djd dh893hdasih9 hh5s93j4hdidpola hdhd0244k9j7ao03 "
    b"nnch734d00sl2jdk pfkkdhi9sl3r4s00 SlAV32hkKG Qcb0Orv1zh30vL1MPRsbm-diHiMwcLyZvn1arpZv-Jxf_11jnpEX3Tgfvk "
    b"jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y sk_test_BQokikJOvBiI2HlWgH4olfQ2 "
    b"sk_test_4eC39HqLyjWDarjtT1zdp7dc".split()
)
"""Examples of OAuth (RFC 5849, 6749, 6750), OpenID Connect and Stripe."""
_NO_SIMPLE_PASSWORD = re.compile(
    rb"(?i)[:@?*&]|.*[/\\]|[a-z_]+\Z|[a-z]+(?:-(?:[a-z]+|v\d+))+\Z|[a-z]\w*\.[a-z_]\w*\Z|[a-z]+(?:_[a-z0-9]+)+\Z"
    rb"|(?:utf-?8|base64|md5|sha\d+|u?int\d+|bcrypt\d*|argon2\w*|pbkdf2\w*|v?\d+(?:\.\d+)*[a-z]{0,3})\Z"
)
_SIGNATURE_OF_MANUALS = b".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
"""Of the token that https://jwt.io shows."""
_LEAST_SIGNATURE = 43
"""Characters of one of 32 bytes, the least that RFC 7518 has: a shorter one is a word of a manual."""
_PAGE_BEFORE = re.compile(rb"(?i)(?:next|page|continuation|sync|cursor)[_-]?$")
_EMPTY_DIGESTS = {
    b"d41d8cd98f00b204e9800998ecf8427e",
    b"31d6cfe0d16ae931b73c59d7e0c089c0",
    b"aad3b435b51404eeaad3b435b51404ee",
}
"""Of nothing: by MD5, and as a password by NTLM and LM."""
_ALPHABET_CHARS = 32
_ESCAPES = re.compile(rb"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)")
_RESERVED_HOST = re.compile(rb"$|localhost|127\.|192\.0\.2\.|198\.51\.100\.|203\.0\.113\.|0\.0\.0\.0|\[::1\]")
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/]{24}")


def _is_mixed(match: Match) -> bool:
    """Check for letters of both cases and digits: names and hexadecimal digests do not have them."""
    value = found_in(match)
    kinds = (any(map(test, characters(value))) for test in (str.islower, str.isupper, str.isdigit))
    return all(kinds) and is_no_example(match)


def _is_scrambled(match: Match) -> bool:
    return _is_mixed(match) and not _LOWER_WORD.search(found_in(match))


def _is_password(match: Match, bits: float = 3.5) -> bool:
    """Check whether a string after a word such as `password` is random: at least so many bits per character."""
    value = _ESCAPES.sub(b"", found_in(match))
    digits = sum(map(str.isdigit, characters(value)))
    if (
        _PAGE_BEFORE.search(match.string[max(0, match.start() - 16) : match.start()])
        or value in _EMPTY_DIGESTS
        or len(set(value)) == len(value) >= _ALPHABET_CHARS
    ):
        return False
    if value in _PUBLISHED or value.startswith(b"eyJ") or _says_what_it_is(value):
        return False
    if digits < 2 or digits == len(value) or _NO_PASSWORD.match(value) or not is_no_example(match):
        return False
    if _HEX.fullmatch(value):
        return len(value) >= 24 and _entropy(value) >= 2.9
    return _entropy(value) >= bits and not _WORD.search(value)


def _says_what_it_is(value: bytes) -> bool:
    """Check for base64 of words, or of an example; `password` and the like with digits and signs for letters."""
    try:
        words = base64.b64decode(value, validate=True)
    except ValueError:
        words = b""
    is_text = len(words) > 8 and words.isascii() and words.decode().isprintable()
    if _NAMED.search(value):
        return True
    return (is_text and (_WORD.search(words) or EXAMPLE.search(words)) is not None) or _is_made_up(value)


def _entropy(value: bytes) -> float:
    """Return the entropy in bits per character."""
    return -sum(n / len(value) * log2(n / len(value)) for n in Counter(value).values())


def _is_made_up(value: bytes) -> bool:
    """Check for words that people make up, such with digits and signs for letters (`P4$$w0rd`), and 1, 2, 3."""
    unleeted = _LEET.sub(lambda match: match[0].translate(_LETTERS), value)
    is_counted = re.sub(rb"[^0-9]", b"", value) in {b"123", b"1234", b"12345"}
    return is_counted or any(_MADE_UP.fullmatch(each) for each in (value, unleeted))


def _plain(value: bytes) -> bytes:
    """Return the letters and digits of a URL's part, without accents, with a dash for each blank."""
    text = unicodedata.normalize("NFKD", unquote_to_bytes(value).decode(errors="replace"))
    return re.sub(rb"[^\w@$!#.-]", b"", text.replace(" ", "-").encode("ascii", "ignore"))


def _is_url_password(match: Match) -> bool:
    value, host = match["found"], match["host"].lower()
    if value == match["user"] or _TEMPLATE.match(value) or EXAMPLE.search(value):
        return False
    plain = _plain(value)
    without_signs = re.sub(rb"[^A-Za-z0-9]", b"", plain)
    if _NO_URL_PASSWORD.fullmatch(value) or len(without_signs) < _LEAST_OF_URL or _is_made_up(plain):
        return False
    if _is_made_up(without_signs):
        return False
    return not (RESERVED_DOMAIN.search(host) or _RESERVED_HOST.match(host))


def _is_simple_password(match: Match) -> bool:
    """Check for letters and a digit, or a sign and both cases, in no word that people make up and no code."""
    value = match["found"]
    if (
        _NO_PASSWORD.match(value)
        or _NO_SIMPLE_PASSWORD.match(value)
        or EXAMPLE.search(value)
        or value in _PUBLISHED
        or _is_made_up(value)
    ):
        return False
    signs = characters(value)
    has_digit, has_sign = any(map(str.isdigit, signs)), not signs.isalnum()
    has_upper, has_lower = any(map(str.isupper, signs)), any(map(str.islower, signs))
    return (has_upper or has_lower) and (has_digit or (has_sign and has_upper and has_lower))


def _is_jwt(match: Match) -> bool:
    _, _, signature = match[0].split(b".", 2) if match[0].count(b".") > 1 else (b"", b"", b"")
    if match[0].endswith(_SIGNATURE_OF_MANUALS) or 0 < len(signature) < _LEAST_SIGNATURE:
        return False
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
_CLOUDANT = rf"(?i)[\w-]*?(?<![a-z0-9])(?:cloudant|clou|cl)[_-]?(?:api)?[_-]?{_KEYWORD}{_ASSIGN}"
_IBM = rf"(?i)[\w-]*?(?<![a-z0-9])(?:ibm[_-]?)?(?:cloud[_-]?)?(?:iam[_-]?)?(?:api)?[_-]?{_KEYWORD}{_ASSIGN}"
_COS = rf"(?i)[\w-]*?(?<![a-z0-9])(?:(?:ibm)?[_-]?cos[_-]?(?:hmac)?[_-]?)?secret[_-]?(?:access)?[_-]?key{_ASSIGN}"
_SOFTLAYER = rf"(?i)[\w-]*?(?<![a-z0-9])(?:softlayer|sl)[_-]?(?:api)?[_-]?{_KEYWORD}{_ASSIGN}"
_AWS_ASSIGNED = r"""(?i)aws[^\n]{0,20}?(?:key|pwd|pw|password|pass|token)[^\n]{0,20}?[=: "']"""
_QUOTED = (
    r"(?i)(?:password|passwd|passphrase|pwd|secret|token|(?:api|access|private|encryption|auth|signing)[_-]?key)"
    r"""[a-z_-]{0,8}["']?\]?(?::[ ]?str)?[ \t]{0,4}(?:=>|:=|=|:)[ \t]{0,4}["']"""
)
_SIMPLE_NAME = r"(?:(?i:password|passwd|passphrase|pwd)|(?<![A-Za-z])(?i:pass)|(?<=[a-z])Pass)[0-9]?"
_SIMPLE_ANCHOR = (
    r"""(?i)(?:password|passwd|passphrase|pwd|pass)[0-9]?\\?["']?\]?(?::[ ]?str)?[ \t]{0,4}(?:=>|:=|=|:)[ \t]{0,4}"""
)
_SIMPLE_SIGN = r"""[^\s"'`<>()\[\]{},;\x00-\x1f\x80-\xff]"""
_PAIR = r"""(?:(?<=;)|(?<=; )|(?<=["'])(?=[^\s;"'&]{1,200};[ ]?[A-Za-z][\w ]{0,30}=))(?i:password|pwd)="""
_QUOTE = r"""(?P<quote>\\?["'])"""
_NAME_ON_A_LINE = r"(?i)(?:password|passwd|passphrase|pwd|pass)[0-9]?[ \t]{1,32}"
_DEFINE = r"[ \t]*#[ \t]*define[ \t]+\w*?" + _SIMPLE_NAME + r"[ \t]+"
_IDENTIFIED = (
    r"(?i)(?:identified[ \t]{1,8}(?:with[ \t]{1,8}[^\s]{1,40}[ \t]{1,8})?by|"
    r"with[ \t]{1,8}(?:encrypted[ \t]{1,8})?password)[ \t]{1,8}"
)
_BEARER = r"""(?i)authorization["']?\]?[ \t]{0,4}[:=][ \t]{0,4}["']?(?:bearer|token)[ \t]{1,4}"""
_ENVIRONMENT = r"(?:PASSWORD|PASSWD|SECRET|TOKEN|_KEY)[A-Z_]{0,12}="
_URL_USER = r"""://[^\s/?#@:"'<>\[\]]{0,64}:"""
_CLOUDANT_URL = r"://[\w-]{1,64}:(?P<found>[0-9a-fA-F]{64}|[A-Za-z]{24})@[\w-]+\.cloudant\.com"
_PEM_BODY = r"(?P<body>(?:(?!-----)[\t\n\r\x20-\x7e]){40,20000}?)-----END [A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?-----"
_SSH2_BODY = r"(?P<body>(?:(?!---- )[\t\n\r\x20-\x7e]){40,20000}?)---- END SSH2 (?:ENCRYPTED )?PRIVATE KEY ----"
_OPEN_BODY = r"(?P<body>(?:(?:\\[nr]|[\s\"',+])*[A-Za-z0-9+/=]{40,100}(?![A-Za-z0-9+/=]))+)"
_PUTTY_BODY = r"[23]:(?P<body>(?:(?!PuTTY-User-Key)[\t\n\r\x20-\x7e]){40,20000}?)Private-MAC: ?[0-9a-f]{40,64}"

SIMPLE_PASSWORD = "key.simple-password"  # noqa: S105 - a kind

SECRETS: tuple[Rule, ...] = (
    Rule(
        "key.aws-access-key",
        r"\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}",
        r"(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])",
        is_no_example,
    ),
    Rule(
        "key.aws-secret-key",
        _AWS_ASSIGNED + "[0-9a-z/+]{40}",
        _AWS_ASSIGNED + "(?P<found>[0-9a-z/+]{40})(?![0-9a-z/+=])",
        _is_mixed,
    ),
    Rule("key.artifactory", r"\bAKC[A-Za-z0-9]{10}", r"(?<![\w./+-])AKC[A-Za-z0-9]{10,200}(?![\w./+-])", _is_scrambled),
    Rule(
        "key.artifactory",
        r"\bAP[0-9A-F][A-Za-z0-9]{8}",
        r"(?<![\w./+-])AP[0-9A-F][A-Za-z0-9]{8,200}(?![\w./+-])",
        _is_scrambled,
    ),
    Rule("key.azure-storage", "AccountKey=", r"AccountKey=(?P<found>[A-Za-z0-9+/=]{88})", is_no_example),
    Rule("key.cloudant", _ASSIGNED, _CLOUDANT + "(?P<found>[0-9a-f]{64})(?![0-9a-z])", is_no_example, IDENTIFIER),
    Rule("key.cloudant", _ASSIGNED, _CLOUDANT + "(?P<found>[a-z]{24})(?![0-9a-z_])", is_no_example, IDENTIFIER),
    Rule("key.cloudant", _URL_USER, _CLOUDANT_URL, is_no_example),
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
    Rule("key.github", r"\bgh[opusr]_[A-Za-z0-9_]{8}", r"gh[opusr]_[A-Za-z0-9_]{36,251}(?!\w)", is_no_example),
    Rule("key.github", r"\bgithub_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}(?!\w)", is_no_example),
    Rule(
        "key.gitlab",
        r"\bgl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-[\w-]{8}",
        r"gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-[\w-]{20,1024}(?:\.[\w-]{2}\.[\w-]{9})?(?![\w-])",
        is_no_example,
    ),
    Rule("key.gitlab", r"\bGR1348941", r"GR1348941[\w-]{20,50}(?![\w-])", is_no_example),
    Rule("key.ibm-cloud", _ASSIGNED, _IBM + r"(?P<found>[\w-]{44})(?![\w-])", _is_mixed, IDENTIFIER),
    Rule("key.ibm-cos", _ASSIGNED, _COS + "(?P<found>[a-f0-9]{48})(?![a-z0-9])", is_no_example, IDENTIFIER),
    Rule(
        "key.jwt",
        r"\beyJ[\w-]{8}",
        r"(?<![\w-])eyJ[\w-]{8,16384}={0,2}\.[\w-]{3,65536}={0,2}(?:\.[\w-]{0,4096}={0,2})?",
        _is_jwt,
    ),
    Rule("key.mailchimp", r"\b[0-9a-f]{32}-us[0-9]", r"[0-9a-f]{32}-us[0-9]{1,2}(?!\w)", is_no_example),
    Rule(
        "key.npm",
        r":_authToken",
        r""":_authToken[ \t]*=[ \t]*["']?(?P<found>npm_\w{20,100}|[A-Fa-f0-9-]{36})(?![\w-])""",
        is_no_example,
    ),
    Rule("key.npm", r"\bnpm_[A-Za-z0-9]{36}", r"npm_[A-Za-z0-9]{36}(?!\w)", _is_mixed),
    Rule(
        "key.openai",
        r"\bsk-[\w-]{20}",
        r"(?<![\w-])sk-[\w-]{0,200}?[A-Za-z0-9_-]{20}T3BlbkFJ[\w-]{20,200}",
        is_no_example,
    ),
    Rule("key.openai", r"\bsk-[\w-]{20}", r"(?<![\w-])sk-[A-Za-z0-9]{48}(?![\w-])", _is_mixed),
    Rule("key.anthropic", r"\bsk-[\w-]{20}", r"(?<![\w-])sk-ant-[a-z0-9]{2,12}-[\w-]{80,200}", is_no_example),
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
    Rule("key.pypi", r"\bpypi-AgE", r"pypi-AgE(?:IcHlwaS5vcmc|NdGVzdC5weXBpLm9yZw)[\w-]{70,1000}", is_no_example),
    Rule("key.sendgrid", r"\bSG\.[\w-]{22}\.[\w-]", r"(?<![\w.-])SG\.[\w-]{22}\.[\w-]{43}(?![\w-])", is_no_example),
    Rule("key.slack-token", r"(?i)\bxox[abposr]-[0-9]", r"(?i)xox[abposr]-(?:[0-9]{8,}-)+[a-z0-9]+", is_no_example),
    Rule("key.slack-token", r"\bxapp-[0-9]", r"xapp-[0-9]-[A-Z0-9]+-[0-9]+-[a-z0-9]+", is_no_example),
    Rule(
        "key.slack-webhook",
        r"(?i)hooks\.slack\.com/services/T",
        r"(?i)hooks\.slack\.com/services/(?P<found>T\w{1,64}/B\w{1,64}/\w{1,64})",
        is_no_example,
    ),
    Rule("key.softlayer", _ASSIGNED, _SOFTLAYER + "(?P<found>[a-z0-9]{64})(?![a-z0-9])", is_no_example, IDENTIFIER),
    Rule(
        "key.softlayer",
        r"(?i)api\.softlayer\.com/soap/v3",
        r"(?i)api\.softlayer\.com/soap/v3(?:\.1)?/(?P<found>[a-z0-9]{64})(?![a-z0-9])",
        is_no_example,
    ),
    Rule(
        "key.square", r"\bsq0(?:csp|atp|idp)-", r"sq0(?:csp-[\w\\-]{43}|(?:atp|idp)-[\w-]{22})(?![\w-])", is_no_example
    ),
    Rule("key.stripe", r"\b[rs]k_live_", r"[rs]k_live_[0-9a-zA-Z]{24,247}(?!\w)", is_no_example),
    Rule("key.telegram", r"\b[0-9]{8,10}:[\w-]{35}", r"(?<![\w:.-])[0-9]{8,10}:[\w-]{35}(?![\w-])", _is_mixed),
    Rule("key.twilio", r"\b(?:AC|SK)[0-9a-f]{32}\b", r"(?:AC|SK)[0-9a-f]{32}(?!\w)", is_no_example),
    Rule("key.google-api", r"\bAIza[\w-]{35}", r"AIza[\w-]{35}(?![\w-])", is_no_example),
    Rule("key.google-api", r"\bGOCSPX-[\w-]{28}", r"GOCSPX-[\w-]{28}(?![\w-])", is_no_example),
    Rule("key.huggingface", r"\bhf_[A-Za-z0-9]{34}", r"hf_[A-Za-z0-9]{34}(?!\w)", is_no_example),
    Rule(
        "key.password",
        _QUOTED + "[!-~]{16}",
        _QUOTED + r"""(?P<found>[^\s"'<>\x00-\x1f\x80-\xff]{16,128})["']""",
        _is_password,
    ),
    Rule(
        "key.password",
        _ENVIRONMENT + "[!-~]{12}",
        _ENVIRONMENT + r"""(?P<found>[^\s"'`<>()\[\]{},;\x00-\x1f\x80-\xff]{12,128})(?=\s|$)""",
        lambda match: _is_password(match, 3.0),
    ),
    Rule(
        SIMPLE_PASSWORD,
        _SIMPLE_ANCHOR + r"""\\?["'][!-~]{6}""",
        _SIMPLE_NAME + r"""\\?["']?\]?(?::[ ]?str)?[ \t]{0,4}(?:=>|:=|=|:)[ \t]{0,4}"""
        r"""(?P<quote>\\?["'])(?P<found>[^\s"'<>\x00-\x1f\x80-\xff]{6,15})(?P=quote)""",
        _is_simple_password,
    ),
    Rule(
        SIMPLE_PASSWORD,
        _SIMPLE_ANCHOR + "[!-~]{6}",
        r"(?m)^[ \t]*(?:export[ \t]+|ENV[ \t]+|-[ \t]+)?(?:[\w.-]*[_.-])??" + _SIMPLE_NAME + r"[ \t]{0,4}[:=][ \t]{0,4}"
        rf"(?P<found>{_SIMPLE_SIGN}{{6,15}})(?=[ \t]*$|[ \t]+[#;])",
        _is_simple_password,
        IDENTIFIER + b". ",
    ),
    Rule(
        SIMPLE_PASSWORD,
        _SIMPLE_ANCHOR + "[!-~]{6}",
        rf"(?:{_PAIR}|(?:(?<![a-z])(?:PASSWORD|PASSWD|PWD|PASS)[0-9]?|(?<=[?&])(?i:password|pwd))=)"
        rf"(?P<found>(?:(?!&){_SIMPLE_SIGN}){{6,15}})(?=[\s\\;&\"']|$)",
        _is_simple_password,
    ),
    Rule(
        "key.password",
        _SIMPLE_ANCHOR + "[!-~]{6}",
        rf"{_PAIR}(?P<found>(?:(?!&){_SIMPLE_SIGN}){{16,128}})(?=[;\"'])",
        _is_password,
    ),
    *(
        Rule(
            kind,
            anchor + r"""\\?["'][!-~]{6}""",
            start + _QUOTE + rf"""(?P<found>[^\s"'<>\x00-\x1f\x80-\xff]{{{number}}})(?P=quote)""",
            is_genuine,
            before,
        )
        for anchor, start, before in (
            (_NAME_ON_A_LINE, _DEFINE, IDENTIFIER + b"# \t"),
            (_IDENTIFIED, _IDENTIFIED, b""),
        )
        for kind, number, is_genuine in (
            (SIMPLE_PASSWORD, "6,15", _is_simple_password),
            ("key.password", "16,128", _is_password),
        )
    ),
    Rule("key.bearer", _BEARER + "[a-z0-9]", _BEARER + r"(?P<found>[\w.~+/=-]{20,512})(?![\w.~+/=-])", _is_mixed),
)

SECRET_KINDS = frozenset(rule.kind for rule in SECRETS)
