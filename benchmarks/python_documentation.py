r"""The documentation of Python as somebody would bring it: two readers, 20 questions asked by hand, no model.

`guido` may read all pages, `ada` neither the C API nor how to extend Python, and nobody what lies beside the pages.
Each question names the pages that answer it; the last one is answered nowhere. Measured are the answers of `ground ask`
without a model, which are quotes, and whether the pages are among the six passages that are retrieved; for `ada` the
three questions about C are to fail.

    apt-get download python3.11-doc && dpkg -x python3.11-doc*.deb python-doc
    python benchmarks/python_documentation.py python-doc/usr/share/doc/python3.11/html \
        benchmarks/results/python_documentation.json
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ibidem import jsonl
from ibidem.evaluation.config import DocQaConfig
from ibidem.evaluation.doc_qa import doc_qa
from ibidem.grounding.config import GroundIndexConfig
from ibidem.grounding.indexing import index

QUESTIONS = Path(__file__).with_suffix(".jsonl")
RULES = """
groups:
  core: [guido]
  users: [ada, core]
rules:
  - {path: "**", read: [users]}
  - {path: "c-api/**", deny: [ada]}
  - {path: "extending/**", deny: [ada]}
  - {path: "_sources/**", deny: [everyone]}
  - {path: "_static/**", deny: [everyone]}
"""
HIDDEN = {"guido": ("_sources/", "_static/"), "ada": ("_sources/", "_static/", "c-api/", "extending/")}
"""What a principal must not be shown."""
SHOWN = ("recall_at_k", "reciprocal_rank", "answered", "abstentions.unanswerable", "citation_precision")


def main() -> None:
    docs, output = Path(sys.argv[1]), Path(sys.argv[2])
    result: dict[str, Any] = {
        "command": "python benchmarks/python_documentation.py python-doc/usr/share/doc/python3.11/html "
        "benchmarks/results/python_documentation.json",
    }
    with tempfile.TemporaryDirectory() as folder:
        rules, made = Path(folder, "acl.yaml"), Path(folder, "index")
        rules.write_text(RULES)
        before = time.process_time()
        index(GroundIndexConfig(docs=docs, acl=str(rules), output_dir=made))
        result["index_cpu_s"] = round(time.process_time() - before, 1)
        for principal in HIDDEN:
            result[principal] = asked(made, principal, Path(folder, principal))
            print(json.dumps(result[principal], indent=1))
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def asked(made: Path, principal: str, folder: Path) -> dict[str, Any]:
    """Return the figures of a reader's answers, and the answers."""
    doc_qa(DocQaConfig(index=made, principal=principal, data=QUESTIONS, output_dir=folder))
    results = json.loads((folder / "results.json").read_text())
    items = jsonl.loads((folder / "items.jsonl").read_text())
    questions = {row["id"]: row["question"] for row in jsonl.loads(QUESTIONS.read_text())}
    return {
        **{name: results[name] for name in SHOWN},
        "forbidden_passages": sum(
            chunk["path"].startswith(HIDDEN[principal]) for item in items for chunk in item["retrieved"]
        ),
        "answers": {questions[item["id"]]: item["answer"] for item in items},
    }


if __name__ == "__main__":
    main()
