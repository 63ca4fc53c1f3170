"""The digest of a Hugging Face model covers every byte that loading reads; what is read elsewhere is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ibidem.errors import ConfigError
from ibidem.files import digest_of_folder, files_below
from ibidem.inference.model_id import identify

WEIGHTS = "model.safetensors"


def edit(path: Path, **values: object) -> None:
    tree = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(tree | values))


def shard(folder: Path, name: str, index: str = "model.safetensors.index.json") -> None:
    """Let an index name the weights, as `save_pretrained` does for a large model."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "pt") as file:
        keys = list(file.keys())
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(keys, name)}))
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / WEIGHTS).rename(folder / name)


@pytest.fixture
def model(hf_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(hf_model, tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "model"


def test_the_digest_of_a_plain_folder_is_the_hash_of_its_list(tmp_path: Path) -> None:
    for name, text in [("b", "1"), ("a/c", "2"), ("a.d", "3")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    lines = "".join(
        f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n"
        for name, text in [("a/c", "2"), ("a.d", "3"), ("b", "1")]
    )
    assert digest_of_folder(tmp_path) == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def test_shards_in_the_folder_are_covered(model: Path) -> None:
    shard(model, "parts/a.safetensors")
    before = identify(model).digest
    with (model / "parts" / "a.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert identify(model).digest != before


def test_an_index_may_list_shards_that_were_not_copied(model: Path) -> None:
    (model / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "pytorch_model-1.bin"}}))
    assert identify(model)


def absolute_shard(model: Path) -> None:
    shard(model, "a.safetensors")
    weights = json.loads((model / "model.safetensors.index.json").read_text())
    (model / "a.safetensors").rename(model.parent / "elsewhere" / "a.safetensors")
    weights["weight_map"] = dict.fromkeys(weights["weight_map"], str(model.parent / "elsewhere" / "a.safetensors"))
    (model / "model.safetensors.index.json").write_text(json.dumps(weights))


def shard_behind_a_link(model: Path) -> None:
    """A link out of the folder, and a name that goes up again behind it: below the folder only by its spelling."""
    (model.parent / "elsewhere" / "deep").mkdir()
    shard(model, "../elsewhere/a.safetensors")
    (model / "link").symlink_to(model.parent / "elsewhere" / "deep")
    index = model / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("../elsewhere/a", "link/../a"))


def listed_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").rename(model.parent / "elsewhere" / "tokenizer.1.0.json")
    edit(model / "tokenizer_config.json", fast_tokenizer_files=["../elsewhere/tokenizer.1.0.json"])


def listed_vocabulary(model: Path) -> None:
    (model.parent / "elsewhere" / "vocab.json").write_text("{}")
    edit(model / "tokenizer_config.json", vocab_file=str(model.parent / "elsewhere" / "vocab.json"))


def relative_vocabulary(model: Path) -> None:
    """transformers reads such a path from the working directory, whatever the folder has."""
    os.chdir(model.parent / "elsewhere")
    Path("vocab.json").write_text("{}")
    (model / "vocab.json").write_text("{}")
    edit(model / "tokenizer_config.json", vocab_file="vocab.json")


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (lambda model: shard(model, "../elsewhere/a.safetensors"), "model.safetensors.index.json"),
        (
            lambda model: shard(model, "../elsewhere/a.bin", "pytorch_model.bin.index.json"),
            "pytorch_model.bin.index.json",
        ),
        (absolute_shard, "model.safetensors.index.json"),
        (shard_behind_a_link, "model.safetensors.index.json"),
        (listed_tokenizer, "tokenizer_config.json"),
        (listed_vocabulary, "tokenizer_config.json"),
        (relative_vocabulary, "tokenizer_config.json"),
        (lambda model: edit(model / "config.json", backbone="../model"), "config.json"),
        (lambda model: edit(model / "config.json", attn_implementation="org/kernel"), "config.json"),
        (lambda model: edit(model / "adapter_config.json", base_model_name_or_path="/x"), "adapter_config.json"),
        (lambda model: (model / "config.json").write_text("{"), "config.json"),
    ],
)
def test_what_loading_would_read_elsewhere_is_refused(
    change: Callable[[Path], object], file: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)  # and back
    change(model)
    with pytest.raises(ConfigError) as refused:
        identify(model)
    assert f"{model / file}: " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_paths_of_the_machine_that_saved_a_model_do_not_matter(model: Path) -> None:
    edit(model / "config.json", _name_or_path=str(model.parent), auto_map={"AutoConfig": "org/name--module.Class"})
    edit(model / "tokenizer_config.json", special_tokens_map_file="/srv/somebody/x.json", name_or_path=str(model))
    assert identify(model)


def test_the_snapshots_of_the_hugging_face_cache_are_covered_by_content(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / "0123"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in model.iterdir():
        blob = hashlib.sha256(path.name.encode()).hexdigest()
        shutil.copy(path, cache / "blobs" / blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob}")
    before = identify(snapshot).digest
    assert before == identify(model).digest
    with (snapshot / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert identify(snapshot).digest != before


def test_linked_subfolders_are_covered(model: Path) -> None:
    elsewhere = model.parent / "elsewhere"
    (model / "parts").symlink_to("../elsewhere")
    shard(model, "parts/a.safetensors")
    before = identify(model).digest
    assert "parts/a.safetensors" in files_below(model)
    with (elsewhere / "a.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert identify(model).digest != before


def test_folders_that_cannot_be_listed_line_by_line_are_refused(model: Path) -> None:
    (model / "again").symlink_to(".")
    with pytest.raises(ConfigError, match="again: a link to a folder that contains it"):
        identify(model)
    (model / "again").unlink()
    (model / "a\nb").write_text("")
    with pytest.raises(ConfigError, match="line break"):
        identify(model)


def test_every_file_that_loading_opens_is_covered(model: Path, tmp_path: Path) -> None:
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    sharded = shutil.copytree(model, tmp_path / "sharded")
    (sharded / "parts").symlink_to("../elsewhere")
    shard(sharded, "parts/a.safetensors")
    script = (
        "import json, sys; from pathlib import Path; opened = []\n"
        "import torch, transformers, transformers.models.llama.modeling_llama\n"
        "from ibidem.inference.models import open_model\n"
        "note = lambda event, values: event == 'open' and isinstance(values[0], str) and opened.append(values[0])\n"
        "sys.addaudithook(note)\n"
        "for folder in map(Path, sys.argv[1:]):\n"
        "    opened.clear()\n"
        "    open_model(folder)\n"
        "    sys.stdout.write(json.dumps(opened) + '\\n')\n"
    )
    command = [sys.executable, "-c", script, str(model), str(sharded)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for folder, line in zip((model, sharded), done.stdout.splitlines(), strict=True):
        check_opened(folder, {Path(path) for path in json.loads(line)})


def check_opened(model: Path, opened: set[Path]) -> None:
    mine = {path.relative_to(model).as_posix() for path in opened if path.is_relative_to(model)}
    assert {"config.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"} < mine
    assert mine <= set(files_below(model))
    software = (sys.prefix, sys.base_prefix, Path(__file__).parents[2] / "src", "/proc", "/sys", "/dev", "/etc", "/usr")
    assert not {path for path in opened if not any(path.is_relative_to(folder) for folder in (model, *software))}
