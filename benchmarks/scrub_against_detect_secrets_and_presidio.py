# ruff: noqa: E501, S104 - tables of planted strings
"""Recall of secrets against detect-secrets, F1 of personal data against presidio's recognizers, and the speed of all.

Secrets: every kind that detect-secrets' specific plugins know (no entropy or keyword plugin), 25 of each, made with a
seed and valid for its regular expressions, each in a line of source. Personal data: email, IPv4, IPv6, phone, card,
IBAN and SSN in lines of code and prose, and lines that hold none: versions, digests, identifiers, numbers.
`disputed` lines hold what only a policy can decide (example.com, private and documentation addresses, ...): they count
in `f1_with_disputed` alone. A find counts when it overlaps the planted value, whatever type it gives; presidio is read
at the score threshold that suits it best. Speed: CPU seconds on the same seeded sample of Python's standard library,
one thread, systems take turns, medians of 3. Peers run on the interpreter that PEERS_PYTHON names:

    PEERS_PYTHON=peers/bin/python python benchmarks/scrub_against_detect_secrets_and_presidio.py [RESULT.json]
"""

import base64
import importlib
import ipaddress
import json
import os
import platform
import random
import statistics
import string
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SEED, PER_KIND, REPEATS, SPEED_BYTES, OWN_ROUNDS = 0, 25, 3, 500_000, 40
THRESHOLDS = (0.0, 0.1, 0.35, 0.45, 0.55)
SYSTEMS = ("ibidem", "detect_secrets", "presidio")
DEFAULT_RESULT = Path("benchmarks/results/scrub_against_detect_secrets_and_presidio.json")
HEX, LOWER, DIGITS = "0123456789abcdef", string.ascii_lowercase, string.digits
ALNUM, UPPER = string.ascii_letters + DIGITS, string.ascii_uppercase + DIGITS

PLUGINS = {
    "artifactory": "ArtifactoryDetector", "aws": "AWSKeyDetector", "azure_storage_key": "AzureStorageKeyDetector",
    "basic_auth": "BasicAuthDetector", "cloudant": "CloudantDetector", "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector", "gitlab_token": "GitLabTokenDetector", "ibm_cloud_iam": "IbmCloudIamDetector",
    "ibm_cos_hmac": "IbmCosHmacDetector", "jwt": "JwtTokenDetector", "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector", "openai": "OpenAIDetector", "private_key": "PrivateKeyDetector",
    "pypi_token": "PypiTokenDetector", "sendgrid": "SendGridDetector", "slack": "SlackDetector",
    "softlayer": "SoftlayerDetector", "square_oauth": "SquareOAuthDetector", "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector", "twilio": "TwilioKeyDetector",
}  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--system"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
        return
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_RESULT
    task = {"secrets": secrets(), "personal": personal(), "sources": sources()}
    runs: dict[str, list[dict[str, Any]]] = {system: [] for system in SYSTEMS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.json"
        file.write_text(json.dumps(task), encoding="utf-8")
        for _ in range(REPEATS):
            for system in SYSTEMS:
                runs[system].append(run(system, file))
    write(path, task, runs)


def run(system: str, task: Path) -> dict[str, Any]:
    python = sys.executable if system == "ibidem" else os.environ.get("PEERS_PYTHON", sys.executable)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [python, __file__, "--system", system, str(task)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(system, {key: result[key] for key in ("mb_per_cpu_s", "versions")})
    return result


# ---- What is planted -----------------------------------------------------------------------------------------------


def secrets() -> list[dict[str, str]]:
    """Give rows of `kind`, `value` and `text`, the line or block of source that holds the value."""
    rng = random.Random(SEED)
    return [
        {"kind": kind, "value": value, "text": text}
        for kind, make in SECRET_MAKERS.items()
        for value, text in (make(rng) for _ in range(PER_KIND))
    ]


def pick(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choices(alphabet, k=length))


def token(make: Callable[[random.Random], str]) -> Callable[[random.Random], tuple[str, str]]:
    """Put a token that is known by its own form into a line."""
    lines = (
        'API_TOKEN = "{}"', "client = Client('{}', timeout=30)", "export SERVICE_TOKEN={}", "  token: {}",
        '    "auth": "{}",', "headers['Authorization'] = 'Bearer {}'", "# rotated: {}", "curl -u {} https://api.ibidem.org",
    )  # fmt: skip

    def maker(rng: random.Random) -> tuple[str, str]:
        value = make(rng)
        return value, rng.choice(lines).format(value)

    return maker


def assigned(names: str, make: Callable[[random.Random], str]) -> Callable[[random.Random], tuple[str, str]]:
    """Put a value that is known by the name before it into a line; detect-secrets reads these forms of assignment."""

    def maker(rng: random.Random) -> tuple[str, str]:
        value, name = make(rng), rng.choice(names.split())
        forms = ('{} = "{}"', "{}: {}", '"{}": "{}",', "{}='{}'", "{} := {}", "config['{}'] = '{}'")
        return value, rng.choice(forms).format(name, value)

    return maker


def between(
    before: str, make: Callable[[random.Random], str], after: str
) -> Callable[[random.Random], tuple[str, str]]:
    def maker(rng: random.Random) -> tuple[str, str]:
        value = make(rng)
        return value, before + value + after

    return maker


def private_key(rng: random.Random) -> tuple[str, str]:
    body = "\n".join(pick(rng, ALNUM + "+/", 64) for _ in range(rng.randint(4, 26)))
    kind = rng.choice(("DSA ", "EC ", "OPENSSH ", "PGP", "", "RSA ", "SSH2", "PuTTY"))
    if kind == "PuTTY":
        mac = pick(rng, HEX, 40)
        return body, f"PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nPrivate-Lines: 9\n{body}\nPrivate-MAC: {mac}"
    if kind == "SSH2":
        label = "SSH2 ENCRYPTED PRIV" + "ATE KEY"
        return body, f"---- BEGIN {label} ----\n{body}\n---- END {label} ----"
    label = "PGP PRIV" + "ATE KEY BLOCK" if kind == "PGP" else f"{kind}PRIV" + "ATE KEY"
    return body, f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"


def jwt(rng: random.Random) -> str:
    parts = {"alg": "HS256", "typ": "JWT"}, {"sub": pick(rng, DIGITS, 10), "name": pick(rng, LOWER, 8)}
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, pick(rng, ALNUM + "-_", 43)])


def discord(rng: random.Random) -> str:
    user = base64.b64encode(str(rng.randint(10**17, 10**18 - 1)).encode()).decode()
    return f"{user}.{pick(rng, ALNUM, 6)}.{pick(rng, ALNUM + '-_', 27)}"


def slack(rng: random.Random) -> str:
    numbers = "-".join(pick(rng, DIGITS, 12) for _ in range(rng.randint(1, 3)))
    return f"xo{rng.choice(('xb', 'xp', 'xa', 'xr', 'xo', 'xs'))}-{numbers}-{pick(rng, ALNUM, 24)}"


def npm(rng: random.Random) -> str:
    return rng.choice(("npm" + "_" + pick(rng, ALNUM, 36), "-".join(pick(rng, HEX, n) for n in (8, 4, 4, 4, 12))))


def webhook(rng: random.Random) -> str:
    return f"T{pick(rng, UPPER, 8)}/B{pick(rng, UPPER, 8)}/{pick(rng, ALNUM, 24)}"


SECRET_MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "artifactory key": token(lambda rng: "AKC" + "p" + pick(rng, ALNUM, 69)),
    "artifactory password": token(lambda rng: "AP" + pick(rng, DIGITS + "ABCDEF", 1) + pick(rng, ALNUM, 33)),
    "aws access key": token(lambda rng: rng.choice(("AKIA", "ASIA", "ABIA", "ACCA")) + pick(rng, UPPER, 16)),
    "aws secret key": between('aws_secret_access_key = "', lambda rng: pick(rng, ALNUM + "/+", 40), '"'),
    "azure storage": between(
        'connect("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=',
        lambda rng: pick(rng, ALNUM + "+/", 86) + "==",
        ';EndpointSuffix=core.windows.net")',
    ),
    "basic auth": between(
        'DATABASE_URL = "postgres://app:', lambda rng: pick(rng, ALNUM, rng.randint(8, 24)), '@db.ibidem.org:5432/app"'
    ),
    "cloudant password": assigned("cloudant_password cl_key cloudant-api-key clou_pw", lambda rng: pick(rng, HEX, 64)),
    "cloudant key": assigned("cloudant_key cloudant_apikey cl_token", lambda rng: pick(rng, LOWER, 24)),
    "cloudant url": between("https://app:", lambda rng: pick(rng, HEX, 64), "@app.cloudant.com/db"),
    "discord": token(discord),
    "github": token(lambda rng: f"gh{rng.choice('pousr')}_" + pick(rng, ALNUM, 36)),
    "gitlab": token(
        lambda rng: rng.choice(("glp" + "at-", "gld" + "t-", "glr" + "t-", "GR" + "1348941")) + pick(rng, ALNUM, 20)
    ),
    "ibm cloud": assigned("ibm_cloud_api_key apikey iam_token ibm_iam_key", lambda rng: pick(rng, ALNUM + "-_", 44)),
    "ibm cos": assigned(
        "cos_hmac_secret_access_key ibm_cos_secret_key secret_access_key", lambda rng: pick(rng, HEX, 48)
    ),
    "jwt": token(jwt),
    "mailchimp": token(lambda rng: pick(rng, HEX, 32) + f"-us{rng.randint(1, 21)}"),
    "npm": between("//registry.npmjs.org/:_authToken=", npm, ""),
    "openai": token(lambda rng: "sk" + "-" + pick(rng, ALNUM, 20) + "T3Blbk" + "FJ" + pick(rng, ALNUM, 20)),
    "openai project": token(
        lambda rng: "sk" + "-proj-" + pick(rng, ALNUM, 74) + "T3Blbk" + "FJ" + pick(rng, ALNUM, 74)
    ),
    "private key": private_key,
    "pypi": token(lambda rng: "pypi-AgEIcHlwaS5" + "vcmc" + pick(rng, ALNUM + "-_", 150)),
    "sendgrid": token(lambda rng: "SG" + f".{pick(rng, ALNUM + '-_', 22)}.{pick(rng, ALNUM + '-_', 43)}"),
    "slack token": token(slack),
    "slack webhook": between('post("https://hooks.slack.com/services/', webhook, '")'),
    "softlayer": assigned("softlayer_api_key sl_key softlayer_password", lambda rng: pick(rng, HEX, 64)),
    "softlayer url": between("https://api.softlayer.com/soap/v3/", lambda rng: pick(rng, HEX, 64), ""),
    "square": token(lambda rng: "sq0" + "csp-" + pick(rng, ALNUM + "-_", 43)),
    "stripe": token(lambda rng: rng.choice("rs") + "k_li" + "ve_" + pick(rng, ALNUM, 24)),
    "telegram": token(lambda rng: f"{rng.randint(10**8, 10**10 - 1)}:AA" + pick(rng, ALNUM + "-_", 33)),
    "twilio": token(lambda rng: rng.choice(("A" + "C", "S" + "K")) + pick(rng, HEX, 32)),
}


def personal() -> list[dict[str, str | None]]:
    """Give rows of `kind`, `value` (None in negatives) and `text`, a line."""
    rng = random.Random(SEED + 1)
    rows: list[dict[str, str | None]] = []
    for kind, (make, lines) in PERSONAL_MAKERS.items():
        for number in range(2 * PER_KIND):
            value = make(rng)
            rows.append({"kind": kind, "value": value, "text": lines[number % len(lines)].replace("{}", value)})
    for kind, negatives in (("negative", NEGATIVES), ("disputed", DISPUTED)):
        rows += [{"kind": kind, "value": None, "text": fill(rng, rng.choice(negatives))} for _ in range(6 * PER_KIND)]
    return rows


def fill(rng: random.Random, line: str) -> str:
    """Replace `#` by a digit, `~` by a hexadecimal digit, `?` by a letter."""
    return "".join({"#": rng.choice(DIGITS), "~": rng.choice(HEX), "?": rng.choice(LOWER)}.get(c, c) for c in line)


def email(rng: random.Random) -> str:
    name = rng.choice(("ann", "b.olsen", "carla_m", "d-eng", "eve+list", "frank.o.neil", "info", "jobs"))
    top = rng.choice(("com", "org", "de", "co.uk", "io", "fr", "edu", "net"))
    return f"{name}{rng.choice(('', str(rng.randint(1, 99))))}@{pick(rng, LOWER, rng.randint(4, 10))}.{top}"


def ipv4(rng: random.Random) -> str:
    while True:
        address = ipaddress.IPv4Address(rng.getrandbits(32))
        if address.is_global and not address.is_multicast and int(address) % 256 not in {0, 255}:
            return str(address)


def ipv6(rng: random.Random) -> str:
    first = rng.choice((0x2001, 0x2400, 0x2600, 0x2620, 0x2800, 0x2A00, 0x2A02)) << 112
    host = rng.choice((rng.getrandbits(64), rng.randint(1, 0xFFFF)))
    address = ipaddress.IPv6Address(first | rng.randint(0x200, 0xFFF) << 96 | rng.getrandbits(32) << 64 | host)
    return address.compressed if address.is_global else ipv6(rng)


def phone(regions: tuple[str, ...], form: str) -> Callable[[random.Random], str]:
    def make(rng: random.Random) -> str:
        import phonenumbers as pn

        while True:
            example = pn.example_number_for_type(rng.choice(regions), rng.choice((0, 1)))
            digits = str(example.national_number)[:-5] + pick(rng, DIGITS, 5)
            number = pn.PhoneNumber(country_code=example.country_code, national_number=int(digits))
            if pn.is_valid_number(number) and "55501" not in digits:
                return str(pn.format_number(number, getattr(pn.PhoneNumberFormat, form)))

    return make


def card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        (("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3530", 16))
    )
    digits = prefix + pick(rng, DIGITS, length - len(prefix) - 1)
    doubled = [int(d) * (2 - n % 2) for n, d in enumerate(reversed(digits))]
    digits += str(-sum(d - 9 * (d > 9) for d in doubled) % 10)
    cuts = (4, 10) if length == 15 else (4, 8, 12)
    parts = [digits[a:b] for a, b in zip((0, *cuts), (*cuts, length), strict=True)]
    return rng.choice(("", " ", "-")).join(parts)


def iban(rng: random.Random) -> str:
    country, body = rng.choice(
        (("DE", "#" * 18), ("GB", "NWBK" + "#" * 14), ("FR", "#" * 23), ("NL", "INGB" + "#" * 10))
    )
    bban = fill(rng, body)
    number = int("".join(str(int(c, 36)) for c in bban + country + "00"))
    whole = f"{country}{98 - number % 97:02d}{bban}"
    return rng.choice((whole, " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))))


def ssn(rng: random.Random) -> str:
    area = rng.choice([number for number in range(1, 900) if number != 666])
    return f"{area:03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"


PHONE_LINES = ('"phone": "{}",', 'SUPPORT = "{}"', "# call {} for support", "Tel: {}", "reach Ann at {} or by mail")
TOLD_LINES = ('"phone": "{}",', "Telephone: {}", "mobile = '{}'", "Fax: {}")
PERSONAL_MAKERS: dict[str, tuple[Callable[[random.Random], str], tuple[str, ...]]] = {
    "email": (email, ("# Author: Ann <{}>", 'MAINTAINER = "{}"', "mailto:{}", "write to {}, please", "to={};")),
    "ipv4": (ipv4, ('HOST = "{}"', "server {}:8080;", "http://{}/index.html", "Received: from mx ([{}])", "ping {}")),
    "ipv6": (ipv6, ('HOST = "{}"', "listen [{}]:443;", "AAAA {}", "inet6 {}/64 scope global", "ping6 {}")),
    "phone, international": (
        phone(("US", "GB", "DE", "FR", "IN", "BR", "JP", "ES", "IT", "AU", "NL", "PL"), "INTERNATIONAL"), PHONE_LINES),
    "phone, E.164": (phone(("US", "GB", "DE", "FR", "IN", "BR", "JP", "ES", "IT", "AU"), "E164"), PHONE_LINES),
    "phone, US": (phone(("US",), "NATIONAL"), PHONE_LINES),
    "phone, GB and FR": (phone(("GB", "FR"), "NATIONAL"), PHONE_LINES),
    "phone, national": (phone(("DE", "IN", "BR", "IL", "ES"), "NATIONAL"), TOLD_LINES),
    "card": (card, ('card = "{}"', "Visa {} exp 12/29", '"number": "{}"', "paid by card {}", "card_number: {}")),
    "iban": (iban, ('iban = "{}"', "IBAN: {}", "please pay to {}.", '"account": "{}",')),
    "ssn": (ssn, ('ssn = "{}"', "SSN {}", "social security number: {}", "{},Smith,Ann")),
}  # fmt: skip
NEGATIVES = (
    'version = "1#.2#.3#.4#"', "__version__ = '54.#.#.1'", "pkg==1.2.3.#", "Chrome/1##.0.0.0 Safari/537.36",
    "OID 2.5.29.1#", "1.2.3.# Heading", "md5 ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~", "sha1: ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
    "id = '~~~~~~~~-~~~~-4~~~-a~~~-~~~~~~~~~~~~'", "created_at = 17########", "timestamp_ms: 17###########",
    "@?????.???????", "y = ????@????.T", "????@4.17.#", "icon_????@2x.png", "0.################", "x = -#.####e+##",
    "00000##0  0# 0# 0# 0# 0# 0# 0# 0# |........|", "row_id = 9##########4##5", "isbn 978-3-16-14841#-0", "20##-0#-1# 12:3#:0#",
    "mac 00:1b:~~:~~:~~:~~", "std::????::????", "a[1:2:3] 12:34:5#", "zip ###-##", "part 12-####-##", "count = #########",
    "(###) of (####)", "color #~~~~~~", "rgba(2#, 3#, 4#, 0.#)", "range 1###-2###", "0x~~~~~~~~~~~~~~~~", "CAS ###-##-#",
)  # fmt: skip
DISPUTED = (
    "?????@example.com", "????@example.org", "git@github.com:?????/????.git", "127.0.0.1", "10.#.#.1#", "192.168.1.1#",
    "203.0.113.1#", "0.0.0.0", "::1", "fe80::~~~~", "2001:db8::~~~~", "dns 8.8.8.8", "255.255.255.0", "call 212-555-01##",
)  # fmt: skip


def sources() -> list[str]:
    """Give a seeded sample of the standard library's files."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*/*.py"))
    random.Random(SEED).shuffle(files)
    texts: list[str] = []
    for file in files:
        if sum(map(len, texts)) > SPEED_BYTES:
            break
        if "site-packages" not in file.parts:
            texts.append(file.read_text(encoding="utf-8", errors="replace"))
    return texts


# ---- The systems ---------------------------------------------------------------------------------------------------


def measure(system: str, file: Path) -> dict[str, Any]:
    task = json.loads(file.read_text(encoding="utf-8"))
    build = {"ibidem": own_system, "detect_secrets": detect_secrets_system, "presidio": presidio_system}[system]
    scan, judge_secret, judge_personal, versions = build()
    rounds = OWN_ROUNDS if system == "ibidem" else 1
    scan(task["sources"][0])
    started = time.process_time()
    for _ in range(rounds):
        for text in task["sources"]:
            scan(text)
    seconds = (time.process_time() - started) / rounds
    size = sum(len(text.encode()) for text in task["sources"])
    return {
        "mb_per_cpu_s": size / 1e6 / seconds,
        "secrets": [judge_secret(row) for row in task["secrets"]] if judge_secret else None,
        "personal": [judge_personal(row) for row in task["personal"]] if judge_personal else None,
        "versions": versions,
    }


def own_system() -> tuple[Any, ...]:
    """The judge of personal data gives [(score, whether it is the planted value), ...]."""
    from ibidem.data.scrub.scrubber import PERSONAL, Scrubber, ScrubPolicy, placeholder

    scrub = Scrubber(ScrubPolicy())
    only_secrets, only_personal = Scrubber(ScrubPolicy(personal=False)), Scrubber(ScrubPolicy(secrets=False))
    assert {placeholder(rule.kind) for rule in PERSONAL}

    def judge_secret(row: dict[str, str]) -> bool:
        return row["value"] not in only_secrets(f"import os\n{row['text']}\nprint('ü')\n")[0]

    def judge_personal(row: dict[str, Any]) -> list[tuple[float, bool]]:
        text, counts = only_personal(row["text"])
        found = row["value"] is not None and row["value"] not in text
        return [(1.0, True)] * found + [(1.0, False)] * (sum(counts.values()) - found)

    return scrub, judge_secret, judge_personal, versions_of("hyperscan", "phonenumbers")


def detect_secrets_system() -> tuple[Any, ...]:
    plugins = [
        getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)() for module, name in PLUGINS.items()
    ]

    def scan(text: str) -> list[str]:
        return [found for line in text.splitlines() for plugin in plugins for found in plugin.analyze_string(line)]

    def judge_secret(row: dict[str, str]) -> bool:
        found = scan(row["text"])
        marker = row["kind"] == "private key" and bool(found)
        return marker or any(secret in row["value"] or row["value"] in secret for secret in found)

    return scan, judge_secret, None, versions_of("detect-secrets")


def presidio_system() -> tuple[Any, ...]:
    import tldextract
    from presidio_analyzer import predefined_recognizers as known

    offline = tldextract.TLDExtract(suffix_list_urls=())
    importlib.import_module(known.EmailRecognizer.__module__).tldextract.extract = offline  # the network is not asked
    recognizers = [
        known.EmailRecognizer(), known.IpRecognizer(), known.CreditCardRecognizer(), known.UsSsnRecognizer(),
        known.PhoneRecognizer(), known.IbanRecognizer(),
    ]  # fmt: skip

    def scan(text: str) -> list[Any]:
        return [found for r in recognizers for found in r.analyze(text, r.supported_entities, None)]

    def judge_personal(row: dict[str, Any]) -> list[tuple[float, bool]]:
        start = row["text"].find(row["value"]) if row["value"] else -1
        end = start + len(row["value"]) if row["value"] else -1
        return [(found.score, found.start < end and start < found.end) for found in scan(row["text"])]

    return scan, None, judge_personal, versions_of("presidio-analyzer", "phonenumbers")


def versions_of(*names: str) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in names}


# ---- The result ----------------------------------------------------------------------------------------------------


def rates(
    rows: Iterable[dict[str, Any]], judged: Iterable[list[tuple[float, bool]]], threshold: float
) -> dict[str, float]:
    """Count at most one find of each sort a line, so that nobody pays twice for one line."""
    true = false = planted = 0
    for row, finds in zip(rows, judged, strict=True):
        hits = {hit for score, hit in finds if score >= threshold}
        planted += row["value"] is not None
        true += True in hits
        false += False in hits
    precision, recall = true / max(1, true + false), true / planted
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(1e-9, precision + recall),
        "threshold": threshold,
    }


def best(rows: list[dict[str, Any]], judged: list[Any], *, disputed: bool) -> dict[str, float]:
    chosen = [(row, finds) for row, finds in zip(rows, judged, strict=True) if disputed or row["kind"] != "disputed"]
    kept, finds = [row for row, _ in chosen], [finds for _, finds in chosen]
    return max((rates(kept, finds, threshold) for threshold in THRESHOLDS), key=lambda rate: rate["f1"])


def by_kind(rows: list[dict[str, Any]], judged: Iterable[bool]) -> dict[str, float]:
    found: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row, hit in zip(rows, judged, strict=True):
        total[row["kind"]] += 1
        found[row["kind"]] += hit
    return {kind: found[kind] / total[kind] for kind in total}


def hits(judged: Iterable[list[Any]], threshold: float, *, planted: bool) -> Iterator[bool]:
    return (any(hit == planted and score >= threshold for score, hit in finds) for finds in judged)


def report(system: str, task: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    first = runs[0]
    result: dict[str, Any] = {
        "mb_per_cpu_s": statistics.median(run["mb_per_cpu_s"] for run in runs),
        "versions": first["versions"],
    }
    if first["secrets"] is not None:
        result["secrets_recall"] = statistics.mean(first["secrets"])
        result["secrets_recall_by_kind"] = by_kind(task["secrets"], first["secrets"])
    if first["personal"] is not None:
        rows, judged = task["personal"], first["personal"]
        result["personal"] = best(rows, judged, disputed=False)
        result["f1_with_disputed"] = best(rows, judged, disputed=True)["f1"]
        threshold = result["personal"]["threshold"]
        recalls = by_kind(rows, hits(judged, threshold, planted=True))
        alarms = by_kind(rows, hits(judged, threshold, planted=False))
        result["personal_recall_by_kind"] = {k: v for k, v in recalls.items() if k in PERSONAL_MAKERS}
        result["false_alarms"] = {kind: alarms[kind] for kind in ("negative", "disputed")}
    assert system == "ibidem" or first["secrets"] is None or first["personal"] is None
    return result


def write(path: Path, task: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> None:
    reports = {system: report(system, task, runs[system]) for system in SYSTEMS}
    ours, secrets_peer, personal_peer = (reports[system] for system in SYSTEMS)
    result = {
        "command": f"PEERS_PYTHON=peers/bin/python python benchmarks/{Path(__file__).name} {path.as_posix()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "seed": SEED,
        "secrets_planted": len(task["secrets"]),
        "personal_planted": sum(row["value"] is not None for row in task["personal"]),
        "text_bytes_for_speed": sum(len(text.encode()) for text in task["sources"]),
        "secrets_recall": {s: reports[s]["secrets_recall"] for s in SYSTEMS[:2]},
        "personal_f1": {s: reports[s]["personal"]["f1"] for s in (SYSTEMS[0], SYSTEMS[2])},
        "speed_ratio": {
            "detect_secrets": ours["mb_per_cpu_s"] / secrets_peer["mb_per_cpu_s"],
            "presidio": ours["mb_per_cpu_s"] / personal_peer["mb_per_cpu_s"],
        },
        "systems": reports,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("secrets_recall", "personal_f1", "speed_ratio")}, indent=1))


if __name__ == "__main__":
    main()
