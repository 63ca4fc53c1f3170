"""Values that nobody has: published as examples by those who issue such values, or visibly made up.

Each rule of what is made up says how rarely it meets a value that is not.
"""

import ipaddress
import re
from itertools import pairwise

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OF_EXAMPLE_COM = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "192.0.32.10", "192.0.43.10", "208.77.188.166", "93.184.216.34", "93.184.215.14",
        "2606:2800:220:1:248:1893:25c8:1946", "2606:2800:21f:cb07:6820:80da:af6b:8b2c",
    )
)  # fmt: skip
"""Addresses that `example.com` has had."""
_OF_NOBODY = ipaddress.IPv4Network("192.0.0.0/19"), ipaddress.IPv4Network("192.88.99.0/24")
"""Of IANA, around 192.0.2.0/24, and the relays of 6to4."""
_ALLOCATED = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/20", "2001:1000::/20", "2001:2000::/19", "2001:4000::/19", "2001:8000::/18", "2003::/18",
            "2400::/11", "2600::/11", "2620::/16", "2630::/12", "2800::/12", "2a00::/11", "2c00::/12",
        ),
    )
)  # fmt: skip
"""What registries have to give away (IANA, IPv6 global unicast address assignments); nobody has anything else."""
_LIKE_DOCUMENTATION = ipaddress.IPv6Network("2001:db0::/28")
"""Around 2001:db8::/32."""
_HEX_WORDS = _words(
    "abcd abba aaaa bbbb cccc dddd eeee ffff 1111 2222 3333 4444 5555 6666 7777 8888 9999 1234 2345 3456 4567 "
    "5678 6789 9abc def0 cdef bcde beef dead cafe babe face feed fade deaf f00d c0de c0fe c01d b00c bad0 baad"
)
"""Groups of an address: of five random ones, two are among them once in a million times."""
_ROUND = frozenset((*range(10), 10, 20, 50, 100, 128, 200, 250, 254, 255))
"""Numbers of an address: the last three are among them once in 2,500 times."""
_COUNTED = ("0123456789", "9876543210", "01234567890123456789")
_LEAST_COUNTED = 7
_DOCUMENTATION = re.compile(rb"(?<![\d.])(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d|(?i:\b2001:0?db8:)")
_CARDS = _words(
    "4012888888881881 4242424242424242 4000056655665556 4917610000000000 4222222222222 5105105105105100 "
    "5200828282828210 5425233430109903 2222420000001113 2223003122003222 2223000048410010 378282246310005 "
    "371449635398431 378734493671000 374245455400126 371144371144376 6011000990139424 6011000991300009 "
    "6011981111111113 3056930009020004 30569309025904 38520000023237 36227206271667 36700102000000 "
    "3530111333300000 3566002020360505 3566111111111113"
)
"""Published for tests by Visa, Mastercard, American Express, Discover, JCB, PayPal, Stripe and Adyen."""
_SAME_DIGITS = re.compile(r"(\d)\1{5}")
"""Of a card number: once in 10,000 times."""
_IBANS = _words(
    "AD1200012030200359100100 AE070331234567890123456 AL47212110090000000235698741 AT611904300234573201 "
    "AZ21NABZ00000000137010001944 BA391290079401028494 BE68539007547034 BG80BNBG96611020345678 "
    "BH67BMAG00001299123456 CH9300762011623852957 CR05015202001026284066 CY17002001280000001200527600 "
    "CZ6508000000192000145399 DE89370400440532013000 DK5000400440116243 DO28BAGR00000001212453611324 "
    "EE382200221020145685 ES9121000418450200051332 FI2112345600000785 FO6264600001631634 "
    "FR1420041010050500013M02606 GB29NWBK60161331926819 GB82WEST12345698765432 GE29NB0000000101904917 "
    "GI75NWBK000000007099453 GL8964710001000206 GR1601101250000000012300695 HR1210010051863000160 "
    "HU42117730161111101800000000 IE29AIBK93115212345678 IL620108000000099999999 IS140159260076545510730339 "
    "IT60X0542811101000000123456 JO94CBJO0010000000000131000302 KW81CBKU0000000000001234560101 "
    "KZ86125KZT5004100100 LB62099900000001001901229114 LI21088100002324013AA LT121000011101001000 "
    "LU280019400644750000 LV80BANK0000435195001 MC5811222000010123456789030 MD24AG000225100013104168 "
    "ME25505000012345678951 MK07250120000058984 MR1300020001010000123456753 MT84MALT011000012345MTLCAST001S "
    "MU17BOMM0101101030300200000MUR NL91ABNA0417164300 NO9386011117947 PK36SCBL0000001123456702 "
    "PL61109010140000071219812874 PS92PALS000000000400123456702 PT50000201231234567890154 "
    "QA58DOHB00001234567890ABCDEFG RO49AAAA1B31007593840000 RS35260005601001611379 SA0380000000608010167519 "
    "SE4550000000058398257466 SI56263300012039086 SK3112000000198742637541 SM86U0322509800000000270100 "
    "TN5910006035183598478831 TR330006100519786457841326 UA213223130000026007233566001 VG96VPVG0000012345678901 "
    "XK051212012345678906"
)
"""Of the IBAN registry (ISO 13616), one of each country."""
_TRIPLES = re.compile(r"(\d)\1{4}|(\d)\2{2,}(\d)\3{2,}")
"""Five same digits, or three and three: in one of 900 random numbers of ten digits."""
_NOBODYS = re.compile(r"\+1\d{3}(?:555(?:1212|(\d)\1{3}|1234|2345|3456|4567|5678|6789|9876|4321)|8675309)")
"""Directory assistance, and other numbers of the exchange 555 that count or repeat a digit; that of a song."""
_FEW_DIGITS_SSN = re.compile(r"(\d)\1\1(\d)\2(\d)\3{3}")


def is_example_address(address: Address, before: bytes, after: bytes) -> bool:
    """Check whether an address is an example, or stands in one line with an address for documentation (RFC 5737, 3849).

    >>> is_example_address(ipaddress.ip_address("70.41.3.18"), b"for=203.0.113.195, ", b"")
    True
    """
    line = before.rpartition(b"\n")[2] + b" | " + after.partition(b"\n")[0]
    if address in _OF_EXAMPLE_COM or _DOCUMENTATION.search(line):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        is_of_nobody = any(address in block for block in _OF_NOBODY)
        return is_of_nobody or _is_made_up_ipv4(list(address.packed), str(address))
    groups = address.exploded.split(":")
    is_bare = not any(int(group, 16) for group in groups[1:-1])
    words = sum(group in _HEX_WORDS for group in groups)
    is_given = any(address in block for block in _ALLOCATED)
    return not is_given or is_bare or address in _LIKE_DOCUMENTATION or words > 1


def _is_made_up_ipv4(parts: list[int], written: str) -> bool:
    """Check for two values (40.40.25.25), equal steps (50.60.70.80), counting (23.45.67.89) and round numbers."""
    steps = {after - part for part, after in pairwise(parts)}
    return (
        len(set(parts)) <= 2
        or len(steps) == 1
        or parts[2:] == [1, 1]
        or is_counted(written.replace(".", ""), 6)
        or _ROUND.issuperset(parts[1:])
    )


def is_counted(digits: str, least: int = _LEAST_COUNTED) -> bool:
    """Check for seven digits in a row that count up or down: once in 100,000 random numbers of ten digits.

    >>> is_counted("12345678900"), is_counted("4155552671")
    (True, False)
    """
    runs = (digits[at : at + least] for at in range(len(digits) - least + 1))
    return any(run in row for run in runs for row in _COUNTED)


def is_example_phone(digits: str) -> bool:
    """Check whether a phone number counts or repeats digits.

    >>> is_example_phone("4915112345678"), is_example_phone("2127365000")
    (True, False)
    """
    return is_counted(digits) or is_counted(digits[-6:], 6) or _TRIPLES.search(digits) is not None


def is_phone_of_nobody(number: str) -> bool:
    """Check whether a phone number in E.164 is one of North America that no subscriber has.

    >>> is_phone_of_nobody("+18005551212"), is_phone_of_nobody("+33145551212")
    (True, False)
    """
    return _NOBODYS.fullmatch(number) is not None


def is_example_card(digits: str) -> bool:
    """Check whether a card number is published for tests, or has six same digits in a row.

    >>> is_example_card("4111111111111111"), is_example_card("4539578763621486")
    (True, False)
    """
    return digits in _CARDS or _SAME_DIGITS.search(digits) is not None


def is_example_iban(iban: str) -> bool:
    """Check whether an account number, without blanks, is the registry's example of its country."""
    return iban in _IBANS


def is_example_ssn(digits: str) -> bool:
    """Check whether each part of a social security number repeats one digit: 333-22-4444."""
    return _FEW_DIGITS_SSN.fullmatch(digits) is not None
