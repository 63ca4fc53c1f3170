import ast
import base64
import json
import random
import string
import subprocess
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ibidem.data.pipeline.steps import Policies, scrub
from ibidem.data.scrub.scrubber import HEALTH, PERSONAL, SECRET_KINDS, SECRETS, Scrubber, ScrubPolicy, placeholder
from ibidem.records import Document

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "corpus"
SCRUBBER = Scrubber(ScrubPolicy())
HEX, LOWER = "0123456789abcdef", string.ascii_lowercase
UPPER, ALNUM = string.ascii_uppercase + string.digits, string.ascii_letters + string.digits


def scramble(alphabet: str, length: int, seed: int = 7) -> str:
    return "".join(random.Random(f"{seed}{length}").choices(alphabet, k=length))


def base64url(data: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


def pem(label: str) -> str:
    lines = "\n".join(scramble(ALNUM + "+/", 64, seed) for seed in range(12))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----"


DISCORD_USER = base64.b64encode(b"281904763559280640").decode()

# Literals are split, so that no scanner takes them for keys.
TOKENS = [
    ("key.aws-access-key", "AKIA" + scramble(UPPER, 16)),
    ("key.artifactory", "AKC" + "p8" + scramble(ALNUM, 68)),
    ("key.artifactory", "AP" + "6" + scramble(ALNUM, 33)),
    ("key.discord", f"{DISCORD_USER}.{scramble(ALNUM, 6)}.{scramble(ALNUM, 27)}"),
    ("key.github", "gh" + "p_" + scramble(ALNUM, 36)),
    ("key.github", "github" + "_pat_" + scramble(ALNUM, 22) + "_" + scramble(ALNUM, 59)),
    ("key.gitlab", "gl" + "pat-" + scramble(ALNUM, 20)),
    ("key.gitlab", "GR" + "1348941" + scramble(ALNUM, 20)),
    ("key.jwt", f"{base64url({'alg': 'HS256'})}.{base64url({'sub': '1'})}.{scramble(ALNUM, 43)}"),
    ("key.mailchimp", scramble(HEX, 32) + "-us" + "12"),
    ("key.npm", "np" + "m_" + scramble(ALNUM, 36)),
    ("key.openai", "sk" + "-" + scramble(ALNUM, 20) + "T3Blbk" + "FJ" + scramble(ALNUM, 20)),
    ("key.openai", "sk" + "-proj-" + scramble(ALNUM, 60) + "T3Blbk" + "FJ" + scramble(ALNUM, 60)),
    ("key.anthropic", "sk" + "-ant-api03-" + scramble(ALNUM, 95)),
    ("key.private-key", pem("RSA PRIV" + "ATE KEY")),
    ("key.private-key", pem("PGP PRIV" + "ATE KEY BLOCK")),
    ("key.private-key", pem("RSA PRIV" + "ATE KEY").replace("\n", "\\n")),
    ("key.pypi", "pypi-AgEIcHlwaS5" + "vcmc" + scramble(ALNUM, 150)),
    ("key.sendgrid", "SG" + "." + scramble(ALNUM, 22) + "." + scramble(ALNUM, 43)),
    ("key.slack-token", "xo" + "xb-" + scramble(string.digits, 12) + "-" + scramble(ALNUM, 24)),
    ("key.square", "sq0" + "csp-" + scramble(ALNUM, 43)),
    ("key.stripe", "sk_" + "live_" + scramble(ALNUM, 24)),
    ("key.telegram", scramble("123456789", 9) + ":AA" + scramble(ALNUM, 33)),
    ("key.twilio", "S" + "K" + scramble(HEX, 32)),
    ("key.google-api", "AI" + "za" + scramble(ALNUM, 35)),
    ("key.huggingface", "h" + "f_" + scramble(string.ascii_letters, 34)),
    ("email", "ann.o-neil+list@mail.ibidem.org"),
    ("email", "jürgen@bücher.de"),
    ("ip-address", "93.184.41.34"),
    ("ip-address", "2a02:6b8:7c:40c:c51e:495f:e23a:3"),
    ("ip-address", "2606:2800:220:1::1946"),
    ("phone-number", "+49 30 901820"),
    ("phone-number", "+1 (212) 736-5000"),
    ("phone-number", "(212) 736-5000"),
    ("phone-number", "01 42 68 53 00"),
    ("phone-number", "020 7925 0918"),
    ("credit-card", "4539 5787 6362 1486"),
    ("credit-card", "3714-496353-98423"),
    ("credit-card", "4539578763621486"),
    ("iban", "DE41 3704 0044 0617 2839 45"),
    ("iban", "GB18NWBK60161347192683"),
    ("us-ssn", "536-90-4399"),
]  # fmt: skip

# (kind, before, value, after): found by the words around them.
IN_CONTEXT = [
    ("key.aws-secret-key", 'aws_secret_access_key = "', scramble(ALNUM + "/+", 40), '"'),
    ("key.aws-secret-key", "AWS_SECRET_ACCESS_KEY=", scramble(ALNUM + "/+", 40), ""),
    ("key.azure-storage", "AccountName=a;AccountKey=", scramble(ALNUM + "+/", 86) + "==", ";"),
    ("key.basic-auth", "postgres://ann:", scramble(ALNUM, 12), "@db.ibidem.org/x"),
    ("key.cloudant", 'cloudant_password = "', scramble(HEX, 64), '"'),
    ("key.cloudant", "cl_api_key: ", scramble(LOWER, 24), ""),
    ("key.cloudant", "https://ann:", scramble(HEX, 64), "@ann.cloudant.com/db"),
    ("key.ibm-cloud", 'ibm_cloud_api_key = "', scramble(ALNUM, 44), '"'),
    ("key.ibm-cos", 'cos_hmac_secret_access_key = "', scramble(HEX, 48), '"'),
    ("key.npm", "//registry.npmjs.org/:_authToken=", "b4f1c6a2-58e0-4c1b-9d53-7a6f0c2e8d91", ""),
    (
        "key.slack-webhook",
        "https://hooks.slack.com/services/",
        f"T{scramble(UPPER, 8)}/B{scramble(UPPER, 8)}/{scramble(ALNUM, 24)}",
        "",
    ),
    ("key.softlayer", 'softlayer_api_key = "', scramble(HEX, 64), '"'),
    ("key.softlayer", "https://api.softlayer.com/soap/v3/", scramble(HEX, 64), ""),
    ("key.password", 'DB_PASSWORD = "', "vK8#tQ2!mZ5wX9$r", '"'),
    ("key.password", '"api_key": "', scramble(HEX, 32), '"'),
    ("key.simple-password", "DB_PASSWORD=", "walrus2shore", ""),
    ("key.simple-password", "export FTP_PASS=", "winter99", ""),
    ("key.simple-password", "run -e MYSQL_PASSWORD=", "x8Kq2vTz", " mysql"),
    ("key.simple-password", "db:\n  password: ", "tr0ub4dor", "  # of the database"),
    ("key.simple-password", '  password: "', "tr0ub4dor", '"'),
    ("key.simple-password", "[db]\npassword = ", "tr0ub4dor", ""),
    ("key.simple-password", "spring.datasource.password=", "tr0ub4dor", ""),
    ("key.simple-password", '"{\\"password\\": \\"', "x8Kq2vTz", '\\"}"'),
    ("key.simple-password", 'connect(passwd="', "Summer2024!", '")'),
    ("key.simple-password", 'dbPass: "', "x8Kq2vTz", '"'),
    ("key.simple-password", '"Server=db;User Id=sa;Password=', "x8Kq2vTz", ';"'),
    ("key.simple-password", 'dial("password=', "7uYgfI6kMe2UnN", ';host=db")'),
    ("key.password", '"Server=db;Password=', "vK8tQ2mZ5wX9rB4d", ';"'),
    ("key.password", "'pwd=", "vK8tQ2mZ5wX9rB4d", "; User Id=sa'"),
    ("key.simple-password", '# define PASSWORD  "', "6WtSC50oJhit", '"'),
    ("key.simple-password", '#define WIFI_PASS "', "6WtSC50oJhit", '"'),
    ("key.password", '#define DB_PASSWORD "', "vK8tQ2mZ5wX9rB4d", '"'),
    ("key.simple-password", "CREATE USER ann IDENTIFIED BY '", "6WtSC50oJhit", "';"),
    ("key.simple-password", "alter user ann identified with caching_sha2_password by '", "6WtSC50oJhit", "';"),
    ("key.password", "CREATE ROLE ann WITH ENCRYPTED PASSWORD '", "vK8tQ2mZ5wX9rB4d", "';"),
    ("key.simple-password", "https://ibidem.org/login?user=ann&password=", "x8Kq2vTz", "&next=1"),
    ("key.basic-auth", "redis://ann:", "tr0ub4dor", "@cache.ibidem.org"),
    ("email", "Arnaud <", "ann.olsen at ibidem.org", ">"),
    ("email", "by ", "ann.olsen AT ibidem DOT org", ""),
    ("email", "by ", "ann at ibidem dot org", ", who"),
    ("email", "by ", "ann [at] ibidem [dot] org", ", who"),
    ("email", "by ", "ann [ at ] ibidem [ dot ] org", ", who"),
    ("email", "by ", "ann<at>ibidem<dot>org", ", who"),
    ("email", "by ", "ann_at_ibidem_dot_org", ", who"),
    ("email", "by ", "ann -at- ibidem -dot- org", ", who"),
    ("email", "by ", "ann AT ibidem.org", ", who"),
    ("phone-number", "Telephone: ", "030 901820", ""),
    ("us-ssn", "SSN: ", "536904399", ""),
    ("key.bearer", "Authorization: Bearer ", scramble(ALNUM, 40), ""),
    ("health-number", "NHS number: ", "943 476 5927", ""),
    ("medical-record", "MRN: ", "0048213", ""),
    ("diagnosis", "My father has ", "E11.65", " and"),
    ("national-id", "AHV-Nr. ", "756.1234.5678.97", ""),
    ("prescriber-number", "DEA: ", "BJ4125349", ""),
    ("birth-date", "DOB: ", "03/12/1961", ""),
    ("device-serial", "pacemaker serial no. ", "PM4471902", ""),
]

UNTOUCHED = [
    "'password=x8Kq2vTz;'",
    '#define BYPASS "x8Kq2vTz"',
    '#define PASSWORD_MD5 "x8Kq2vTz"',
    "identified by 'test123' and identified by 'x8Kq' or by 'x8Kq2vTz'",
    "headers = {'Lock-Token': 'urn:uuid:a515cfa4-5da4-22e1-f5b5-00a0451e6bf7'}",
    *('ips = ["100.7.7.7"]', 'trusted("172.15.0.1")', 'trusted("203.0.114.1")', "{ phone: '01090000000' }"),
    "https://jo%40email.test:a%20secret@m\u00fcller.de:1234/",
    'request("http://123.45.67.8:8329/")',
    f"Bearer {base64url({'alg': 'HS256'})}.{base64url({'sub': '1'})}.Sfl" + "KxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
    "@pytest.fixture",
    "def f(a, b): return a@b",
    "y = W@x.to(device)",
    "lodash@4.17.21",
    "icon@2x.png",
    "git clone git@github.com:owner/name.git",
    "ssh://deploy@host.org/srv",
    "write to someone@example.com or a@b.example.org or x@y.test",
    'version = "54.2.3.4"',
    "__version__ = '91.0.44.124'",
    "package==101.2.3.4",
    "package-101.2.3.4.tar.gz",
    "Mozilla/5.0 Chrome/120.0.0.0",
    "see 2.5.29.17 and 1.3.6.1.4.1.311",
    "127.0.0.1 0.0.0.0 10.1.2.3 192.168.1.77 172.16.40.1 169.254.10.99 255.255.255.0 192.0.2.44 203.0.113.77",
    "dns 8.8.8.8 and 2001:4860:4860::8888",
    "::1 fe80::1 2001:db8::8a2e:370:7334",
    "at 12:34:56 on 2024:01:02",
    "d41d8cd98f00b204e9800998ecf8427e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "secret = '123e4567-e89b-12d3-a456-426614174000'",
    '"integrity": "sha512-' + scramble(ALNUM + "+/", 86) + '=="',
    'sha256:"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"',
    "AKIA" + "IOSFODNN7EXAMPLE",
    "gh" + "p_" + "x" * 36,
    "postgres://user:password@db.ibidem.org/x",
    "https://ann:${TOKEN}@host.org",
    "https://{user}:{password}@host.org",
    'password = "correct-horse-battery-staple"',
    'token = "some_identifier_with_words_1_2"',
    'password = os.environ["DB_PASSWORD"]',
    '"-----BEGIN PRIVATE KEY-----"',
    '"-----BEGIN PRIVATE KEY-----" and "-----END PRIVATE KEY-----"',
    "APEPredictor64",
    '"P8dWavd6csx86JpQ7otWWP11sPegdk1+AP9GvD7zFgqCXpDek900RWHSyIPsP8RBwS7MVXkkfye8",',
    "call (212) 555-0142",
    "1700000000000 4539578763621487 3.14159265358979323846",
    "x = 4828147466240000*t**12",
    "00 01 02 03 04 05 06 07 08 09 0a 0b",
    "2024-01-02 123-45-6789 000-12-3456 666-12-3456",
    "DE88370400440532013000",
    "<EMAIL> <IP_ADDRESS> <KEY:github>",
    "NHS number 943 476 5928",
    "NHS number: 943 476 5919",
    "MBI 1EG4-TE5-MK73",
    "KVNR: A123456789",
    "DEA: BJ4125342",
    "ahv = 7561234567898",
    "I have A40 cards and H100 cards, and the bus E11",
    "the code E11.65 means diabetes; ICD has F32.1",
    "self.patient_id = patient_id",
    "look at the dot product, or at a dot b",
    "Authorization: Bearer YOUR_TOKEN_GOES_HERE_PLEASE",
    "Authorization: Bearer ${TOKEN}",
    "API_TOKEN=os.environ.get('API_TOKEN')",
    "SECRET_KEY=correct_horse_battery_staple",
    "fn.call(this, 4155552671)",
    "cell_id = 2147483647",
    "phoneSiteId: 2147483648, call_count = 4026531840",
    "microphone = 4155552671",
    "call_site(4026531840)",
    "g = g.min.call(g, 2147483648, d + 65536)",
    "r[0]+3614090360&4294967295",
    'bytes.fromhex("01 02 03 04 05")',
    "// Prints: <Buffer 02 31 42 53 64>",
    "range [01:10:2] -> 01 03 05 07 09",
    "univ.ObjectIdentifier('2.5.4.41') and 2.5.29.37 and 2.23.140.1",
    "X25519 is 1.3.101.110",
    "# 2.2.4.48 SERVER_INFO_1107",
    "see sect 54.2.32.55",
    "IEEE 802.11ax 9.4.2.249, Figure 9-788k",
    "## [91.0.44.124] - 2024-01-02",
    '<path d="M8 0 10-5.123 0 6.004 6.004 0 00-3.431 5.142.75.75 0 001.498.07">',
    "a 1.19.8 1.6.34.41.75.71 1.23.89.48.18 1.01.28 1.59.28.59 0 1.12-.09 1.59-.28",
    "* **deps**: upgrade V8 to 6.5.254.31 and * **v8**: from 4.5.103.33",
    "* Upgrade to V8 5.0.71.57 with fixes",
    "Then run: telnet 127.0.0.1 4444",
    "32.0.0.0/3 ends at 63.255.255.255",
    "y = X@W.it()",
    "Ciphers aes256-gcm@openssh.com,curve25519-sha256@libssh.org",
    "@app.route('/x')",
    "password=changeme",
    "password = 'test123'",
    'password: "Passw0rd!"',
    "password: ${DB_PASSWORD1}",
    'password: "{{ vault_password1 }}"',
    "password: <your password>",
    'password: ""',
    'password = os.environ["PW1"]',
    "password = getpass()",
    "PASSWORD=${PW1:-}",
    "PASSWORD=$PW1",
    "password=args.password2",
    "password: sha256",
    "password: 8-20 characters",
    'passwordHint: "8 chars"',
    'password_field = "field_22"',
    'bypass = "v1.2.3a"',
    'pwd = "C:\\\\temp1"',
    "redis://user:authpassword@cache.ibidem.org",
    "http://ann:tr0ub4dor@127.0.0.1:8080 http://ann:tr0ub4dor@192.0.2.1",
    'oldPwdHashNT="31d6cfe0d16ae931b73c59d7e0c089c0"',
    '"NextContinuationToken": "1w41l63U0xa8q7smH50vCxyTQqdxo69O3EmK28Bi5PcR"',
    'ENCODE_KEY = "' + "".join(random.Random(3).sample(ALNUM + "+/", 64)) + '"',
    'passwd = "Password:" + entry',
    "password = 'secr3t'",
    "value_at_x_dot_is and look_at_this_dot_net_2",
    "IBAN DE89 3704 0044 0532 0130 00, GB29NWBK60161331926819, GB82 WEST 1234 5698 7654 32",
    "cards: 4111 1111 1111 1111, 4111-1111-1111-1111, 4242424242424242, 5555555555554444, 378282246310005",
    "card '30569309025904', '3530111333300000', '6200000000000005', '4000000000000002', '4007000000027'",
    *(f'address = "{ip}"' for ip in (
        "93.184.216.34", "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "192.1.1.8", "192.0.4.4",
        "192.128.0.100", "40.40.25.25", "50.60.70.80", "99.88.77.66", "23.45.67.89", "2002:db9:1::1",
        "2002:0000:0000:1234:abcd:ffff:c0a8:0101", "2001:1234:5678:9abc:def0::dead:beef", "2001:db9::17:a40c",
    )),
    'header("X-Forwarded-For", "203.0.113.195, 70.41.3.18, 150.172.238.178")',
    "assert_equal '800-555-1212', f(8005551212) and '+1-800-555-1212', '(212) 555-1234', '+18005551212'",
    "home_phone: '+12345678900', '+49 30 1234567', '+44 7911 123456', '+31 6 12345678'",
    f"{base64url({'alg': 'HS256'})}.{base64url({'sub': '1'})}.signature",
    *(f"password: '{word}'" for word in (
        "42password", "q1w2e3", "1q2w3e4r", "zaq12wsx", "a1b2c3d4", "user1pass2", "test123test", "12345abc", "zxcvbn1",
    )),
    *(f"redis://user:{word}@cache.ibidem.org" for word in (
        "aws_secret_access_key", "SAS_KEY", "p,ass", "p,a", "b!&*$", "fish", "pässword", "p%C3%A4ssword", "pa%40ss",
        "withPwd", "args.password1", "キ", "ApiKey", "AppSecret", "JWTToken", "AppID", "APIPASS", "12345",
    )),
    *(f"password: '{word}'" for word in (
        "s3krit", "priv4te", "P2$Sword", "secretP2ss!", "P2$$word2", "adminp2ss", "hunter2000", "hunter2_", "A3ddj3w",
        "1F@kePassword", "myPa55word!", "Ya#1$2%3", "from-v1", "abd123",
    )),
    "password='Tempor@ryPassword123', Password='Non-Managed-Pa55word!'",
    '{"access_token": "2YotnFZFEjr1zCsicMWpAA", "refresh_token": "tGzv3JOkF0XG5Qx2TlKWIA"}',
    '"authorizationToken": "QVdTOjEwOTg3NjU0MzIxLWF1dGgtdG9rZW4="',
    f'TOKEN = "{base64url({"alg": "HS256"})}.{base64url({"sub": "1234567890"})}.fake"',
    "CallerReference: 2014-04-01-18, caller 4155552671, callback 4155552671, phone: '2024-01-02-17'",
    "phone_number='+18888675309'",
    *(f"phone: '{number}'" for number in (
        "+254711000111", "+254711222333", "+48444555666", "+12514444444", "+61 400 000 000", "+12125550001",
    )),
    "login_and_password: '_TriStateType'",
    *(f"token = '{word}'" for word in (
        "xo" + "xb-1234-1234-abc124", "ya29.some-gcp-token", "gm_live_abc123def456abc123def456abc123",
        "abcd/1234/abcd@ajd@/test", "syt_abcdef/123456ABCD",
    )),
    *(f'address = "{ip}"' for ip in (
        "200a::1", "21DA:D3:0:2F3B:2AA:FF:FE28:9C5A", "3ffe:2a00:100:7031::1", "2010:836b:4179::836b:4179", "2602::2",
        "2001:cdba:0000:0000:0000:0000:3257:9652", "172.168.1.1", "142.42.1.1",
        "192.0.3.112", "192.0.15.254", "208.50.66.255", "192.88.99.4",
    )),
    'person.date_of_birth = "2020-01-01" and date of birth: 01/01/1970',
    "social security number 333-22-4444",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), TOKENS, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(TOKENS)])
@pytest.mark.parametrize(("before", "after"), [('value = "', '"\n'), ("Δ see ", " – ü\n"), ("key: ", "")])
def test_each_kind_is_replaced_and_the_bytes_around_it_stay(kind, value, before, after):
    before = "card " + before if kind == "credit-card" else before
    assert SCRUBBER(before + value + after) == (before + placeholder(kind) + after, {kind: 1})


@pytest.mark.parametrize(("kind", "before", "value", "after"), IN_CONTEXT)
def test_values_are_found_by_the_words_around_them(kind, before, value, after):
    text = f"é\n{before}{value}{after}\n"
    assert SCRUBBER(text) == (f"é\n{before}{placeholder(kind)}{after}\n", {kind: 1})


def test_every_kind_has_an_example():
    shown = {kind for kind, *_ in [*TOKENS, *IN_CONTEXT]}
    assert shown == {rule.kind for rule in SECRETS + PERSONAL + HEALTH}


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_is_nobodys_data_stays(text):
    scrubbed, counts = SCRUBBER(text)
    assert counts == {}
    assert scrubbed is text


# (language, before, after, kinds): how a placeholder is written in code, and that what is none in a language stays.
IN_CODE = [
    ("Python", "phone = 4155552671  # or +49 30 901820", 'phone = "<PHONE_NUMBER>"  # or <PHONE_NUMBER>', 2),
    ("Python", "y = weights@model.it\nz = f'{y}: ann@ibidem.org'", "y = weights@model.it\nz = f'{y}: <EMAIL>'", 1),
    ("Python", 'r = """ann@ibidem.org"""; s = \'"\'; x = a@b.it', 'r = """<EMAIL>"""; s = \'"\'; x = a@b.it', 1),
    ("Python", "# 93.184.41.34 - GET /\n@x.y\ndef f(): ...", "# <IP_ADDRESS> - GET /\n@x.y\ndef f(): ...", 1),
    ("JavaScript", "const a = {phone: 4155552671}", 'const a = {phone: "<PHONE_NUMBER>"}', 1),
    (
        "JavaScript",
        "a = `${f('ann@ibidem.org', `${{b}}`)} 93.184.41.34`",
        "a = `${f('<EMAIL>', `${{b}}`)} <IP_ADDRESS>`",
        2,
    ),
    ("JavaScript", "x = /[\"'`]/.test(s); phone = 4155552671", 'x = /["\'`]/.test(s); phone = "<PHONE_NUMBER>"', 1),
    ("TSX", "f = () => <p>Write to ann@ibidem.org</p>", 'f = () => <p>Write to {"<EMAIL>"}</p>', 1),
    ("JSON", '{"phone": 4155552671, "to": "ann@ibidem.org"}', '{"phone": "<PHONE_NUMBER>", "to": "<EMAIL>"}', 2),
    ("JSON", '{"to": "a \\u00e9ann@ibidem.org\\nb@ibidem.org"}', '{"to": "a \\u00e9<EMAIL>\\n<EMAIL>"}', 2),
    ("TOML", "phone = 4155552671 # ann@ibidem.org", 'phone = "<PHONE_NUMBER>" # <EMAIL>', 2),
    ("YAML", "phone: 4155552671\nto: [ann@ibidem.org]", "phone: <PHONE_NUMBER>\nto: [<EMAIL>]", 2),
    ("Shell", "ping -c 1 93.184.41.34\n", 'ping -c 1 "<IP_ADDRESS>"\n', 1),
    ("Shell", "mail ann@ibidem.org; echo 'b@ibidem.org'", "mail \"<EMAIL>\"; echo '<EMAIL>'", 2),
    ("Shell", 'a="$(ping 93.184.41.34)" # ann@ibidem.org', 'a="$(ping "<IP_ADDRESS>")" # <EMAIL>', 2),
    ("Shell", "cat <<EOF\nann@ibidem.org\nEOF\nmail c@ibidem.org", 'cat <<EOF\n<EMAIL>\nEOF\nmail "<EMAIL>"', 2),
    (
        "Shell",
        "cat <<EOF | mail a@ibidem.org; m 'a b' \\\n b@ibidem.org # c\nit's c@ibidem.org\n EOF\nEOF\nm d@ibidem.org",
        'cat <<EOF | mail "<EMAIL>"; m \'a b\' \\\n "<EMAIL>" # c\nit\'s <EMAIL>\n EOF\nEOF\nm "<EMAIL>"',
        4,
    ),
    (
        "Shell",
        'f <<-\'A\' <<"B-1" 93.184.41.34\n\t93.184.41.35\n\tA\n93.184.41.36\nB-1\ng <<< "$x" 93.184.41.37',
        'f <<-\'A\' <<"B-1" "<IP_ADDRESS>"\n\t<IP_ADDRESS>\n\tA\n<IP_ADDRESS>\nB-1\ng <<< "$x" "<IP_ADDRESS>"',
        4,
    ),
    (
        "Shell",
        'a="$(f 93.184.41.34 <<\\EOF\n"93.184.41.35\nEOF\n)"; ping 93.184.41.36',
        'a="$(f "<IP_ADDRESS>" <<\\EOF\n"<IP_ADDRESS>\nEOF\n)"; ping "<IP_ADDRESS>"',
        3,
    ),
    (
        "Makefile",
        '# ann@ibidem.org\nTO = \\\n\tann@ibidem.org\nall:\n\tmail -s "a@ibidem.org $(TO)" \\\n\t  b@ibidem.org < log',
        '# <EMAIL>\nTO = \\\n\t<EMAIL>\nall:\n\tmail -s "<EMAIL> $(TO)" \\\n\t  "<EMAIL>" < log',
        4,
    ),
    (
        "Makefile",
        "ifdef X\n\tIP = 93.184.41.34\nendif\nY := $(shell true 93.184.41.34) 93.184.41.34\nall:",
        'ifdef X\n\tIP = <IP_ADDRESS>\nendif\nY := $(shell true "<IP_ADDRESS>") <IP_ADDRESS>\nall:',
        3,
    ),
    ("Shell", "x=$((1<<n)); ping 93.184.41.34", 'x=$((1<<n)); ping "<IP_ADDRESS>"', 1),
    ("Shell", "curl https://bob:x8Kq2vTz@ibidem.org/", 'curl https://bob:"<KEY:basic-auth>"@ibidem.org/', 1),
    ("Shell", "DB_PASSWORD=walrus2shore make", 'DB_PASSWORD="<KEY:simple-password>" make', 1),
    ("Python", "password = pw2secret\n", "password = pw2secret\n", 0),
    ("TypeScript", "f({\n  password: pw2secret\n})", "f({\n  password: pw2secret\n})", 0),
    ("Python", "f(password='x8Kq2vTz')", "f(password='<KEY:simple-password>')", 1),
    ("Go", "c.Phone = 4155552671", 'c.Phone = "<PHONE_NUMBER>"', 1),
    ("Python", 'f"card {4539578763621486} of {server}"', "f\"card {'<CREDIT_CARD>'} of {server}\"", 1),
    ("Python", "Rf'card {4539578763621486!r:>{4}} card'", "Rf'card {\"<CREDIT_CARD>\"!r:>{4}} card'", 1),
    ("Python", "fr'card \\{4539578763621486:>20}'", "fr'card \\{\"<CREDIT_CARD>\":>20}'", 1),
    ("Python", "f'card {{4539578763621486}}'", "f'card {{<CREDIT_CARD>}}'", 1),
    ("Python", "f'card {{{4539578763621486}}}'", "f'card {{{\"<CREDIT_CARD>\"}}}'", 1),
    ("Python", "f'\\N{EM DASH} card {4539578763621486}'", "f'\\N{EM DASH} card {\"<CREDIT_CARD>\"}'", 1),
    ("Python", "f'card {x:{4539578763621486}}'", "f'card {x:{\"<CREDIT_CARD>\"}}'", 1),
    (
        "Python",
        "f'{ {1: [2]}[1][0:1] } card {4539578763621486}'",
        "f'{ {1: [2]}[1][0:1] } card {\"<CREDIT_CARD>\"}'",
        1,
    ),
    ("Python", "f'''\n\"{x}' card {4539578763621486}'''", "f'''\n\"{x}' card {\"<CREDIT_CARD>\"}'''", 1),
    ("Python", 'f"""card {4539578763621486}"""', 'f"""card {\'<CREDIT_CARD>\'}"""', 1),
    ("Python", "f'{f\"card {4539578763621486}\"}'", "f'{f\"card {4539578763621486}\"}'", 0),
    ("Python", 'f"""{f\'card {4539578763621486}\'}"""', 'f"""{f\'card {"<CREDIT_CARD>"}\'}"""', 1),
    (
        "Python",
        "f'{d[\"card 4539578763621486\"]}'; card = 4539578763621486",
        'f\'{d["card <CREDIT_CARD>"]}\'; card = "<CREDIT_CARD>"',
        2,
    ),
    ("Python", "f'{a@b.it} ann@ibidem.org'", "f'{a@b.it} <EMAIL>'", 1),
]


def parses(language: str, text: str) -> bool:
    try:
        if language == "Python":
            ast.parse(text)
        elif language in {"JSON", "TOML", "YAML"}:
            {"JSON": json.loads, "TOML": tomllib.loads, "YAML": yaml.safe_load}[language](text)
    except (ValueError, SyntaxError, yaml.YAMLError):
        return False
    command = {"Shell": ["bash", "-n"], "Makefile": ["make", "-nf-"]}.get(language)
    return not command or subprocess.run(command, input=text.encode(), check=False).returncode == 0


@pytest.mark.parametrize(("language", "text", "scrubbed", "number"), IN_CODE)
def test_a_file_that_parses_still_does(language, text, scrubbed, number):
    found, counts = SCRUBBER(text, language)
    assert (found, sum(counts.values())) == (scrubbed, number)
    assert parses(language, text)
    assert parses(language, found)
    assert SCRUBBER(found, language) == (found, {})


def test_a_number_beside_code_is_found_where_it_is_a_phone_number():
    for text in (
        "tel:033316005;isub=1",
        'contact("030 901820")',
        "Phone number: 4155552671",
        "<phone>4155552671</phone>",
        "Tel: 01 45 55 12 12",  # 555 means nothing in France
    ):
        assert SCRUBBER(text)[1] == {"phone-number": 1}, text
    assert SCRUBBER("call +49 30 901820, 030 901821")[1] == {"phone-number": 2}
    assert SCRUBBER("<PHONE_NUMBER>&4294967295")[1] == {}


def test_putty_and_ssh2_keys_are_replaced_as_a_block():
    lines = "\n".join(scramble(ALNUM + "+/", 64, seed) for seed in range(4))
    putty = (
        f"PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nPrivate-Lines: 4\n{lines}\nPrivate-MAC: {scramble(HEX, 40)}"
    )
    ssh2 = f"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n{lines}\n---- END SSH2 ENCRYPTED PRIVATE KEY ----"
    for block in (putty, ssh2):
        assert SCRUBBER(f"a\n{block}\nb\n") == ("a\n<KEY:private-key>\nb\n", {"key.private-key": 1})


def test_a_key_block_without_its_end_is_replaced_as_far_as_it_goes():
    block = pem("PRIV" + "ATE KEY").rpartition("\n")[0]
    assert SCRUBBER(block + "\nthe end\n")[0] == "<KEY:private-key>\nthe end\n"


def test_of_overlapping_finds_the_longest_wins():
    key = pem("PGP PRIV" + "ATE KEY BLOCK").replace("-----\n", "-----\nComment: ann@ibidem.org\n\n", 1)
    assert SCRUBBER(key) == ("<KEY:private-key>", {"key.private-key": 1})


def test_a_key_beside_a_table_of_base64_is_found_and_the_table_stays():
    table = "".join(random.Random(3).sample(ALNUM + "+/", 64))
    key = scramble(ALNUM, 40)
    text = f'TABLE_KEY = "{table}"\nAPI_KEY = "{key}"\n'
    assert SCRUBBER(text) == (text.replace(key, "<KEY:password>"), {"key.password": 1})


def test_the_specific_kind_wins_over_the_general_one():
    token = TOKENS[4][1]
    assert SCRUBBER(f'api_token = "{token}"')[1] == {"key.github": 1}


def test_several_finds_are_counted_by_kind():
    text, counts = SCRUBBER("a@ibidem.org, b@ibidem.org: 93.184.41.34\n")
    assert text == "<EMAIL>, <EMAIL>: <IP_ADDRESS>\n"
    assert counts == {"email": 2, "ip-address": 1}


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ('536-90-4399")-536-90-4399<', '<US_SSN>")-<US_SSN><'),
        ("020 7925 0918,93.184.41.34;", "<PHONE_NUMBER>,<IP_ADDRESS>;"),
        ("(212) 736-5000(020 7925 0918", "<PHONE_NUMBER><PHONE_NUMBER>"),
    ],
)
def test_what_only_a_replacement_lays_bare_is_replaced_too(text, scrubbed):
    found, counts = SCRUBBER(text)
    assert found == scrubbed
    assert sum(counts.values()) == 2


def test_escapes_in_front_of_an_email_stay():
    assert SCRUBBER(r'"To:\nann@ibidem.org"')[0] == r'"To:\n<EMAIL>"'


def test_a_policy_leaves_the_other_half_alone():
    text = f"ann@ibidem.org {TOKENS[0][1]}"
    assert set(Scrubber(ScrubPolicy(personal=False, health=False))(text)[1]) == {"key.aws-access-key"}
    assert set(Scrubber(ScrubPolicy(secrets=False))(text)[1]) == {"email"}
    assert Scrubber(ScrubPolicy(personal=False, secrets=False, health=False))(text) == (text, {})


def test_a_test_is_dropped_for_its_keys_and_not_for_the_passwords_that_it_makes_up():
    step = scrub(Policies())
    assert step is not None
    reasons = []
    for text in ("f(password='x8Kq2vTz')\n", f"f('{TOKENS[0][1]}')\n"):
        document = Document(raw=text.encode(), source="s", revision=None, record="1", path="tests/test_f.py")
        drop = step(document)
        reasons.append((drop and str(drop.reason), document.scrubbed))
    assert reasons == [(None, {"key.simple-password": 1}), ("secret.test", {"key.aws-access-key": 1})]


def test_secret_kinds_are_the_secrets():
    assert {rule.kind for rule in SECRETS} == SECRET_KINDS
    assert not SECRET_KINDS & {rule.kind for rule in PERSONAL}


def test_lone_surrogates_and_nul_pass():
    assert SCRUBBER("\ud800 ann@ibidem.org \0")[0] == "\ud800 <EMAIL> \0"


PIECES = st.one_of(
    st.sampled_from([value for _, value in TOKENS]),
    st.sampled_from([before + value + after for _, before, value, after in IN_CONTEXT]),
    st.sampled_from([placeholder(rule.kind) for rule in SECRETS + PERSONAL + HEALTH]),
    st.sampled_from(UNTOUCHED),
    st.sampled_from([*'.,:;-_@/+"<>( )\\', "://", "\n", "version = ", "key=", "token", "phone "]),
    st.text(max_size=5),
)


@given(
    st.lists(PIECES, max_size=8),
    st.sampled_from([None, "Python", "TypeScript", "Shell", "Makefile", "JSON", "TOML", "C"]),
)
def test_scrubbing_its_own_output_changes_nothing(pieces, language):
    text = "".join(pieces)
    once, counts = SCRUBBER(text, language)
    assert SCRUBBER(once, language) == (once, {})
    assert SCRUBBER(text, language) == (once, counts)
    assert (once is text) == (not counts)


def test_a_hostile_run_of_anchors_is_finished():
    for piece in (
        "a@",
        "eyJabcdefgh-",
        "://a:b",
        "-----BEGIN PRIVATE KEY-----",
        "0000 ",
        "+1(2) ",
        "fe80:2001:",
        "x@y.",
        "password='a1",
        "passpass=a1b2c3",
        "x at y dot ",
        "<a at b.c",
        "a-at-b.",
        "ann@ibidem.org <<a\n",
        "ann@ibidem.org <<a\na\n",
        "f'{ann@ibidem.org:",
        "\t$(shell ann@ibidem.org ",
    ):
        text = piece * (200_000 // len(piece))
        assert SCRUBBER(text, "Python")[1].keys() <= {"ip-address", "email", "key.simple-password"}
        assert SCRUBBER(text, "Makefile")[1].keys() <= {"ip-address", "email", "key.simple-password"}
        assert SCRUBBER(text, "Shell")[1].keys() <= {"ip-address", "email", "key.simple-password"}


def test_real_code_keeps_what_is_not_replaced():
    shards = sorted(CORPUS.glob("*.parquet"))
    if not shards:
        pytest.skip("shared/data/corpus is not there")
    texts = pq.read_table(shards[0], columns=["text"])["text"].to_pylist()[:1000]
    changed = 0
    for text in texts:
        scrubbed, counts = SCRUBBER(text)
        if counts:
            changed += 1
            assert sum(scrubbed.count(placeholder(kind)) - text.count(placeholder(kind)) for kind in counts) == sum(
                counts.values()
            )
            assert SCRUBBER(scrubbed) == (scrubbed, {})
    assert 10 < changed < 300
