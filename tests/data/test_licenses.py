import json
import random
import re
import sysconfig
from collections import Counter
from email import message_from_string
from email.message import Message
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from license_expression import get_spdx_licensing

from ibidem import config
from ibidem.data.licenses import spdx
from ibidem.data.licenses.dep5 import licenses_of
from ibidem.data.licenses.headers import header_license
from ibidem.data.licenses.policy import LicensePolicy, judge_license
from ibidem.data.licenses.spdx import GNU_FAMILIES, is_denied, normalize, package_license
from ibidem.data.preprocess import PreprocessConfig
from ibidem.errors import ConfigError, LicenseError

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "corpus"
POLICY = LicensePolicy()

RAW_FORMS = {
    "mit": "MIT",
    "MIT OR GPL-2.0-only": "MIT OR GPL-2.0-only",
    "GPL-2.0+": "GPL-2.0-or-later",
    "LGPL-3.0": "LGPL-3.0-only",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: GNU Library or Lesser General Public License (LGPL)": "LGPL-2.0-or-later",
    "License :: OSI Approved :: University of Illinois/NCSA Open Source License": "NCSA",
    "License :: OSI Approved :: Common Development and Distribution License 1.0 (CDDL-1.0)": "CDDL-1.0",
    "License :: OSI Approved :: BSD License | License :: OSI Approved :: MIT License": "BSD-3-Clause AND MIT",
    "License :: Other/Proprietary License": None,
    "BSD": "BSD-3-Clause",
    "new BSD License": "BSD-3-Clause",
    "3-clause BSD": "BSD-3-Clause",
    'BSD 3-Clause "New" or "Revised" License': "BSD-3-Clause",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "http://www.apache.org/licenses/LICENSE-2.0": "Apache-2.0",
    "MIT/X11": "MIT",
    "PSF": "PSF-2.0",
    "Public Domain": "LicenseRef-scancode-public-domain",
    "LGPLv3+": "LGPL-3.0-or-later",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GPL (>= 2)": "GPL-2.0-or-later",
    "GNU AFFERO GPL 3.0": "AGPL-3.0-only",
    "Dual License": None,
    "ZPL 2.1": "ZPL-2.1",
    "MPL 2.0": "MPL-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "WTFPL": "WTFPL",
    "BSD-3-Clause and Apache-2.0": "BSD-3-Clause AND Apache-2.0",
    "MIT, Apache-2.0": "MIT AND Apache-2.0",
    "MPL 1.1/GPL 2.0/LGPL 2.1": "MPL-1.1 OR GPL-2.0-only OR LGPL-2.1-only",
    "(MIT OR Apache-2.0)": "MIT OR Apache-2.0",
    "SEE LICENSE IN LICENSE.txt": None,
    "UNLICENSED": None,
    "GPL-2+": "GPL-2.0-or-later",
    "Expat": "MIT",
    "Artistic or GPL-1+": "Artistic-1.0 OR GPL-1.0-or-later",
    "GPL-2 with Linux-syscall-note exception": "GPL-2.0-only WITH Linux-syscall-note",
    "GPL-2+ with OpenSSL exception": "GPL-2.0-or-later",
    "MIT with a twist": None,
    "MIT and Android terms": None,
    "MIT (GPL for plugins)": "GPL-1.0-or-later",
    "BSD-like": None,
    "GPL-compatible": None,
    "not GPL": None,
    "LicenseRef-scancode-proprietary-license": None,
    "NOASSERTION": None,
}

LESSER_GRANT = """
This library is free software; you can redistribute it and/or
modify it under the terms of the GNU Lesser General Public
License as published by the Free Software Foundation; either
version 2.1 of the License, or (at your option) any later version.
""".strip().splitlines()

MERE_MENTIONS = [
    "/* This file is provided under a dual BSD/GPLv2 license. */",
    '"""Names of licenses.\n\nThe table knows MIT, GPL, LGPL, AGPL and Apache-2.0.\n"""\n',
    "# The PSF license is GPL-compatible.\n",
    "# Not GPL: this file is in the public domain.\n",
    "# Supported licenses: MIT, GPL, BSD\n# GPL\n# LGPL\n",
    "# GNU readline is an alternative; we avoid it because of the GPL.\n",
    'KNOWN = {"gpl-3.0": "GNU General Public License v3.0 (see https://www.gnu.org/licenses/)"}\n',
    'import re\n\n\ndef is_gpl(text):\n    # released under the GPL?\n    return "GPL" in text\n',
    'TAG = "SPDX-License-Identifier: GPL-2.0-only"\n',
    "def f():\n    return 1\n\n\n# This file is licensed under the GPL\n",
    "// We are released to the general public under the terms of the MIT license.\n",
]

OTHER_CHOICES = {
    "/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */": "MIT",
    "/* Dual licensed under the MIT and GPL licenses. */": "MIT",
}


@pytest.mark.parametrize("raw", RAW_FORMS)
def test_every_raw_form_becomes_one_expression_or_none(raw):
    assert normalize(raw) == RAW_FORMS[raw]


def test_prefixes_of_package_systems_do_not_count():
    assert normalize("DEP-5 License: ISC ; BSD-2-clause or ISC ; Expat") == "ISC AND (BSD-2-Clause OR ISC) AND MIT"
    assert normalize("License-Expression: PSF-2.0") == "PSF-2.0"
    assert normalize("license: MIT") == "MIT"


@pytest.mark.parametrize(
    ("raw", "expression"),
    [
        (["MIT", "Apache-2.0"], "MIT AND Apache-2.0"),
        (np.array(["MIT", "GPL-3.0"], dtype=object), "MIT AND GPL-3.0-only"),
        ('["MIT", "MIT"]', "MIT"),
        ({"type": "MIT", "url": "https://example.org"}, "MIT"),
        ([{"type": "MIT"}, {"type": "GPL-2.0"}], "MIT AND GPL-2.0-only"),
        (["MIT", None, ""], "MIT"),
        (["MIT", "something odd"], None),
    ],
)
def test_all_licenses_of_a_list_apply(raw, expression):
    assert normalize(raw) == expression


@pytest.mark.parametrize("raw", [None, "", "  ", float("nan"), np.float64("nan"), [], np.array([]), [None], "null"])
def test_a_missing_license_is_missing_and_not_unknown(raw):
    assert normalize(raw) is None
    assert judge_license(raw, "", POLICY, stated=True).reason == "license.missing"


def test_unknown_parts_cannot_hide_a_gnu_license():
    expression = normalize("GPL and something-odd")
    assert expression is not None
    assert is_denied(expression, GNU_FAMILIES)
    assert normalize("GPL or something-odd") is None
    assert judge_license("GPL and odd", "", LicensePolicy(denied=()), stated=True).reason == "license.unknown"


def test_full_texts_are_recognized():
    bsd = "Redistribution and use in source and binary forms, with or without modification, are permitted " + "." * 90
    assert (
        normalize("Permission is hereby granted, free of charge, to any person\nobtaining a copy " + "x" * 99) == "MIT"
    )
    assert normalize(bsd + " Neither the name of the author ... THIS SOFTWARE IS PROVIDED") == "BSD-3-Clause"
    assert normalize(bsd + " THIS SOFTWARE IS PROVIDED BY") == "BSD-2-Clause"
    assert normalize("GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n" + "x" * 150) == "GPL-3.0-only"
    assert normalize("Foo. " + " ".join(LESSER_GRANT)) == "LGPL-2.1-or-later"


def test_every_alias_leads_to_its_own_spdx_id():
    symbols = get_spdx_licensing().known_symbols
    for expression, names in spdx.ALIASES.items():
        assert expression in symbols
        assert [normalize(name) for name in names.split(" | ")] == [expression] * len(names.split(" | "))


def test_every_spdx_id_stays_itself():
    for symbol in get_spdx_licensing().known_symbols.values():
        if not symbol.is_exception and not symbol.key.startswith("LicenseRef"):
            assert normalize(symbol.key.lower()) == symbol.key


def test_denial_agrees_with_a_truth_table():
    """An oracle: an expression is denied when no choice of OR branches is free of denied licenses."""
    generator = random.Random(1)
    leaves = {"MIT": [False], "ISC": [False], "GPL-2.0-only": [True], "LGPL-2.1-only": [True], "MPL-2.0": [False]}

    def build(depth):
        if depth == 0 or generator.random() < 0.2:
            name = generator.choice(sorted(leaves))
            return name, leaves[name]
        (left, lefts), (right, rights) = build(depth - 1), build(depth - 1)
        if generator.random() < 0.5:
            return f"({left} OR {right})", lefts + rights
        return f"({left} AND {right})", [a or b for a, b in product(lefts, rights)]

    for _ in range(300):
        expression, choices = build(3)
        assert is_denied(expression, GNU_FAMILIES) == all(choices)


def test_exceptions_and_scancode_references_follow_their_family():
    assert is_denied("GPL-3.0-only WITH GCC-exception-3.1", GNU_FAMILIES)
    assert is_denied("LicenseRef-scancode-dual-commercial-gpl", GNU_FAMILIES)
    assert not is_denied("CNRI-Python-GPL-Compatible", GNU_FAMILIES)
    assert not is_denied("GPL-2.0-only", ["MPL"])
    with pytest.raises(LicenseError, match="not an SPDX expression"):
        is_denied("MIT AND ((", GNU_FAMILIES)


@pytest.mark.parametrize("leader", ["# ", "// ", ";; ", "-- ", ".. ", "dnl ", "% ", "@ ", "! ", '.\\" ', "; * ", "#\t"])
def test_a_grant_is_found_behind_every_comment_sign(leader):
    found = header_license("\n".join(leader + line for line in ["Copyright someone", *LESSER_GRANT]) + "\ncode\n")
    assert found is not None
    assert found[0] == "LGPL-2.1-or-later"
    assert len(found[1]) <= 200


@pytest.mark.parametrize(
    ("opener", "middle", "closer"),
    [("/*", " * ", " */"), ("<!--", "", "-->"), ('"""', "", '"""'), ("r'''", "", "'''"), ("(*", " ", "*)")],
)
def test_a_grant_is_found_in_every_comment_block(opener, middle, closer):
    found = header_license("\n".join([opener, *(middle + line for line in LESSER_GRANT), closer, "code"]))
    assert found is not None
    assert found[0] == "LGPL-2.1-or-later"


@pytest.mark.parametrize(
    ("line", "expression"),
    [
        ("# SPDX-License-Identifier: LGPL-2.1+", "LGPL-2.1-or-later"),
        ("<!-- SPDX-License-Identifier: GPL-3.0-or-later -->", "GPL-3.0-or-later"),
        ("# License: LGPL", "LGPL-2.0-or-later"),
        (" * @license GPLv3", None),
        (
            "# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)",
            "GPL-3.0-or-later",
        ),
        ("# Licensed under the GNU LGPL v2.1 - https://www.gnu.org/licenses/lgpl-2.1.en.html", "LGPL-2.1-only"),
        ("// released under GPL", "GPL-1.0-or-later"),
        ("# This is licensed under version 2 or (at your option) any later version of the GNU AGPL.", None),
        ("# You should have received a copy of the GNU Affero General Public License", "AGPL-1.0-or-later"),
    ],
)
def test_one_line_headers_are_read(line, expression):
    found = header_license("#!/bin/sh\n" + line + "\n")
    assert found is not None
    assert is_denied(found[0], GNU_FAMILIES)
    assert expression is None or found[0] == expression


@pytest.mark.parametrize("text", MERE_MENTIONS)
def test_a_mere_mention_is_no_header(text):
    found = header_license(text)
    assert found is None or not is_denied(found[0], GNU_FAMILIES)


@pytest.mark.parametrize("text", OTHER_CHOICES)
def test_a_header_that_leaves_a_choice_is_not_denied(text):
    found = header_license(text)
    assert found is not None
    assert OTHER_CHOICES[text] in found[0]
    assert not is_denied(found[0], GNU_FAMILIES)


def test_a_permissive_tag_cannot_hide_a_grant():
    text = "# SPDX-License-Identifier: MIT\n" + "\n".join("# " + line for line in LESSER_GRANT)
    found = header_license(text)
    assert found is not None
    assert found[0] == "MIT AND LGPL-2.1-or-later"


def test_metadata_is_judged_before_the_header_and_the_header_before_all_else():
    header = "# SPDX-License-Identifier: GPL-3.0-only\n"
    assert judge_license("GPLv2", header, POLICY, stated=True)[:3:2] == ("GPL-2.0-only", "license.denied")
    for raw, stated in [("MIT", True), (None, True), ("odd", True), (None, False)]:
        verdict = judge_license(raw, header, POLICY, stated=stated)
        assert verdict[:3:2] == ("GPL-3.0-only", "license.header")
        assert verdict.detail == "SPDX-License-Identifier: GPL-3.0-only"
    assert judge_license("MIT", header, LicensePolicy(denied=()), stated=True).reason is None


def test_unstated_sources_follow_the_policy():
    assert judge_license(None, "text", POLICY, stated=False) == (None, None, None, None, None)
    assert judge_license(None, "text", LicensePolicy(unstated="drop"), stated=False).reason == "license.unstated"
    verdict = judge_license(["MIT", "ISC"], "", POLICY, stated=True)
    assert verdict == ("MIT AND ISC", json.dumps(["MIT", "ISC"]), None, None, "metadata")
    assert judge_license("odd", "", POLICY, stated=True).reason == "license.unknown"


def test_the_header_outweighs_the_metadata_both_ways():
    gnu, free = "# SPDX-License-Identifier: GPL-3.0-only\n", "# SPDX-License-Identifier: Apache-2.0\n"
    assert judge_license("MIT", gnu, POLICY, stated=True).reason == "license.header"
    for raw in ["GPL-2", "odd words", None, "DEP-5 License: GPL-2+ ; odd", "MIT"]:
        verdict = judge_license(raw, free, POLICY, stated=True)
        assert verdict[::2] == ("Apache-2.0", None, "header: SPDX-License-Identifier: Apache-2.0")
    mixed = "# SPDX-License-Identifier: MIT\n# parts of this file come from a GPL-2 program\n"
    assert judge_license("GPL-2", mixed, POLICY, stated=True).reason == "license.denied"
    assert judge_license("MIT", mixed, POLICY, stated=True).evidence == "metadata"


DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: thing

Files: *
Copyright: 2001 someone
License: GPL-2+

Files: lib/*.c
       doc/page?.txt
License: Expat
 Permission is hereby granted, free of charge, ...

Files: lib/third/*
License: BSD-3-clause
"""


@pytest.mark.parametrize(
    ("path", "expression", "evidence"),
    [
        ("main.c", "GPL-2.0-or-later", "dep-5: *"),
        ("lib/deep/a.c", "MIT", "dep-5: lib/*.c"),
        ("./doc/page1.txt", "MIT", "dep-5: doc/page?.txt"),
        ("doc/page10.txt", "GPL-2.0-or-later", "dep-5: *"),
        ("lib/third/a.c", "BSD-3-Clause", "dep-5: lib/third/*"),
        (None, "GPL-2.0-or-later AND MIT AND BSD-3-Clause", "metadata"),
    ],
)
def test_a_dep5_file_is_read_for_each_file_and_the_last_stanza_that_matches_counts(path, expression, evidence):
    verdict = judge_license(DEP5, "int x;", POLICY, stated=True, path=path)
    assert (verdict.expression, verdict.evidence) == (expression, evidence)
    assert (verdict.reason == "license.denied") == ("GPL" in expression)
    assert licenses_of(DEP5.replace("\n", "\r\n"), path) == licenses_of(DEP5, path)


@pytest.mark.parametrize("margin", ["        ", "         ", "        |", "\t"])
def test_a_dep5_text_in_the_metadata_of_a_package_is_read_despite_its_margin(margin):
    lines = DEP5.replace("Files: lib/third", "File: lib/third").splitlines()[3:]
    message = message_from_string("Name: thing\nLicense: " + f"\n{margin}".join(lines) + "\nVersion: 1\n")
    for raw in (package_license(message), f"License: {package_license(message)}"):
        verdicts = [judge_license(raw, "", POLICY, stated=True, path=path) for path in ("a", "lib/b.c", "lib/third/c")]
        assert [verdict.expression for verdict in verdicts] == ["GPL-2.0-or-later", "MIT", "BSD-3-Clause"]
        assert [verdict.reason for verdict in verdicts] == ["license.denied", None, None]


def test_a_license_text_in_the_metadata_of_a_package_is_read_despite_its_margin():
    text = "MIT License\n\nPermission is hereby granted, free\nof charge, to any person\nobtaining a copy" + " x" * 90
    message = message_from_string("License: " + text.replace("\n", "\n        |") + "\nVersion: 1\n")
    assert judge_license(package_license(message), "", POLICY, stated=True).expression == "MIT"


def test_an_exception_helps_only_where_the_policy_lists_it():
    text = (
        "/* This program is free software: you can redistribute it and/or modify it under the terms of the GNU\n"
        "   General Public License, either version 3 of the License, or (at your option) any later version.\n"
        "   As a special exception, you may create a larger work that contains part or all of the Bison parser\n"
        "   skeleton and distribute that work under terms of your choice. */\nint x;\n"
    )
    verdict = judge_license("MIT", text, POLICY, stated=True)
    assert verdict[:3:2] == ("GPL-3.0-or-later WITH Bison-exception-2.2", "license.header")
    assert (
        judge_license("MIT", text, LicensePolicy(allowed_exceptions=("bison-exception-2.2",)), stated=True).reason
        is None
    )
    assert judge_license("GPL-2 WITH Classpath-exception-2.0", "", POLICY, stated=True).reason == "license.denied"


def test_a_list_of_allowed_licenses_refuses_all_others():
    policy = LicensePolicy(allowed=("MIT", "apache-2.0"))
    verdicts = [
        judge_license(raw, "", policy, stated=True).reason
        for raw in ["MIT", "ISC OR Apache-2.0", "MIT AND ISC", "GPL-2"]
    ]
    assert verdicts == [None, None, "license.denied", "license.denied"]


def test_the_policy_on_disk_is_the_default():
    file = Path(__file__).parents[2] / "configs" / "data" / "licenses.yaml"
    chosen = config.parse(PreprocessConfig, ["--config", str(file), "--dataset", "a:train:text", "--output-dir", "b"])
    assert chosen.licenses == POLICY


def test_package_license_prefers_the_expression_then_classifiers_then_the_field():
    message = Message()
    assert package_license(message) is None
    message["License"] = "UNKNOWN"
    message["Classifier"] = "License :: OSI Approved"
    assert normalize(package_license(message)) is None
    message["Classifier"] = "License :: OSI Approved :: MIT License"
    message["Classifier"] = "License :: OSI Approved :: BSD License"
    assert normalize(package_license(message)) == "MIT AND BSD-3-Clause"
    message["License-Expression"] = "ISC"
    assert package_license(message) == "ISC"


def test_installed_gnu_code_is_found_by_metadata_and_by_header():
    try:
        chardet, setuptools = metadata.distribution("chardet"), metadata.distribution("setuptools")
    except metadata.PackageNotFoundError:
        pytest.skip("the demo extra is not installed")
    if not chardet.version.startswith("5."):
        pytest.skip("chardet 5 is not installed")
    assert judge_license(package_license(chardet.metadata), "", POLICY, stated=True).reason == "license.denied"
    files = [f for f in setuptools.files or [] if "_vendor/autocommand/" in str(f) and f.suffix == ".py"]
    assert files
    for file in files:
        verdict = judge_license(package_license(setuptools.metadata), file.read_text(), POLICY, stated=True)
        assert verdict[:3:2] == ("LGPL-3.0-or-later", "license.header")


def test_hostile_input_gets_a_verdict():
    hostile = [
        "(" * 5000,
        "[" * 3000,
        "MIT OR " * 500,
        "\x00\ud800GPL",
        "*" * 9000 + "license",
        "licensed under " * 600,
    ]
    hostile += ["license" + " " * 9000 + ":", "SPDX-License-Identifier: " + ") (" * 3000, "AND", "GPL (" * 700]
    for text in hostile:
        assert judge_license(text, "# gpl license spdx\n" + text, POLICY, stated=True).reason is not None
    assert judge_license(b"MIT", "", POLICY, stated=True).reason is None
    assert judge_license(3.5, "", POLICY, stated=True).reason == "license.unknown"


def test_noise_never_raises():
    generator = random.Random(2)
    words = ["MIT", "GPL-2+", "and", "or", "with", "(", ")", ",", "/", "|", "BSD", "odd", "v2", "\x01", "'", "License:"]
    for _ in range(2000):
        text = " ".join(generator.choices(words, k=generator.randint(1, 9)))
        expression = normalize(text)
        assert expression is None or isinstance(is_denied(expression, GNU_FAMILIES), bool)
        header_license("# " + text)


def test_the_real_corpus_hides_gnu_files_in_other_packages():
    if not CORPUS.is_dir():
        pytest.skip("the shared corpus is absent")
    loose = re.compile(
        r"redistribute it (?:and or )?modify (?:it|this \w+) under the terms of the gnu"
        r"|under the (?:terms of the )?gnu (?:lesser |library |affero )?(?:general|gpl)"
        r"|spdx license identifier a?l?gpl|licen[sc]ed? under (?:the )?[al]?gpl"
    )
    unresolved, reasons, missed, recovered = set(), Counter(), [], 0
    for part in sorted(CORPUS.glob("*.parquet")):
        table = pq.read_table(part, columns=["text", "license"])
        for text, raw in zip(table["text"].to_pylist(), table["license"].to_pylist(), strict=True):
            verdict = judge_license(raw, text, POLICY, stated=True)
            reasons[verdict.reason] += 1
            if verdict.reason is None:
                head = re.sub(r"\W+", " ", text[:2500]).lower()
                recovered += (verdict.evidence or "").startswith("header:") and "GPL" in raw
                if loose.search(head) and " OR " not in verdict.expression:
                    missed.append((raw, verdict.expression, verdict.evidence, loose.search(head), text[:600]))
            if verdict.reason == "license.unknown":
                unresolved.add(raw)
    assert reasons["license.denied"] > 0
    assert reasons["license.header"] > 0
    assert all("Custom-pg_dump" in raw for raw in unresolved)
    assert recovered > 150
    assert not missed, [entry[1:] for entry in missed[:3]]


def test_a_family_that_is_none_is_refused():
    for families in (["MITT"], ["GPL,LGPL"]):
        with pytest.raises(ConfigError, match="not a license family"):
            config.build(LicensePolicy, {"denied": families})
    assert config.build(LicensePolicy, {"denied": ["MPL", "gpl"]}).refuses("MPL-2.0")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"allowed": ["MIT", "Apache 2.0"]}, r"'Apache 2\.0' is not the SPDX identifier.*did you mean Apache-2\.0\?"),
        ({"allowed": ["GPL-2.0"]}, r"did you mean GPL-2\.0-only\?"),
        ({"allowed": ["BSD-3-Claus"]}, r"did you mean BSD-3-Clause\?"),
        ({"allowed": ["Bison-exception-2.2"]}, "not the SPDX identifier of a known license"),
        ({"allowed_exceptions": ["MIT"]}, "not the SPDX identifier of a known exception"),
        ({"allowed_exceptions": ["Bison-exception"]}, r"did you mean Bison-exception-\S+\?"),
    ],
)
def test_a_license_that_is_none_is_refused(policy: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(LicensePolicy, policy)
    assert not config.build(LicensePolicy, {"allowed": ["mit", "Apache-2.0"]}).refuses("MIT")


def test_the_license_of_python_grants_nothing_under_the_gpl():
    path = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    text = (
        path.read_text() if path.exists() else metadata.distribution("typing_extensions").read_text("licenses/LICENSE")
    )
    if text is None:
        pytest.skip("no copy of it here")
    assert "GPL" not in normalize(text)
    assert "PSF-2.0" in normalize(text)
    assert "GPL" in normalize("This is software that is released under the GPL, as all of its parts are. " * 3)


CHOICES = {
    "This program is free software. You can re-distribute and/or\nmodify this program under the same terms of ruby "
    "itself ---\nRuby Distribution License or GNU General Public License.": "GPL-1.0-or-later OR Ruby",
    "You may distribute under the terms of either the GNU General Public\nLicense or the Artistic License, as "
    "specified in the README file\nof the Perl distribution.": "GPL-1.0-or-later OR Artistic-1.0",
    "it is free software; you can redistribute it and/or modify it under the terms of either:\na) the GNU General "
    "Public License as published by the Free Software Foundation; either\nversion 1, or (at your option) any later "
    'version, or\nb) the "Artistic License" which comes with this Kit.': "GPL-1.0-or-later OR Artistic-1.0",
    "This library is free software; you can redistribute it and/or\nmodify it under the same terms as Perl itself.":
        "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "You can redistribute and/or modify it under the same terms as Ruby.": "Ruby",
    "Licensed under the GNU Lesser General Public License, version 2.1 or later, or the Apache License, version 2.0.":
        "LGPL-2.1-or-later OR Apache-2.0",
    "Licensed under the MIT or GPL Version 2 licenses.": "GPL-2.0-only OR MIT",
    "Released under the GPL or later, or, at your option, the MIT license": "GPL-1.0-or-later OR MIT",
    "Distributed under the BSD License, the MIT License, or the GPL": "GPL-1.0-or-later OR (BSD-3-Clause AND MIT)",
}  # fmt: skip

NO_CHOICES = [
    "Licensed under the GPL and the MIT License.",
    "Licensed under the MIT License and the GPL.",
    "Licensed under the GPL or MIT, and the LGPL for the rest.",
    "Licensed under the GPL or a commercial license.",
    "Licensed under the GPL or any other license that we choose.",
    "Licensed under the GPL, or contact us for the MIT license.",
    "Licensed under the GPL or MIT. Portions are licensed under the LGPL.",
    "Licensed under the GPL or the LGPL.",
    "Neither licensed under the MIT License or the GPL.",
    "Licensed under the GPL or MIT-like terms.",
    "Licensed under the GPL or MIT for non-commercial use.",
    "Licensed under the GPL. Or take the MIT License.",
    "This is free software under the GPL. It uses zlib or the MIT License of jQuery.",
    "You can redistribute it under the terms of the GNU General Public License version 2 or later.",
    "You can redistribute it under the terms of the GNU General Public License; the manual is MIT or BSD.",
]


@pytest.mark.parametrize("words", CHOICES)
def test_a_choice_is_usable_under_its_permissive_side(words: str) -> None:
    found = header_license("".join(f"# {line}\n" for line in words.splitlines()))
    assert found is not None
    assert found[0] == CHOICES[words]
    assert not POLICY.refuses(found[0])


@pytest.mark.parametrize("words", NO_CHOICES)
def test_what_is_no_choice_stays_denied(words: str) -> None:
    found = header_license(f"# {words}\n")
    assert found is not None
    assert POLICY.refuses(found[0])
    text = words + " The authors thank all who helped them to write these lines, and all who read them." * 2
    assert POLICY.refuses(normalize(text) or "MIT")


@pytest.mark.parametrize(
    "words",
    [
        "It is not licensed under the same terms as Perl itself.",
        "It is available under the same terms as Perl's module Foo.",
        "It is licensed under the same terms as the Ruby on Rails gem.",
        "It may be distributed, but not under the same terms as Perl itself.",
        "Nothing here is the same terms as Perl itself.",
    ],
)
def test_the_terms_of_perl_are_granted_by_a_sentence_alone(words: str) -> None:
    assert header_license(f"# {words}\n") is None


PERL_LICENSE = (
    "This is free software; you can redistribute it and/or modify it under the same terms as the Perl 5 programming "
    "language system itself. Terms of the Perl programming language system itself a) the GNU General Public License as "
    "published by the Free Software Foundation; either version 1, or (at your option) any later version, or b) the "
    '"Artistic License" --- The GNU General Public License, Version 1, February 1989 --- GNU GENERAL PUBLIC LICENSE '
    "Version 1, February 1989 ... "
)
RUBY_LICENSE = (
    "Ruby is copyrighted free software. You can redistribute it and/or modify it under either the terms of the {} (see "
    "the file {}), or the conditions below: 1. You may make and give away verbatim copies of the source form."
)


def test_the_license_files_of_perl_and_ruby_are_choices() -> None:
    assert normalize(PERL_LICENSE) == "Artistic-1.0-Perl OR GPL-1.0-or-later"
    assert normalize(RUBY_LICENSE.format("2-clause BSDL", "BSDL")) == "Ruby OR BSD-2-Clause"
    assert normalize(RUBY_LICENSE.format("GPL version 2", "GPL")) == "Ruby OR GPL-2.0-only"
    for words in ("perl_5", "Perl", "the same terms as Perl itself"):
        assert normalize(words) == "Artistic-1.0-Perl OR GPL-1.0-or-later"
    assert normalize("perl_5 and MIT") == "(Artistic-1.0-Perl OR GPL-1.0-or-later) AND MIT"


def test_the_choice_of_perl_explains_no_other_text_beside_it() -> None:
    gnu = "GNU GENERAL PUBLIC LICENSE Version 2, June 1991 ... " * 3
    for text in (
        PERL_LICENSE + gnu,
        gnu + PERL_LICENSE,
        gnu + "The file x.pl may be distributed under the same terms as Perl itself.",
        RUBY_LICENSE.format("2-clause BSDL", "BSDL") + gnu,
        "x " * 600 + PERL_LICENSE,
    ):
        assert POLICY.refuses(normalize(text) or "MIT"), text


@pytest.mark.parametrize(
    "text",
    [
        "\n      GNU GENERAL PUBLIC LICENSE\n         Version 2, June 1991\n\n Copyright (C) 1989, 1991",
        "### GNU LESSER GENERAL PUBLIC LICENSE\n\nVersion 3, 29 June 2007\n",
        '<h3 style="text-align: center;">GNU AFFERO GENERAL PUBLIC LICENSE</h3>\n<p>Version 3, 19 November 2007</p>',
    ],
)
def test_the_text_of_a_gnu_license_never_enters(text: str) -> None:
    verdict = judge_license("GPL-2.0-only OR MIT", text, POLICY, stated=True)
    assert verdict.reason == "license.header"
    quoted = "NAMES = {'gpl': 'GNU General Public License version 2, June 1991'}\n"
    assert judge_license("MIT", quoted, POLICY, stated=True).reason is None


SENTENCES = {
    "/* CC0 (Public domain) - see ccan/licenses/CC0 file for details */": "CC0-1.0",
    '/*\n *  This file is part of the "Coroutine" project and released under the MIT License.\n *\n */': "MIT",
    "# Copyright Jonathan Hartley 2013. BSD 3-Clause license, see LICENSE file.": "BSD-3-Clause",
    "# Copyright: (c) 2018, Ansible Project\n# Simplified BSD License (see licenses/simplified_bsd.txt or https://x.org)":
        "BSD-2-Clause",
    "/*!\n * jQuery Library v3\n * Copyright JS Foundation and other contributors\n * Released under the MIT license\n"
    " * https://jquery.org/license\n */": "MIT",
    "/*! (c) someone | Released under the MIT license */": "MIT",
    "# This source code is licensed under the Apache 2.0 license found in the LICENSE file.": "Apache-2.0",
    "/* This source file is subject to version 3.01 of the PHP license,\n   that is bundled with it */": "PHP-3.01",
    "# :Copyright: This module has been placed in the public domain.\n# See the license.":
        "LicenseRef-scancode-public-domain",
    "# This file is dual licensed under the terms of the Apache License, Version\n# 2.0, and the BSD License.":
        "Apache-2.0 AND BSD-3-Clause",
    "# Foo 1.2, https://example.org\n# Licensed under the MIT license": "MIT",
    "# Distributed under the terms of the MIT or BSD license.": "MIT OR BSD-3-Clause",
}  # fmt: skip

NOT_OF_THIS_FILE = [
    "# This file is not released under the MIT License.",
    "# This file isn't licensed under the MIT License.",
    "# Nothing here is licensed under the MIT License.",
    "# This file is released under the MIT License.\n# Some functions come from a GPL program.",
    "# Based on a program that is released under the MIT License.",
    "# Based on jQuery,\n# released under the MIT License.",
    "# Portions of this file are released under the MIT License.",
    "# latex2sympy is licensed under the MIT license https://example.org",
    "# This file was licensed under the MIT License until 2010.",
    "# This file uses code released under the MIT License.",
    "# If you pay, this file is released under the MIT License.",
    "# This file is released under the MIT License and the license of the database.",
    "# This file is released under the MIT License with restrictions.",
    "# This file is released under an MIT-style license that can be found in the LICENSE file.",
    "# This file is licensed under the MIT License for research only.",
    "# This program is licensed under a license of its own.",
    "# For the license, see LICENSE.",
    "# This package was published by Intel under no license.",
    "# This license is not in the public domain.",
    "- Changed the license: version 2 is released under the MIT License.",
    'TEXT = "This file is released under the MIT License."\n# license',
    "x = 1\n# This file is released under the MIT License.",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_a_sentence_at_the_head_states_the_license_of_a_file(text: str) -> None:
    verdict = judge_license("ISC", text + "\n", POLICY, stated=True)
    assert verdict[:3:2] == (SENTENCES[text], None)
    assert verdict.evidence is not None
    assert verdict.evidence.startswith("sentence: ")
    assert judge_license("who knows", text + "\n", POLICY, stated=True).expression == SENTENCES[text]
    assert judge_license(None, text + "\n", POLICY, stated=False).expression == SENTENCES[text]


@pytest.mark.parametrize("text", SENTENCES)
def test_a_sentence_lifts_no_denial(text: str) -> None:
    assert judge_license("GPL-2", text + "\n", POLICY, stated=True).reason == "license.denied"
    only = LicensePolicy(allowed=("ISC",))
    assert judge_license("ISC", text + "\n", only, stated=True).reason == "license.header"


@pytest.mark.parametrize("text", NOT_OF_THIS_FILE)
def test_a_sentence_about_something_else_states_nothing(text: str) -> None:
    assert judge_license("ISC", text + "\n", POLICY, stated=True)[::4] == ("ISC", "metadata")
    assert judge_license("who knows", text + "\n", POLICY, stated=True).reason == "license.unknown"


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        (
            "/* Permission to use, copy, modify, and distribute this software for any purpose without fee is hereby\n"
            " * granted, provided that this entire notice is included in all copies. */",
            "ISC",
        ),
        (
            "# Permission to use, copy, modify, and distribute this software and its\n# documentation for any purpose "
            "and without fee is hereby granted,\n# provided that the above copyright notice appear in all copies",
            "HPND",
        ),
        (
            "/* Permission to use, copy, modify, and distribute this software and its documentation for any purpose,\n"
            "   without fee, and without a written agreement is hereby granted */",
            "PostgreSQL",
        ),
        (
            "/* Written in 2018 by someone. To the extent possible under law, the author has dedicated all copyright\n"
            "and related and neighboring rights to this software to the public domain worldwide. */",
            "CC0-1.0",
        ),
        ("# The ASF licenses this file to You under the Apache License, Version 2.0", "Apache-2.0"),
    ],
)
def test_a_grant_without_a_name_is_a_license_text(text: str, expression: str) -> None:
    assert judge_license("GPL-2", text + "\n", POLICY, stated=True)[:3:2] == (expression, None)
    assert normalize("Copyright 1999 someone. " * 9 + re.sub("[#*/]", "", text)) == expression


@pytest.mark.parametrize("base", ["MIT", "MIT License", "Apache-2.0", "BSD-3-Clause"])
@pytest.mark.parametrize(
    "remark",
    [
        "non-commercial",
        "NonCommercial",
        "non commercial use only",
        "with Commons Clause",
        "academic use",
        "for research",
    ],
)
def test_a_license_whose_remark_takes_permissions_back_is_unknown(base: str, remark: str) -> None:
    assert normalize(f"{base} ({remark})") is None
    assert judge_license(f"{base} ({remark})", "", LicensePolicy(), stated=True).reason == "license.unknown"


def test_a_remark_hides_no_gnu_license() -> None:
    assert (judge_license("GPL-2.0 (non-commercial)", "", LicensePolicy(), stated=True).reason) == "license.denied"
    assert normalize("MIT (commercial use allowed)") == normalize("MIT (expat)") == "MIT"


@pytest.mark.parametrize(
    ("stated", "text", "precedence", "expected"),
    [
        ("MIT", "# SPDX-License-Identifier: GPL-3.0-only", "override", ("MIT", None)),
        ("MIT", "# SPDX-License-Identifier: GPL-3.0-only", "closest", ("GPL-3.0-only", "license.header")),
        ("MIT", "# SPDX-License-Identifier: GPL-3.0-only", "aggregate", ("GPL-3.0-only", "license.header")),
        ("MIT", "# SPDX-License-Identifier: Apache-2.0", "closest", ("Apache-2.0", None)),
        ("MIT", "# SPDX-License-Identifier: Apache-2.0", "aggregate", ("MIT AND Apache-2.0", None)),
        ("MIT", "# SPDX-License-Identifier: Apache-2.0", "override", ("MIT", None)),
        ("MIT", "# Released under the Apache License 2.0.", "aggregate", ("MIT AND Apache-2.0", None)),
        ("MIT", "# Released under the Apache License 2.0.", "override", ("MIT", None)),
        ("MIT", "x = 1", "aggregate", ("MIT", None)),
        ("GPL-3.0-only", "# SPDX-License-Identifier: MIT", "closest", ("MIT", None)),
        ("GPL-3.0-only", "# SPDX-License-Identifier: MIT", "aggregate", ("GPL-3.0-only", "license.denied")),
        ("GPL-3.0-only", "# SPDX-License-Identifier: MIT", "override", ("GPL-3.0-only", "license.denied")),
        ("what is this", "# SPDX-License-Identifier: MIT", "aggregate", (None, "license.unknown")),
    ],
)
def test_the_precedence_of_an_annotation_says_what_the_head_of_a_file_is_worth(
    stated: str, text: str, precedence: Any, expected: tuple[str | None, str | None]
) -> None:
    verdict = judge_license(stated, text, LicensePolicy(), stated=True, precedence=precedence)
    assert (verdict.expression, verdict.reason) == expected
