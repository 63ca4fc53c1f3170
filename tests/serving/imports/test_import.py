"""A Llama or a Qwen3 of Hugging Face becomes a checkpoint: same logits, same answers, or one line and nothing."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.serving.imports.foreign import IDS, KINDS, edit, make_model, write_tokenizer

import ibidem
from ibidem import artifacts
from ibidem.cli import main
from ibidem.config import build
from ibidem.errors import DataError, IbidemError
from ibidem.inference.weights_license import license_of
from ibidem.modeling.checkpoint import IMPORTED, TOKENIZER_DIR, WEIGHTS, load_model
from ibidem.modeling.generate import Sampling, complete, generate
from ibidem.modeling.matrices import FrozenDecoder
from ibidem.serving.config import ImportConfig
from ibidem.serving.export import self_test
from ibidem.serving.imports.hf_config import read_config
from ibidem.serving.imports.import_model import run
from ibidem.tokenization.tokenizer import Tokenizer

STEP = Path("checkpoints/step-000000")
Made = Callable[[str, bool], tuple[Any, Path, artifacts.Artifact]]
"""Returns a model of transformers, its folder, and its checkpoint: of a kind, tied or not."""


def bring(folder: Path, output: Path, **more: Any) -> artifacts.Artifact:
    return run(build(ImportConfig, {"from_": folder, "output_dir": output, **more}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Returns a model of transformers, its folder, and its checkpoint."""
    root = tmp_path_factory.mktemp("models")
    done: dict[tuple[str, bool], tuple[Any, Path, artifacts.Artifact]] = {}

    def make(kind: str, tied: bool) -> tuple[Any, Path, artifacts.Artifact]:
        if (kind, tied) not in done:
            folder = root / f"{kind}-{tied}"
            model = make_model(folder, kind, tie_word_embeddings=tied)
            done[kind, tied] = model, folder, bring(folder, root / f"run-{kind}-{tied}")
        return done[kind, tied]

    return make


@pytest.fixture(scope="module")
def whole_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "llama"
    make_model(folder, "Llama")
    return folder


@pytest.fixture
def llama(whole_llama: Path, tmp_path: Path) -> Path:
    """A folder to spoil."""
    return Path(shutil.copytree(whole_llama, tmp_path / "llama"))


# What it computes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_and_greedy_answers_are_those_of_transformers(kind: str, tied: bool, made: Made) -> None:
    model, _, checkpoint = made(kind, tied)
    decoder, _ = load_model(checkpoint.path)
    ids_BT = torch.randint(IDS, (2, 120), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert float((decoder.logits(ids_BT)[..., :IDS] - model(ids_BT).logits).abs().max()) < 1e-5
    prompts = [ids_BT[0, :40].tolist(), ids_BT[1, :7].tolist()]
    answers = generate(FrozenDecoder(decoder, num_ids=IDS), prompts, Sampling(40, 0.0), end_ids=(1,))
    for prompt, answer in zip(prompts, answers, strict=True):
        row = torch.tensor([prompt])
        done = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=40, do_sample=False)
        assert done[0, len(prompt) :].tolist() == answer
    assert answers[0] != answers[1], "the answers say little"


def test_sixteen_bits_stay_on_disk_and_are_read_in_float32(tmp_path: Path) -> None:
    make_model(tmp_path / "m", "Qwen3", dtype=torch.bfloat16)
    model = self_test.load_hf_model(tmp_path / "m").eval()
    checkpoint = bring(tmp_path / "m", tmp_path / "run")
    weights = load_file(checkpoint.path / WEIGHTS)
    assert {each.dtype for each in weights.values()} == {torch.bfloat16}
    theirs = model.state_dict()["model.embed_tokens.weight"]
    assert torch.equal(weights["embedding.weight_VD"][:IDS].float(), theirs)
    decoder, _ = load_model(checkpoint.path)
    assert decoder.embedding.weight_VD.dtype == torch.float32
    ids_BT = torch.randint(IDS, (1, 60), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert float((decoder.logits(ids_BT)[..., :IDS] - model(ids_BT).logits).abs().max()) < 1e-5


def test_rows_are_added_for_markers_as_the_mean_of_the_others(
    made: Made,
) -> None:
    model, _, checkpoint = made("Llama", False)
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_DIR)
    weights = load_file(checkpoint.path / WEIGHTS)
    assert checkpoint.config["model"]["vocab_size"] == tokenizer.vocab_size > IDS
    assert checkpoint.counts["added_rows"] == tokenizer.vocab_size - IDS
    for ours, theirs in (("embedding.weight_VD", model.model.embed_tokens), ("head.weight_VD", model.lm_head)):
        mean = theirs.weight.detach().double().mean(dim=0).float()
        assert torch.equal(weights[ours][:IDS], theirs.weight)
        torch.testing.assert_close(weights[ours][IDS:], mean.expand(tokenizer.vocab_size - IDS, -1), rtol=0, atol=1e-7)


def test_spare_rows_serve_the_markers_first_and_are_never_generated(tmp_path: Path) -> None:
    make_model(tmp_path / "m", "Qwen3", vocab_size=IDS + 200)
    path = tmp_path / "m" / WEIGHTS
    weights = load_file(path)
    weights["lm_head.weight"][-1] = 50.0  # else the most likely id of half of the prompts
    save_file(weights, path, metadata={"format": "pt"})
    checkpoint = bring(tmp_path / "m", tmp_path / "run")
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_DIR)
    assert checkpoint.config["model"]["vocab_size"] == IDS + 200 > tokenizer.vocab_size
    assert checkpoint.counts["added_rows"] == 0
    decoder, _ = load_model(checkpoint.path)
    prompts = [tokenizer.encode(text) for text in ("def add(", "import os", "self.value", "for node in")]
    free = generate(decoder, prompts, Sampling(8, 0.0), end_ids=())
    assert any(max(ids) >= tokenizer.vocab_size for ids in free)
    model = ibidem.load_model(tmp_path / "run")
    texts = ibidem.generate(model, ["def add(", "import os", "self.value", "for node in"], temperature=0, max_tokens=8)
    assert all(text.strip() for text in texts)


def test_the_command_and_the_function_say_what_was_made(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ibidem.import_model(llama, output_dir=tmp_path / "one")
    assert (made.kind, made.path) == ("checkpoint", tmp_path / "one" / STEP)
    assert main(["import", "--from", str(llama), "--output-dir", str(tmp_path / "two"), "--quiet"]) == 0
    added, parameters = made.counts["added_rows"], made.counts["parameters"]
    assert capsys.readouterr().out == (
        f"{tmp_path / 'two' / STEP}: LlamaForCausalLM llama, {parameters:,} parameters in float32, "
        f"{added} rows added to the matrix; license MIT (README.md: mit); "
        "tokenizer: 338 ids, 18 markers of them added; all of 511 trial texts come back byte for byte\n"
    )
    assert not list(tmp_path.rglob(".*.partial.*"))


def test_an_end_of_text_of_its_own_ends_a_text(llama: Path, tmp_path: Path) -> None:
    path = llama / WEIGHTS
    weights = load_file(path)
    weights["lm_head.weight"][1] = 50.0  # <|end_of_text|>, as the most likely id of half of the prompts
    save_file(weights, path, metadata={"format": "pt"})
    checkpoint = bring(llama, tmp_path / "run")
    tokenizer, (decoder, _) = Tokenizer.load(checkpoint.path / TOKENIZER_DIR), load_model(checkpoint.path)
    model = FrozenDecoder(decoder, num_ids=tokenizer.vocab_size)
    prompts = ["def add(", "import os", "self.value", "for node in"]
    ids = [[tokenizer.document_id, *tokenizer.encode(prompt)] for prompt in prompts]
    free = generate(model, ids, Sampling(8, 0.0), end_ids={tokenizer.document_id, tokenizer.turn_end_id})
    assert any(1 in each[:-1] for each in free), "the model ends no text"
    done = complete(model, tokenizer, prompts, Sampling(8, 0.0))
    for whole, completion in zip(free, done, strict=True):
        if 1 in whole:
            assert (completion.finish, completion.num_tokens) == ("document", whole.index(1) + 1)
            assert completion.text == tokenizer.continued(whole[: whole.index(1)])


# Lineage, license


def test_an_import_is_the_same_bytes_again_and_verified(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, folder, checkpoint = made("Qwen3", True)
    again = bring(folder, tmp_path / "run")
    assert again.digest == checkpoint.digest
    assert again.files == checkpoint.files
    assert bring(folder, tmp_path / "run").volatile == again.volatile, "written twice"
    assert main(["verify", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    (outside,) = [item for item in again.inputs if item.role == "outside"]
    assert f"outside {folder.name}  {outside.digest[:23]}  source" in said
    with (again.path / WEIGHTS).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    assert main(["verify", str(tmp_path / "run")]) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_byte_of_the_folder_changes_the_digest_of_the_checkpoint(llama: Path, tmp_path: Path) -> None:
    before = bring(llama, tmp_path / "a")
    (llama / "README.md").write_text("---\nlicense: mit\n---\n# Model.\n")
    after = bring(llama, tmp_path / "b")
    assert after.digest != before.digest
    files, old = (each.config[IMPORTED]["files"] for each in (after, before))
    assert {name for name in files if files[name] != old[name]} == {"README.md"}


@pytest.mark.parametrize(
    ("readme", "config", "text", "given", "license", "source"),
    [
        ("license: apache-2.0", None, None, None, "Apache-2.0", "README.md: apache-2.0"),
        (None, "mit", None, None, "MIT", "config.json: mit"),
        (None, None, "apache", None, "Apache-2.0", "LICENSE"),
        ("license: apache-2.0", None, "apache", None, "Apache-2.0", "README.md: apache-2.0; LICENSE"),
        ("license: mit", "apache-2.0", None, None, "MIT AND Apache-2.0", "README.md: mit; config.json: apache-2.0"),
        ("license: mit", None, "Do no evil with it.", None, "unknown", "README.md: mit; LICENSE"),
        ("license: llama3.2", None, None, None, "LicenseRef-scancode-llama-3.2-license-2024", "README.md: llama3.2"),
        ("license: other\nlicense_name: odd-1", None, None, None, "unknown", "README.md: odd-1"),
        ("license: MIT (non-commercial)", None, None, None, "unknown", "README.md: MIT (non-commercial)"),
        ("license: {mit: cc0-1.0}", None, None, None, "unknown", "README.md: a license that is no name"),
        ("license: odd", None, None, "Apache-2.0", "Apache-2.0", "--license; README.md: odd"),
        (None, None, None, None, "unknown", "neither README.md nor config.json nor a license file states it"),
    ],
)
def test_the_license_is_what_the_folder_or_the_user_states(
    readme: str | None, config: str | None, text: str | None, given: str | None, license: str, source: str,  # noqa: A002
    llama: Path, tmp_path: Path,
) -> None:  # fmt: skip
    from tests.conftest import REPOSITORY

    (llama / "README.md").write_text(f"---\n{readme}\n---\n" if readme else "# A model\n")
    edit(llama, **({"license": config} if config else {}))
    if text:
        (llama / "LICENSE").write_text((REPOSITORY / "LICENSE").read_text() if text == "apache" else text)
    about = bring(llama, tmp_path / "run", license=given).config[IMPORTED]
    assert (about["license"], about["license_source"]) == (license, source)
    assert about["architecture"] == "LlamaForCausalLM"
    assert about["name"] == "llama"


@pytest.mark.parametrize("begin", ["\n---\n", "\ufeff---\n", "--- \n", "\r\n---\r\n"])
def test_the_front_matter_counts_wherever_the_hub_reads_it(begin: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"{begin}license: cc-by-nc-4.0\n---\n", newline="")
    (tmp_path / "config.json").write_text('{"license": "mit"}')
    assert license_of(tmp_path).expression == "CC-BY-NC-4.0 AND MIT"


def test_aliases_of_a_front_matter_are_not_written_out(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 4)}]" for i in range(1, 60))]
    (tmp_path / "README.md").write_text("\n".join(["---", *lines, "license: *a59", "---", ""]))
    assert license_of(tmp_path).expression == "unknown"


@pytest.mark.parametrize("name", ["LICENSE.md", "COPYING", "MODEL_LICENSE", "LICENSES/MIT.txt"])
def test_the_digest_covers_every_file_that_states_the_license(name: str, llama: Path, tmp_path: Path) -> None:
    (llama / name).parent.mkdir(exist_ok=True)
    (llama / name).write_text("SPDX-License-Identifier: MIT\n")
    about = bring(llama, tmp_path / "run").config[IMPORTED]
    assert name in about["license_source"]
    assert name in about["files"]


def test_a_snapshot_of_the_cache_of_the_hub_is_read_through_its_links(llama: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--small"
    snapshot = repository / "snapshots" / "2f1c"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(llama.iterdir())):
        path.rename(repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    assert bring(snapshot, tmp_path / "run").config[IMPORTED]["name"] == "org/small"


# Refusals


def refused(folder: Path, output: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Import in vain; return the line that says why."""
    assert main(["import", "--from", str(folder), "--output-dir", str(output), "--quiet", *words]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert not output.exists(), "something was written"
    (line,) = said.err.splitlines()
    return line


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel' is none of Llama"),
    "no architecture": ({"architectures": ...}, "architecture null is none of"),
    "a base model": ({"architectures": ["LlamaModel"]}, "architecture 'LlamaModel'"),
    "experts": ({"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM"),
    "another type": ({"model_type": "mistral"}, "model_type 'mistral'"),
    "attention bias": ({"attention_bias": True}, "attention_bias true"),
    "bias of the feed-forward": ({"mlp_bias": True}, "mlp_bias true"),
    "a window": ({"sliding_window": 4096}, "sliding_window 4096"),
    "a window that is used": ({"use_sliding_window": True}, "use_sliding_window true"),
    "layers with windows": ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types 'sliding"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    "a part of a head rotated": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    "quantized": ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    "code of its own": ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
    "a few experts": ({"num_local_experts": 8}, "num_local_experts 8"),
    "dynamic positions": ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
    "positions by a list": ({"rope_parameters": {"rope_type": ["linear"]}}, 'rope_type ["linear"]'),
    "heads of an object": ({"head_dim": {}}, "head_dim must be a number above 0, not {}"),
    "longrope": ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rope_type 'longrope'"),
    "positions by layers": ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "by layers"),
    "yarn with mscale": (
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "mscale of rope_parameters 1.0",
    ),
    "llama3 without limits": ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "high_freq_factor of"),
    "two bases": ({"rope_theta": 7.0}, "rope_theta is 5000.0 in one place and 7.0 in another"),
    "two scalings": ({"rope_scaling": {"rope_type": "linear", "factor": 3.0}}, "rope_type is llama3 in"),
    "no width": ({"hidden_size": ...}, "hidden_size must be a number above 0, not null"),
    "a width of words": ({"hidden_size": "48"}, "hidden_size must be a number above 0, not '48'"),
    "a width of nothing": ({"hidden_size": 0}, "hidden_size must be a number above 0, not 0"),
    "a broken width": ({"hidden_size": 48.5}, "width must be a whole number"),
    "no end of positions": ({"max_position_embeddings": 10**12}, "max_position_embeddings 1000000000000"),
    "groups that do not divide": ({"num_key_value_heads": 3}, "kv_heads=3 does not divide heads=4"),
    "odd heads": ({"head_dim": 13}, "head width 13 is odd"),
    "tied by a word": ({"tie_word_embeddings": "false"}, "tie_word_embeddings 'false'"),
    "tied, with a matrix of its own": ({"tie_word_embeddings": True}, "lm_head.weight differs from the embedding"),
    "a billion layers": ({"num_hidden_layers": 10**9}, "model.layers.2.input_layernorm.weight is missing"),
    "another size": ({"intermediate_size": 80}, "gate_proj.weight is 72 x 48; by config.json it is 80 x 48"),
    "fewer layers": ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight has no place"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_decoder_does_not_compute_is_refused_by_name(
    name: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, said = CONFIGS[name]
    edit(llama, **changes)
    assert said in refused(llama, tmp_path / "run", capsys)


def spoil_index(folder: Path, name: object) -> None:
    weights = sorted(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).rename(folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "part.safetensors") | {weights[0]: name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def outside_by_dots(folder: Path) -> None:
    spoil_index(folder, "../part.safetensors")
    shutil.copy(folder / "part.safetensors", folder.parent)


def outside_by_root(folder: Path) -> None:
    spoil_index(folder, str(folder / "part.safetensors"))


def outside_by_link(folder: Path) -> None:
    spoil_index(folder, "part.safetensors")
    (folder / "part.safetensors").rename(folder.parent / "elsewhere.safetensors")
    (folder / "part.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def outside_by_a_linked_folder(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "more").symlink_to(folder.parent / "elsewhere")


def only_pickles(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": [')


def deep_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def more_ids_than_rows(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    tree["added_tokens"].append(tree["added_tokens"][0] | {"id": IDS + 7, "content": "<|more|>"})
    path.write_text(json.dumps(tree))


def change(folder: Path, function: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    function(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def missing_tensor(folder: Path) -> None:
    change(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))


def extra_tensor(folder: Path) -> None:
    change(folder, lambda weights: weights.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(48)}))


def other_shape(folder: Path) -> None:
    change(folder, lambda weights: weights.update({"model.norm.weight": torch.zeros(47)}))


def transposed(folder: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    change(folder, lambda weights: weights.update({name: weights[name].T.contiguous()}))


def eight_bits(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change(folder, lambda weights: weights.update({name: weights[name].to(torch.float8_e4m3fn)}))


def not_a_number(folder: Path) -> None:
    change(folder, lambda weights: weights["model.layers.1.mlp.up_proj.weight"].__setitem__((3, 4), float("nan")))


def infinite(folder: Path) -> None:
    change(folder, lambda weights: weights["model.norm.weight"].__setitem__(2, float("-inf")))


def truncated(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 100)


def empty_file(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def html_page(folder: Path) -> None:
    (folder / WEIGHTS).write_text("<!doctype html>Too many requests\n" * 90)


def missing_shard(folder: Path) -> None:
    spoil_index(folder, "other.safetensors")


def index_of_words(folder: Path) -> None:
    spoil_index(folder, 3)


def index_of_nothing(folder: Path) -> None:
    spoil_index(folder, "part.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")


def index_without_a_tensor(folder: Path) -> None:
    spoil_index(folder, "part.safetensors")
    path = folder / "model.safetensors.index.json"
    tree = json.loads(path.read_text())
    del tree["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(tree))


def index_with_a_tensor_more(folder: Path) -> None:
    spoil_index(folder, "part.safetensors")
    path = folder / "model.safetensors.index.json"
    tree = json.loads(path.read_text())
    tree["weight_map"]["model.more.weight"] = "part.safetensors"
    path.write_text(json.dumps(tree))


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


SPOILS: dict[Callable[[Path], None], str] = {
    outside_by_dots: "'../part.safetensors', which is no name of a safetensors file of this folder",
    outside_by_root: "part.safetensors', which is no name of a safetensors file of this folder",
    outside_by_link: "part.safetensors: a link that leads out of the folder",
    outside_by_a_linked_folder: "more: a link that leads out of the folder",
    only_pickles: "pytorch_model.bin: only pickled weights are here, and reading a pickle runs whatever program",
    no_weights: "neither model.safetensors nor model.safetensors.index.json is here",
    no_tokenizer: "tokenizer.json is missing",
    no_config: "config.json is missing",
    broken_config: "config.json: not JSON",
    deep_config: "config.json: not JSON",
    more_ids_than_rows: "it has 328 ids of its own, and the matrix of the model 320 rows",
    missing_tensor: "the tensor model.layers.1.mlp.up_proj.weight is missing",
    extra_tensor: "model.layers.0.self_attn.q_proj.bias has no place in this architecture",
    other_shape: "model.norm.weight is 47; by config.json it is 48",
    transposed: "k_proj.weight is 48 x 24; by config.json it is 24 x 48",
    eight_bits: "up_proj.weight is in F8_E4M3; only F32, BF16, F16 are read",
    not_a_number: "model.layers.1.mlp.up_proj.weight has numbers that are not finite",
    infinite: "model.norm.weight has numbers that are not finite",
    truncated: "model.safetensors: no whole safetensors file",
    empty_file: "model.safetensors: no whole safetensors file",
    html_page: "model.safetensors: no whole safetensors file",
    missing_shard: "other.safetensors is missing; model.safetensors.index.json names it",
    index_of_words: "is in 3, which is no name of a safetensors file",
    index_of_nothing: "it has no weight_map",
    index_without_a_tensor: "it has model.norm.weight, which model.safetensors.index.json does not name in it",
    index_with_a_tensor_more: "model.more.weight is missing, although model.safetensors.index.json names it",
    adapter: "an adapter; merge it into its base model",
}


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_spoiled_folder_is_one_line_and_nothing_is_written(
    spoil: Callable[[Path], None], llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(llama)
    assert SPOILS[spoil] in refused(llama, tmp_path / "run", capsys)


def test_a_mistake_of_the_user_is_one_line(
    llama: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert "no such folder" in refused(tmp_path / "nowhere", run, capsys)
    assert "it is a checkpoint of ibidem" in refused(checkpoint, run, capsys)
    assert "did you mean Apache-2.0" in refused(llama, run, capsys, "--license", "Apach-2.0")
    before = sorted(checkpoint.parents[1].rglob("*"))
    with pytest.raises(IbidemError, match="checkpoints of a training are here"):
        bring(llama, checkpoint.parents[1])
    assert sorted(checkpoint.parents[1].rglob("*")) == before


def test_a_tied_model_that_has_its_matrix_twice_is_read(made: Made, tmp_path: Path) -> None:
    _, folder, checkpoint = made("Qwen3", True)
    weights: dict[str, torch.Tensor] = {}
    for path in folder.glob("model-*.safetensors"):
        weights |= load_file(path)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # as early Llamas have
    (tmp_path / "m").mkdir()
    for name in ("config.json", "README.md"):
        shutil.copy(folder / name, tmp_path / "m")
    write_tokenizer(tmp_path / "m")
    save_file(weights, tmp_path / "m" / WEIGHTS, metadata={"format": "pt"})
    again = bring(tmp_path / "m", tmp_path / "run")
    assert again.files[WEIGHTS] == checkpoint.files[WEIGHTS]


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_read_as_earlier_transformers_wrote_them(kind: str, made: Made, tmp_path: Path) -> None:
    folder = made(kind, False)[1]
    (tmp_path / "m").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "m")
    rope = dict(KINDS[kind]["rope_parameters"])
    edit(tmp_path / "m", rope_parameters=..., rope_theta=rope.pop("rope_theta"), rope_scaling=rope)
    assert read_config(tmp_path / "m" / "config.json") == read_config(folder / "config.json")
    rope["type"] = rope.pop("rope_type")
    edit(tmp_path / "m", rope_scaling=rope)
    assert read_config(tmp_path / "m" / "config.json") == read_config(folder / "config.json")
    edit(tmp_path / "m", rope_scaling=None, rope_theta=...)
    shape = read_config(tmp_path / "m" / "config.json").shape
    assert (shape.rope_theta, shape.rope_scaling) == (10_000.0, None)


def test_a_file_that_is_exchanged_while_it_is_read_is_refused(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ibidem.serving.imports import import_model

    def exchange(*arguments: Any) -> Any:
        found = real(*arguments)
        change(llama, lambda weights: weights["model.norm.weight"].fill_(2))
        return found

    real = import_model.import_tokenizer
    monkeypatch.setattr(import_model, "import_tokenizer", exchange)
    with pytest.raises(IbidemError, match="changed while it was read"):
        bring(llama, tmp_path / "run")


# There and back


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_an_import_is_the_model_again(
    kind: str,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(self_test, "TEXTS", 60)
    monkeypatch.setattr(self_test, "CONVERSATIONS", 10)
    model, _, checkpoint = made(kind, False)
    words = ["--checkpoint", str(checkpoint.path), "--output-dir", str(tmp_path / "export"), "--quiet"]
    assert main(["export", *words]) == 0
    again = self_test.load_hf_model(tmp_path / "export")
    theirs = model.state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor[: len(theirs[name])], theirs[name]), name
    assert again.config.rope_parameters == model.config.rope_parameters
    card = (tmp_path / "export" / "README.md").read_text()
    assert "license: mit" in card
    assert f"They come from outside, from `{kind}-False`" in card
    back = bring(tmp_path / "export", tmp_path / "back")
    assert back.files[WEIGHTS] == checkpoint.files[WEIGHTS]
    assert back.config["model"] == checkpoint.config["model"]
    assert back.config[IMPORTED]["license"] == "MIT"
    ends = [Tokenizer.load(each.path / TOKENIZER_DIR).end_ids for each in (checkpoint, back)]
    assert 1 in ends[0], "its own"
    assert ends[0] == ends[1]


def test_an_export_of_ours_comes_back_with_the_same_weights_and_ids(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "TEXTS", 60)
    monkeypatch.setattr(self_test, "CONVERSATIONS", 10)
    for source, name in ((checkpoint, "one"), (tmp_path / "run", "two")):
        words = ["--checkpoint", str(source), "--output-dir", str(tmp_path / name), "--quiet"]
        assert main(["export", *words]) == 0
        bring(tmp_path / name, tmp_path / "run")
    for name in (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    mine, back = (Tokenizer.load(folder / TOKENIZER_DIR) for folder in (checkpoint, tmp_path / "run" / STEP))
    texts = ["def add(value, index):\n", "<|user|> \u2581 é 漢", "x = 1"]
    assert [back.encode(text) for text in texts] == [mine.encode(text) for text in texts]
    before, after = (load_file(folder / WEIGHTS) for folder in (checkpoint, tmp_path / "run" / STEP))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_export_for_readers_is_not_imported(tmp_path: Path) -> None:
    readers = {"readers": {"read": ["ada"], "deny": []}}
    with artifacts.create(tmp_path / "export", kind="export", config=readers) as draft:
        (draft.path / "config.json").write_text("{}")
    with pytest.raises(IbidemError, match="made from private documents"):
        bring(tmp_path / "export", tmp_path / "run")


def test_damage_that_only_reading_shows_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    edit(llama, num_attention_heads=4)
    not_a_number(llama)
    with pytest.raises(DataError, match="not finite"):
        bring(llama, tmp_path / "deep" / "run")
    assert not (tmp_path / "deep").exists()
