"""Email and IP addresses, phone, card and account numbers, US social security numbers, and their validators.

The following is kept, because it is not personal and the model should know it:

* email: domains reserved for examples (RFC 2606: `example.com`, `.test`, `.invalid`), `git@host`, users of URLs;
* IP addresses: those not globally routable (loopback, private, documentation, ...), the well-known public resolvers,
  networks (`x.y.z.0`, `x:y::`), versions by their context (`version = `, `==`, `name-`, `name/`), and dotted quads
  without a number above 31: these are section numbers, object identifiers and versions, but 1 in 3,500 addresses;
* phone numbers: those reserved for fiction in North America (555-0100 to 555-0199).
"""

import ipaddress
import re
from collections.abc import Callable, Iterable

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
    if match.string[start - 1 : start] == b"%" or local in _SERVICE_USERS or RESERVED_DOMAIN.search(domain):
        return False
    top = domain.rpartition(b".")[2]
    if not (top in _COUNTRY_DOMAINS or top in _GENERIC_DOMAINS or top.startswith(b"xn--") or top[0] >= 0x80):
        return False
    return not _URL_BEFORE.search(match.string[max(0, start - 136) : start])


def _is_disguised_email(match: Match) -> bool:
    """Check the domain of an address whose signs are spelled out or encoded."""
    domain = re.sub(rb"(?i) ?[\[({]dot[\])}] ?| dot ", b".", match["domain"]).lower()
    top = domain.rpartition(b".")[2]
    return (top in _COUNTRY_DOMAINS or top in _GENERIC_DOMAINS) and not RESERVED_DOMAIN.search(domain)


def _is_public_address(match: Match) -> bool:
    try:
        address = ipaddress.ip_address(match[0].decode())
    except ValueError:
        return False
    is_network = address.version == 6 and int(address) & _LOW_64_BITS == 0
    return address.is_global and not (address.is_multicast or is_network or address in _RESOLVERS)


def _is_host(match: Match) -> bool:
    """Check whether it is the address of a host, not a network, a version or a section number."""
    parts = [int(part) for part in match[0].split(b".")]
    if parts[-1] == 0 or max(parts) <= _LARGEST_VERSION_PART or len(set(parts)) == 1 or match[0] in _MADE_UP_ADDRESSES:
        return False
    before = match.string[max(0, match.start() - 48) : match.start()]
    return not _VERSION_BEFORE.search(before) and _is_public_address(match)


def _digits(match: Match) -> str:
    return re.sub(rb"\D", b"", found_in(match)).decode()


def _is_phone(match: Match, regions: Iterable[str | None]) -> bool:
    import phonenumbers

    written = found_in(match).decode()
    if _digits(match) in _COUNTING:
        return False
    for region in regions:
        phone = next(iter(phonenumbers.PhoneNumberMatcher(written, region)), None)
        if phone is not None and (phone.start, phone.end) == (0, len(written)):
            return not _FICTIONAL.fullmatch(
                phonenumbers.format_number(phone.number, phonenumbers.PhoneNumberFormat.E164)
            )
    return False


def _is_phone_of(*regions: str | None) -> Callable[[Match], bool]:
    return lambda match: _is_phone(match, regions)


def _is_card(match: Match) -> bool:
    digits = _digits(match)
    if len(set(digits)) == 1 or not _CARD_ISSUERS.fullmatch(digits) or luhn(digits) != 0:
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
        and int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1
    )


def _is_ssn(match: Match) -> bool:
    digits = _digits(match)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    issued = area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"
    return issued and digits not in _PUBLISHED_SSNS


_LOCAL_PART = IDENTIFIER + b".+" + bytes(range(0x80, 0x100))
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
        "email",
        r"(?i)\w at [a-z0-9-]{1,32} dot [a-z]",
        r"(?i) {0,3}(?:[\w+-]+ {1,3})*?"
        r"(?P<found>[\w+-]+(?: dot [\w+-]+){0,3} at (?P<domain>[\w-]+(?: dot [\w-]+){1,4}))(?!\w)",
        _is_disguised_email,
        IDENTIFIER + b"+ ",
    ),
    Rule(
        "email",
        r"(?i)\w ?[\[({]at[\])}] ?\w",
        r"(?i)(?P<found>\w[\w.+-]{0,63} ?[\[({]at[\])}] ?(?P<domain>[\w-]+(?:(?:\.| ?[\[({]dot[\])}] ?)[\w-]+){1,4}))",
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
