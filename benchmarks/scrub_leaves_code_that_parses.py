r"""Files that parse before they are scrubbed and not after, and recall of what hides: addresses and short passwords.

Real: every file of the packages of `filters_on_packages.py` in Python, JavaScript, TypeScript, JSON, YAML, TOML and
shell; those that scrubbing changes are parsed before and after. Planted: the values of
`scrub_against_detect_secrets_and_presidio.py` at places where values stand in each language, code included; what does
not parse with its value is left out. Parsers: ast, json, tomllib, PyYAML and `bash -n`; tree-sitter for JavaScript and
TypeScript, in the interpreter that PEERS_PYTHON names (tree-sitter, tree-sitter-javascript, tree-sitter-typescript).

    PEERS_PYTHON=peers/bin/python python benchmarks/scrub_leaves_code_that_parses.py FOLDER [RESULT.json]
"""

import ast
import json
import os
import platform
import random
import subprocess
import sys
import tarfile
import tomllib
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFAULT_RESULT = Path("benchmarks/results/scrub_leaves_code_that_parses.json")
MOST_BYTES = 1_000_000
LANGUAGES = ("Python", "JavaScript", "TypeScript", "JSON", "YAML", "TOML", "Shell")
PLACES = {
    "Python": (
        'x = "{}"\n', "x = '''\n{}\n'''\n", "# {}\nx = 1\n", 'log(f"at {} of {n}")\n', 'def f():\n    """Ask {}."""\n',
        'to = {"a": ["{}", None]}\n', "f('{}', b'{}')\n",
    ),
    "JavaScript": (
        "const x = '{}';\n", "f(`at {} of ${n}`);\n", "// {}\nf();\n", "/* {} */ f();\n", 'const x = {a: "{}"};\n',
        "const x = `${g(`{}`)} {}`;\n", "f(<p>{}</p>);\n",
    ),
    "TypeScript": (
        'const x: string = "{}";\n', "type A = '{}' | 'b';\n", "interface A { /** {} */ b: string }\n",
        "f<string>(`${g('{}')}`);\n",
    ),
    "JSON": ('{"a": "{}"}', '["{}", 1]', '{"a": "line\\n{}\\nline"}', '{"a": {"{}": null}}'),
    "YAML": (
        "a: {}\n", "a: '{}'\n", 'a: ["{}", 1]\n', "- {}\n- b\n", "a: |\n  {}\nb: 1\n", "# {}\na: 1\n", "a: {}  # b\n",
    ),
    "TOML": ('a = "{}"\n', "a = '{}'\n", "# {}\na = 1\n", 'a = ["{}"]\n', 'a = """\n{}\n"""\n'),
    "Shell": (
        "f {}\n", "f '{}'\n", 'f "{}"\n', "X={}\nf\n", "# {}\nf\n", 'x="$(f {})"\n', "cat <<EOF\n{}\nEOF\nf\n",
        "if f {}; then g; fi\n", "f {} | g > out\n", "case $x in {}) f;; esac\n", "f a={} b\n",
    ),
}  # fmt: skip
NUMBERS = {
    "Python": "phone = {}\n", "JavaScript": "const a = {phone: {}};\n", "TypeScript": "const a = {phone: {}};\n",
    "JSON": '{"phone": {}}', "YAML": "phone: {}\n", "TOML": "phone = {}\n", "Shell": "phone={}\n",
}  # fmt: skip
ADDRESSES = (
    "{a} at {b} dot org", "{a} [at] {b} [dot] org", "{a}(at){b}(dot)org", "{a} AT {b} DOT org", "<{a} at {b}.org>",
    "{a} [ at ] {b} [ dot ] org", "{a}_at_{b}_dot_org", "{a} -at- {b} -dot- org", "{a}<at>{b}.org", "{a}&#64;{b}.org",
    "{a}[at]{b}[punkt]de", "{a} AT {b}.org",
)  # fmt: skip
ASSIGNED = (
    "DB_PASSWORD={}\n", "export FTP_PASS={}\n", 'password: "{}"\n', "db:\n  password: {}\n", "[db]\npassword = {}\n",
    "db.password={}\n", '"password": "{}",\n', "- MYSQL_PASSWORD={}\n", "run -e MYSQL_PASSWORD={} mysql\n",
    '"Server=db;Password={};"\n', "connect(passwd='{}')\n", "postgres://app:{}@db.ibidem.org/app\n",
    "redis://:{}@cache.ibidem.org\n",
)  # fmt: skip
NO_PASSWORDS = (
    "", "changeme", "${DB_PASSWORD}", "$PASSWORD", "<your password>", "your_password", "password", "password123",
    "secret", "test1234", "xxxxxxxx", "********", "{{ password }}", "%(password)s",
    "os.environ['PW1']", "getpass()", "string",
    "args.password1", "Passw0rd!", "example1",
)  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--parse"]:
        print(json.dumps(script_errors(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))))
        return
    path = Path(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_RESULT
    result = {
        "command": f"PEERS_PYTHON=peers/bin/python python benchmarks/{Path(__file__).name} FOLDER",
        "machine": platform.machine(),
        "real": compare(real(Path(sys.argv[1])), path.with_suffix(".scripts")),
        "planted": compare(planted(), path.with_suffix(".scripts")),
        "hidden": hidden(),
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


Item = tuple[str, str, str]
"""Name, language, text."""


def real(folder: Path) -> Iterator[Item]:
    from filters_on_packages import LABELS, fetch

    from ibidem.data.text import language

    packages = sorted({json.loads(line)["package"] for line in LABELS.read_text(encoding="utf-8").splitlines()})
    for package in packages:
        for name, data in members(fetch(package, folder)):
            kind = language.by_name(name)
            if kind in LANGUAGES and len(data) <= MOST_BYTES:
                try:
                    yield f"{package} {name}", str(kind), data.decode()
                except UnicodeDecodeError:
                    continue


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist())
        return
    with tarfile.open(archive) as tar:
        for item in tar:
            if item.isfile() and (file := tar.extractfile(item)):
                yield item.name, file.read()


def planted() -> Iterator[Item]:
    """Yield each value at each place; numbers without signs stand bare."""
    import scrub_against_detect_secrets_and_presidio as other

    rng = random.Random(0)
    values = [row["value"] for row in (*other.secrets(), *other.personal()) if row["value"]]
    for language, places in PLACES.items():
        for value in rng.sample(values, 150):
            yield from (("planted", language, place.replace("{}", value)) for place in places)
        for _ in range(50):
            number = other.phone(("US",), "E164")(rng).removeprefix("+1")
            yield "planted", language, NUMBERS[language].replace("{}", number)


def compare(items: Iterator[Item], scripts: Path) -> dict[str, Any]:
    """Scrub all, and parse what is changed before and after."""
    from ibidem.data.scrub.scrubber import Scrubber, ScrubPolicy

    scrub = Scrubber(ScrubPolicy())
    files: Counter[str] = Counter()
    placeholders: Counter[str] = Counter()
    changed: list[tuple[str, str, str, str]] = []
    for name, language, text in items:
        files[language] += 1
        scrubbed, counts = scrub(text, language)
        placeholders.update(counts)
        if counts:
            changed.append((name, language, text, scrubbed))
    before = parsed([(language, text) for _, language, text, _ in changed], scripts)
    after = parsed([(language, text) for _, language, _, text in changed], scripts)
    broken = [item for item, was, is_still in zip(changed, before, after, strict=True) if was and not is_still]
    return {
        "files": dict(files),
        "changed": dict(Counter(language for _, language, _, _ in changed)),
        "parsed_before": dict(Counter(item[1] for item, was in zip(changed, before, strict=True) if was)),
        "broken": len(broken),
        "broken_ones": [f"{name} ({language})" if len(text) > 200 else text for name, language, text, _ in broken[:20]],
        "placeholders": dict(placeholders.most_common()),
    }


def parsed(texts: list[tuple[str, str]], scripts: Path) -> list[bool]:
    own = {place: parses(*item) for place, item in enumerate(texts) if item[0] not in {"JavaScript", "TypeScript"}}
    rest = [place for place in range(len(texts)) if place not in own]
    scripts.write_text(json.dumps([texts[place] for place in rest]), encoding="utf-8")
    command = [os.environ.get("PEERS_PYTHON", sys.executable), __file__, "--parse", str(scripts)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    scripts.unlink()
    own |= {place: not error for place, error in zip(rest, json.loads(done.stdout), strict=True)}
    return [own[place] for place in range(len(texts))]


def parses(language: str, text: str) -> bool:
    import yaml

    if language == "Shell":
        return subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True, check=False).returncode == 0
    read = {"JSON": json.loads, "TOML": tomllib.loads, "Python": ast.parse, "YAML": yaml.compose}[language]
    try:
        with warnings.catch_warnings(action="ignore"):
            read(text)
    except (ValueError, SyntaxError, RecursionError, yaml.YAMLError):
        return False
    return True


def script_errors(texts: list[tuple[str, str]]) -> list[bool]:
    """Check scripts for errors, with tree-sitter; TypeScript with and without JSX."""
    import tree_sitter
    import tree_sitter_javascript
    import tree_sitter_typescript

    grammars = {
        "JavaScript": [tree_sitter_javascript.language()],
        "TypeScript": [tree_sitter_typescript.language_typescript(), tree_sitter_typescript.language_tsx()],
    }
    parsers = {
        name: [tree_sitter.Parser(tree_sitter.Language(each)) for each in found] for name, found in grammars.items()
    }
    return [
        all(parser.parse(text.encode()).root_node.has_error for parser in parsers[language]) for language, text in texts
    ]


def hidden() -> dict[str, Any]:
    """Measure the recall of disguised addresses and of passwords of 8 to 15 characters, and alarms for none."""
    from scrub_against_detect_secrets_and_presidio import ALNUM, LOWER, pick

    from ibidem.data.scrub.scrubber import Scrubber, ScrubPolicy

    scrub, rng = Scrubber(ScrubPolicy()), random.Random(0)
    addresses = [f.format(a=pick(rng, LOWER, 5), b=pick(rng, LOWER, 7)) for f in ADDRESSES for _ in range(25)]
    words = [pick(rng, LOWER, rng.randint(5, 9)) + str(rng.randint(10, 999)) for _ in range(20)]
    words += [pick(rng, ALNUM, rng.randint(8, 15)) for _ in range(20)]
    passwords = [(form.replace("{}", word), word) for form in ASSIGNED for word in words]
    nothing = [form.replace("{}", word) for form in ASSIGNED for word in NO_PASSWORDS]
    alarms = [text for text in nothing if scrub(text)[1]]
    return {
        "addresses": len(addresses),
        "addresses_recall": sum(scrub(f"# by {text}, who")[1] == {"email": 1} for text in addresses) / len(addresses),
        "passwords": len(passwords),
        "passwords_recall": sum(word not in scrub(text)[0] for text, word in passwords) / len(passwords),
        "no_passwords": len(nothing),
        "alarms": len(alarms) / len(nothing),
        "alarm_ones": alarms[:20],
    }


if __name__ == "__main__":
    main()
