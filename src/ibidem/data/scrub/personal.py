"""Email and IP addresses, phone, card and account numbers, US social security numbers, and their validators.

The following is kept, because it is not personal and the model should know it:

* email: domains reserved for examples (RFC 2606: `example.com`, `.test`, `.invalid`), `git@host`, users of URLs, names
  of SSH algorithms (`aes256-gcm@openssh.com`), products of one-letter matrices (`X@W.it`);
* what issuers publish as an example or is visibly made up (see `examples`);
* IP addresses: those not globally routable (loopback, private, documentation, ...), the well-known public resolvers,
  networks, their first and last address (`x.y.z.0`, `x.y.0.1`, `x.0.y.1`, `x:y::`, `x.y.z.255`), made-up ones
  (`x.7.7.7`; 1 in 10,000 addresses is one of these), versions by their context (`version = `, `==`,
  `name-`, `name/`, a heading of a changelog), coordinates of a path in SVG, and what is a section number, an object
  identifier or a version rather than an address: no number above 31 (1 in 3,500 addresses), two digits and a number up
  to 63 in front (1 in 2,500), or an arc of ISO or ITU that is in use (`1.3`, `2.5`, `2.23.140`; 1 in 30,000);
* phone numbers: those reserved for fiction in North America (555-0100 to 555-0199), those of at most three different
  digits (`01090000000`), operands (`x[0]+3614090360`), bytes
  (`01 02 03 04 05`), and identifiers and sizes that a word for phones precedes (`cell_id = 2147483647`).
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from itertools import pairwise

from ibidem.data.scrub.examples import (
    is_example_address,
    is_example_card,
    is_example_iban,
    is_example_phone,
    is_example_ssn,
    is_phone_of_nobody,
)
from ibidem.data.scrub.rules import IDENTIFIER, RESERVED_DOMAIN, Match, Rule, found_in, luhn

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
_SSH_NAME = re.compile(rb"[\w-]*-[\w-]*@(?:openssh\.com|libssh\.org)|zlib@openssh\.com")
_MATRICES = re.compile(rb"[A-Z]@[A-Z]\.[a-z]+")
_DISGUISED_DOT = re.compile(rb"(?i) {0,2}[\[({<] ?(?:dot|punkt|point) ?[\])}>] {0,2}| -?dot-? |[_-]dot[_-]")
_FREQUENT_DOMAINS = (b"com", b"org", b"net", b"edu", b"gov", b"de", b"fr", b"uk")
_URL_BEFORE = re.compile(rb"://[^\s/@\"']{0,128}$")
_SERVICE_USERS = {b"git", b"hg", b"svn", b"cvs"}
_VERSION_BEFORE = re.compile(
    rb"(?i)(?:(?:(?:version|release|revision|firmware|build)\w*|(?<![a-z])(?:oid|ver|rev|section|sect?\.?|chapter|v)"
    rb"|object ?identifier)[\"'\])]*\s*[:=(,]{0,2}\s*[\"'(]*|(?:[=~<>!]=|[\^~])\s*[\"']?|(?:^|\n)#{2,6}[ \t]*\[?"
    rb"|(?:(?<![a-z0-9])v8|deps)(?![a-z0-9])[^\n]{0,44}(?<![a-z])(?:to|from)\s+|(?<![a-z0-9])v8\s+)$"
)
_SVG_PATH_BEFORE = re.compile(
    rb"(?<![\d.])\d*\.\d+\.\d+[ ,]+$|"
    rb"\d(?:[mlhvcsqtazMLHVCSQTAZ]|-\.?)\d[-0-9., mlhvcsqtazMLHVCSQTAZ]*$"
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
_LARGEST_CHAPTER, _LARGEST_SECTION = 9, 63
_ARCS = ([1, 3], [2, 5], [2, 23, 140])
"""Of ISO's identified organizations, of the directory (X.500), and of certificates' policies."""
_LOW_64_BITS = (1 << 64) - 1
_MADE_UP_ADDRESSES = {
    b"12.34.56.78",
    b"98.76.54.32",
    b"123.45.67.89",
    b"123.45.67.8",
    b"11.22.33.44",
    b"1.2.3.255",
    b"1.2.3.128",
}
_CARD_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
_COUNTING = "01234567890123456789 98765432109876543210"
_FEWEST_DIGITS = 4
"""Different digits of a phone number: 1 in 1,400 random ones has fewer."""
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
    if match.string[start - 1 : start] == b"%" or local in _SERVICE_USERS or RESERVED_DOMAIN.search(domain):
        return False
    if _SSH_NAME.fullmatch(match["found"]) or _MATRICES.fullmatch(match["found"]):
        return False
    top = domain.rpartition(b".")[2]
    if not (top in _COUNTRY_DOMAINS or top in _GENERIC_DOMAINS or top.startswith(b"xn--") or top[0] >= 0x80):
        return False
    return not _URL_BEFORE.search(match.string[max(0, start - 136) : start])


def _is_disguised_email(match: Match) -> bool:
    """Check the domain of an address whose signs are spelled out or encoded."""
    domain = _DISGUISED_DOT.sub(b".", match["domain"]).lower()
    top = domain.rpartition(b".")[2]
    return (top in _COUNTRY_DOMAINS or top in _GENERIC_DOMAINS) and not RESERVED_DOMAIN.search(domain)


def _is_joined_email(match: Match) -> bool:
    """Check for the most frequent domains: `value_at_x_dot_is` is a name."""
    return match["domain"].lower().endswith(_FREQUENT_DOMAINS) and _is_disguised_email(match)


def _is_public_address(match: Match) -> bool:
    try:
        address = ipaddress.ip_address(match[0].decode())
    except ValueError:
        return False
    is_network = address.version == 6 and int(address) & _LOW_64_BITS == 0
    if not address.is_global or address.is_multicast or is_network or address in _RESOLVERS:
        return False
    before, after = (
        match.string[max(0, match.start() - 128) : match.start()],
        match.string[match.end() : match.end() + 128],
    )
    return not is_example_address(address, before, after)


def _is_host(match: Match) -> bool:
    """Check whether it is the address of a host, not a network, a version or a section number."""
    parts = [int(part) for part in match[0].split(b".")]
    if parts[-1] in {0, 255} or len(set(parts[1:])) == 1 or match[0] in _MADE_UP_ADDRESSES:
        return False
    if parts[-1] == 1 and 0 in parts[1:3]:
        return False
    before = match.string[max(0, match.start() - 64) : match.start()]
    if _is_numbering(parts) or _VERSION_BEFORE.search(before) or _SVG_PATH_BEFORE.search(before):
        return False
    return _is_public_address(match)


def _is_numbering(parts: list[int]) -> bool:
    """Check whether it rather is a version, a section number or an object identifier."""
    is_section = max(parts[:2]) <= _LARGEST_CHAPTER and parts[2] <= _LARGEST_SECTION
    return max(parts) <= _LARGEST_VERSION_PART or is_section or any(parts[: len(arc)] == arc for arc in _ARCS)


def _digits(match: Match) -> str:
    return re.sub(rb"\D", b"", found_in(match)).decode()


def _is_phone(match: Match, regions: Iterable[str | None]) -> bool:
    import phonenumbers

    written = found_in(match).decode()
    digits = _digits(match)
    if digits in _COUNTING or len(set(digits)) < _FEWEST_DIGITS or is_example_phone(digits) or _is_bytes(match):
        return False
    for region in regions:
        phone = next(iter(phonenumbers.PhoneNumberMatcher(written, region)), None)
        if phone is not None and (phone.start, phone.end) == (0, len(written)):
            found = phonenumbers.format_number(phone.number, phonenumbers.PhoneNumberFormat.E164)
            return not _FICTIONAL.fullmatch(found) and not is_phone_of_nobody(found)
    return False


def _is_bytes(match: Match) -> bool:
    """Check for pairs of digits in equal steps (`01 03 05 07 09`), or after a word for bytes."""
    pairs = re.findall(rb"\d+", found_in(match))
    if len(pairs) < 5 or {len(pair) for pair in pairs} != {2}:
        return False
    steps = {int(after) - int(pair) for pair, after in pairwise(pairs)}
    return len(steps) == 1 or _BYTES_BEFORE.search(match.string[max(0, match.start() - 32) : match.start()]) is not None


def _is_called_phone(match: Match) -> bool:
    """Check that the word before a number calls it a phone number, and that a number without signs is a whole value."""
    between, number = match["between"], match["found"]
    if _DATE.match(number):
        return False
    if number.isdigit() and (_NO_PHONE.search(between) or not _is_value(match)):
        return False
    return _is_phone(match, _NATIONAL)


def _is_value(match: Match) -> bool:
    """Check for quotes around a number, or, after a word that only means phones, for a label or prose before it."""
    between, after = match["between"], match.string[match.end("found") : match.end("found") + 1]
    if between[-1:] in _QUOTES and between[-1:] == after:
        return True
    *words, label = _CLEAR_WORD.split(match["word"] + between)
    return bool(words) and _LABEL.fullmatch(label) is not None


def _is_phone_of(*regions: str | None) -> Callable[[Match], bool]:
    return lambda match: _is_phone(match, regions)


def _is_card(match: Match) -> bool:
    digits = _digits(match)
    if is_example_card(digits) or not _CARD_ISSUERS.fullmatch(digits) or luhn(digits) != 0:
        return False
    return match[1] != b"" or _is_called_card(match)


def _is_called_card(match: Match) -> bool:
    """Check for quotes or a word that names a card: one number in ten passes the Luhn check by chance."""
    before = match.string[max(0, match.start() - 64) : match.start()]
    after = match.string[match.end() : match.end() + 1]
    return (before[-1:] in _QUOTES and before[-1:] == after) or _CARD_WORD.search(before) is not None


def _is_iban(match: Match) -> bool:
    """Check the length for the country, and the checksum: 1 modulo 97 (ISO 13616)."""
    iban = match[0].replace(b" ", b"").decode()
    return (
        _IBAN_LENGTHS.get(iban[:2]) == len(iban)
        and not is_example_iban(iban)
        and int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1
    )


def _is_ssn(match: Match) -> bool:
    digits = _digits(match)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    issued = area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"
    return issued and digits not in _PUBLISHED_SSNS and not is_example_ssn(digits)


_BRACKETED_DOT = r" {0,2}[\[({<] ?(?:dot|punkt|point) ?[\])}>] {0,2}"
_LOCAL_PART = IDENTIFIER + b".+" + bytes(range(0x80, 0x100))
_PHONE_WORD = r"(?i)(?:phone|mobile|whatsapp|tel|fax|call|contact|cell)"
_PHONE_WORD_WHOLE = (
    r"(?!PHONE_NUMBER>[^ ,;/|])(?P<word>(?i:(?<!micro)(?<!head)(?<!ear)phone|(?<!auto)mobile|whatsapp"
    r"|(?<![a-z])(?:tel(?!net|em|eg|ev)|fax|call(?!er|back)|contact|cell)))"
)
_CLEAR_WORD = re.compile(rb"(?i)phone|mobile|whatsapp|tel|fax")
_DATE = re.compile(rb"(?:19|20)\d\d-[01]\d-[0-3]\d(?!\d)")
_NO_PHONE = re.compile(
    rb"(?:(?<![A-Za-z])(?i:ids?|idx|index|count|hash|size|time|port|length|len|key|site|max|min|bits?|flags?|seed|offset"
    rb"|mask|row|col|rate|width|height)|Ids?|Index|Count|Hash|Size|Time|Length|Key|Site|Max|Min|Offset|Mask|Rate)(?![a-z])"
)
_LABEL = re.compile(
    rb"(?i)(?:e?(?:phone|fon)s?|s)?[ _-]?(?:numbers?|num|nr|no)?\.?[\"']?\]?[ \t]*(?:[:=][ \t]*|is |at |under )?[\"'>]?"
)
_BYTES_BEFORE = re.compile(rb"(?i)hex|bytes?|buffer|0x|\\x|dump")
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
        "email",
        r"(?i)\w at [a-z0-9-]{1,32} dot [a-z]",
        r"(?i) {0,3}(?:[\w.+-]+ {1,3})*?"
        r"(?P<found>\w[\w+-]*(?:(?: dot |\.)[\w+-]+){0,3} at (?P<domain>[\w-]+(?: dot [\w-]+){1,4}))(?!\w)",
        _is_disguised_email,
        IDENTIFIER + b"+. ",
    ),
    Rule(
        "email",
        r"(?i)\w {0,2}[\[({<] ?at ?[\])}>] {0,2}\w",
        r"(?i)(?P<found>\w[\w.+-]{0,63} {0,2}[\[({<] ?at ?[\])}>] {0,2}"
        rf"(?P<domain>[\w-]+(?:(?:\.|{_BRACKETED_DOT})[\w-]+){{1,4}}))",
        _is_disguised_email,
        IDENTIFIER + b".+",
    ),
    Rule(
        "email",
        r"(?i)[a-z0-9](?:_at_| -at- |-at-)[a-z0-9]",
        r"(?i)(?P<found>[a-z0-9][\w.+-]{0,63}?(?:_at_| -at- |-at-)"
        r"(?P<domain>[a-z0-9-]+?(?:(?:_dot_| -dot- |-dot-|\.)[a-z0-9]+){1,3}))(?!\w)",
        _is_joined_email,
        IDENTIFIER + b".+",
    ),
    Rule(
        "email",
        r"(?:<[\w.+-]{1,64} (?:at|@)|\w AT) [A-Za-z0-9]",
        r"(?:[\w.+-]*<(?P<bracket>))?(?P<found>\w[\w.+-]{0,63} (?:at|AT|@) "
        r"(?P<domain>[\w-]+(?:\.[\w-]+){1,4}))(?(bracket)>|(?!\w))",
        _is_disguised_email,
        IDENTIFIER + b".+",
    ),
    Rule(
        "email",
        r"(?i)\w(?:&#64;|&#x40;|&commat;|%40)[a-z0-9]",
        r"(?i)(?P<found>\w[\w.+-]{0,63}(?:&#64;|&#x40;|&commat;|%40)(?P<domain>[\w-]+(?:\.[\w-]+){1,4}))",
        _is_disguised_email,
        IDENTIFIER + b".+",
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
        r"(?<![\w+)\]])\+[1-9](?:[ ().-]{0,3}\d){5,13}\d(?!\w|\.\d)",
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
        _PHONE_WORD_WHOLE
        + r"(?P<between>[^0-9\n]{0,15}?[^0-9\n(+])"
        + r"(?P<found>(?:\+|\((?=\d{1,5}\)))?\d(?:[ ()./-]{0,3}\d){5,13}\d)(?!\w|\.\d)",
        _is_called_phone,
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
