"""The commands: a table from each one's name to its configuration, its function and its help.

The order is that of a project. A command's modules are imported when it is chosen, so typos are answered at once.
"""

import importlib
from typing import Any, NamedTuple

from ibidem import config, runtime
from ibidem.config import configuration
from ibidem.console import Form


class Command(NamedTuple):
    """A command."""

    config: str
    """Its configuration, as `module:name`."""
    run: str
    """Its function, which takes the configuration and returns what to print."""
    help: str
    example: str
    preview: str = ""
    """Its function for `--dry-run`, which returns lines on what it would do."""


GROUPS: dict[str, dict[str, Command]] = {
    "Begin": {
        "demo": Command(
            "ibidem.demo:DemoConfig",
            "ibidem.demo:demo",
            "every stage, at small scale, on this computer",
            "ibidem demo",
        ),
        "doctor": Command(
            "ibidem.doctor:DoctorConfig",
            "ibidem.doctor:doctor",
            "what this machine has, and what is wrong with it",
            "ibidem doctor",
        ),
        "init": Command(
            "ibidem.init:InitConfig",
            "ibidem.init:init",
            "copies of the shipped configurations, to edit",
            "ibidem init configs",
        ),
        "plan": Command(
            "ibidem.training.plan:PlanConfig",
            "ibidem.training.plan:plan",
            "parameters, memory, FLOP, days and cost, before anything is spent",
            "ibidem plan --config configs/training/base.yaml",
        ),
        "completion": Command(
            "ibidem.completion:CompletionConfig",
            "ibidem.completion:completion",
            "completion of commands and flags in bash, zsh or fish",
            "ibidem completion bash > ~/.local/share/bash-completion/completions/ibidem",
        ),
    },
    "Data": {
        "preprocess": Command(
            "ibidem.data.preprocess:PreprocessConfig",
            "ibidem.data.preprocess:preprocess",
            "turn public data into clean, licensed Parquet shards",
            "ibidem preprocess --dataset path/to/code:train:text --output-dir data/public/processed",
            preview="ibidem.data.preprocess:preview",
        ),
        "synthesize": Command(
            "ibidem.training.synthesize:SynthesizeConfig",
            "ibidem.training.synthesize:synthesize",
            "make conversations from a dataset's own functions: explained, completed, debugged, run; and refusals",
            "ibidem synthesize --from data/public/processed --output-dir data/public/traces --number 1000",
            preview="ibidem.training.synthesize:preview",
        ),
        "problems": Command(
            "ibidem.data.synthetic.programs:ProblemsConfig",
            "ibidem.data.synthetic.programs:write_problems",
            "make small programming problems with tests, from templates",
            "ibidem problems --output problems.jsonl --number 500",
        ),
        "plan data": Command(
            "ibidem.data.plan:DataPlanConfig",
            "ibidem.data.plan:plan",
            "time, memory, disk, requests and cost of preprocessing a corpus on a cluster",
            "ibidem plan data --gigabytes 4000 --machines 4 16 64",
        ),
        "blend": Command(
            "ibidem.data.blend:BlendConfig",
            "ibidem.data.blend:blend",
            "combine preprocessed datasets in given shares, the same bytes every time",
            "ibidem blend --config configs/data/blend.yaml",
        ),
        "card": Command(
            "ibidem.data.provenance.card:CardConfig",
            "ibidem.data.provenance.card:card",
            "data card, Croissant and the EU training-content summary of a dataset",
            "ibidem card data/public/processed",
            preview="ibidem.data.provenance.card:preview",
        ),
        "export-data": Command(
            "ibidem.data.provenance.export_data:ExportDataConfig",
            "ibidem.data.provenance.export_data:export_data",
            "copy a dataset so that datasets.load_dataset and readers of Croissant open it",
            "ibidem export-data data/public/processed --output-dir export/data",
        ),
        "data get": Command(
            "ibidem.evaluation.obtain:GetConfig",
            "ibidem.evaluation.obtain:get",
            "where a published benchmark comes from, and whether a copy is the published one",
            "ibidem data get mbpp --path data/benchmarks/mbpp.jsonl",
        ),
        "takedown plan": Command(
            "ibidem.data.provenance.takedown:TakedownConfig",
            "ibidem.data.provenance.takedown:plan_command",
            "list what removal requests affect: documents, shards, tokens, checkpoints",
            "ibidem takedown plan requests.jsonl --dataset data/public/processed",
        ),
        "takedown apply": Command(
            "ibidem.data.provenance.takedown:TakedownConfig",
            "ibidem.data.provenance.takedown:apply_command",
            "remove documents from finished shards, verify and certify the removal",
            "ibidem takedown apply requests.jsonl --dataset data/public/processed",
            preview="ibidem.data.provenance.takedown:preview",
        ),
        "takedown verify": Command(
            "ibidem.data.provenance.takedown:TakedownConfig",
            "ibidem.data.provenance.takedown:verify_command",
            "check that nothing named by the removal requests is left",
            "ibidem takedown verify requests.jsonl --dataset data/public/processed",
        ),
        "takedown copy": Command(
            "ibidem.data.provenance.export_data:TakedownCopyConfig",
            "ibidem.data.provenance.export_data:takedown_copy",
            "remove the documents of a certificate from exported copies, wherever they are",
            "ibidem takedown copy processed.takedown-0123456789ab.json --copy export/data",
        ),
    },
    "Model": {
        "train-tokenizer": Command(
            "ibidem.tokenization.train_tokenizer:TrainTokenizerConfig",
            "ibidem.tokenization.train_tokenizer:train_tokenizer",
            "train a tokenizer that reproduces every byte",
            "ibidem train-tokenizer --input data/public/processed --output-dir artifacts/tokenizer",
        ),
        "tokenize": Command(
            "ibidem.training.tokenize:TokenizeConfig",
            "ibidem.training.tokenize:tokenize",
            "tokenize a dataset shard by shard, before the training that would wait for it",
            "ibidem tokenize --dataset data/public/processed --tokenizer artifacts/tokenizer --output-dir tokens",
            preview="ibidem.training.tokenize:preview",
        ),
        "train": Command(
            "ibidem.training.config:TrainConfig",
            "ibidem.training.train:train",
            "pretrain a decoder",
            "ibidem train --config configs/training/base.yaml --model tiny",
            preview="ibidem.training.train:preview",
        ),
        "sft": Command(
            "ibidem.training.rlhf.config:SftConfig",
            "ibidem.training.rlhf.sft_pipeline:sft",
            "teach a checkpoint to answer, from conversations",
            "ibidem sft --initial artifacts --data conversations.jsonl --output-dir sft --training.steps 200",
        ),
        "raft": Command(
            "ibidem.training.rlhf.config:RaftConfig",
            "ibidem.training.raft:raft",
            "teach a checkpoint to answer from the documents that a principal may read, and to cite them",
            "ibidem raft --initial sft --index artifacts/index --principal ada --output-dir raft --training.steps 200",
        ),
        "reward": Command(
            "ibidem.training.rlhf.config:RewardConfig",
            "ibidem.training.rlhf.reward_model:reward",
            "train a reward model, from pairs of a better and a worse answer",
            "ibidem reward --initial sft --data pairs.jsonl --output-dir reward --training.steps 200",
        ),
        "dpo": Command(
            "ibidem.training.rlhf.config:DpoConfig",
            "ibidem.training.rlhf.dpo_trainer:dpo",
            "train a checkpoint on preferences, from pairs of a better and a worse answer",
            "ibidem dpo --initial sft --data pairs.jsonl --output-dir dpo --training.steps 200",
        ),
        "ppo": Command(
            "ibidem.training.rlhf.config:PpoConfig",
            "ibidem.training.rlhf.ppo_trainer:ppo",
            "train a checkpoint with a reward model, from prompts alone",
            "ibidem ppo --initial sft --reward reward --data prompts.jsonl --output-dir ppo --training.steps 200",
        ),
        "grpo": Command(
            "ibidem.training.rlhf.config:GrpoConfig",
            "ibidem.training.rlhf.grpo_trainer:grpo",
            "train a checkpoint on problems whose tests are run, by a judge that cannot be fooled",
            "ibidem grpo --initial sft --problems problems.jsonl --output-dir grpo --training.steps 200",
        ),
        "train-head": Command(
            "ibidem.training.config:HeadConfig",
            "ibidem.training.head:train_head",
            "train a head that tells supported passages from others, on cloze questions; its base is not changed",
            "ibidem train-head --initial artifacts --data data/public/docs --output-dir head --training.steps 300",
        ),
        "import": Command(
            "ibidem.serving.config:ImportConfig",
            "ibidem.serving.imports.import_model:import_model",
            "make a checkpoint from a Llama or Qwen3 folder of Hugging Face",
            "ibidem import --from models/Qwen3-0.6B --output-dir artifacts/qwen3",
        ),
        "generate": Command(
            "ibidem.serving.config:GenerateConfig",
            "ibidem.serving.generate:generate",
            "complete prompts with a checkpoint",
            'ibidem generate --checkpoint artifacts --prompt "def fibonacci(n):"',
        ),
        "attribute build": Command(
            "ibidem.attribution.config:BuildConfig",
            "ibidem.attribution.index:build",
            "index the tokens of a training, to find what a text repeats",
            "ibidem attribute build --tokens artifacts/tokens/0123456789abcdef --output-dir artifacts/attribution",
        ),
        "attribute": Command(
            "ibidem.attribution.config:AttributeConfig",
            "ibidem.attribution.attribute:attribute",
            "show which training documents a text repeats, with their licenses",
            "ibidem attribute answer.py --index artifacts/attribution",
        ),
        "report": Command(
            "ibidem.serving.config:ReportConfig",
            "ibidem.serving.report:report",
            "one HTML page about data, training and model",
            "ibidem report --run artifacts --output artifacts/report.html",
        ),
    },
    "Serving": {
        "serve": Command(
            "ibidem.serving.config:ServeConfig",
            "ibidem.serving.server.serve:serve",
            "serve a model, and documents, to browsers, editors and OpenAI's clients",
            "ibidem serve --checkpoint artifacts --index artifacts/index",
        ),
        "token create": Command(
            "ibidem.serving.config:TokenCreateConfig",
            "ibidem.serving.server.token_commands:create",
            "make a token for a server, which is shown once",
            "ibidem token create --principal ada",
        ),
        "token list": Command(
            "ibidem.serving.config:TokenListConfig",
            "ibidem.serving.server.token_commands:listed",
            "the tokens of a server",
            "ibidem token list",
        ),
        "token revoke": Command(
            "ibidem.serving.config:TokenRevokeConfig",
            "ibidem.serving.server.token_commands:revoke",
            "revoke a token; what is being sent with it ends",
            "ibidem token revoke 3f9a61c2",
        ),
        "chat": Command(
            "ibidem.serving.config:ChatConfig",
            "ibidem.serving.chat:chat",
            "chat with a checkpoint in the terminal",
            "ibidem chat --checkpoint sft",
        ),
        "export": Command(
            "ibidem.serving.config:ExportConfig",
            "ibidem.serving.export.export:export",
            "write a checkpoint as transformers, lm-evaluation-harness and vLLM open it",
            "ibidem export --checkpoint sft --format hf --output-dir export",
        ),
    },
    "Documents": {
        "ground index": Command(
            "ibidem.grounding.config:GroundIndexConfig",
            "ibidem.grounding.indexing:index",
            "index a folder of private documents, each for those who may read it",
            "ibidem ground index --docs handbook --acl acl.yaml --output-dir artifacts/index",
            preview="ibidem.grounding.indexing:preview",
        ),
        "ground search": Command(
            "ibidem.grounding.config:GroundSearchConfig",
            "ibidem.grounding.search:search",
            "find passages in the documents that a principal may read",
            'ibidem ground search --index artifacts/index --principal ada --query "notice period"',
        ),
        "ground ask": Command(
            "ibidem.grounding.config:GroundAskConfig",
            "ibidem.grounding.ask:ask",
            "answer from the documents that a principal may read; each citation is checked",
            'ibidem ground ask --index artifacts/index --principal ada --question "How long is the notice period?"',
        ),
        "ground review": Command(
            "ibidem.grounding.config:GroundReviewConfig",
            "ibidem.grounding.review:review",
            "a form for people: does a head rank hallucinated statements below supported ones?",
            "ibidem ground review --index artifacts/index --head head --questions questions.jsonl --principal ada "
            "--output-dir review",
        ),
        "ground show": Command(
            "ibidem.grounding.config:GroundShowConfig",
            "ibidem.grounding.search:show",
            "open a cited chunk",
            "ibidem ground show 6f1d0c2b9a3e47586f1d0c2b9a3e4758 --index artifacts/index --principal ada",
        ),
        "ground forget": Command(
            "ibidem.grounding.config:GroundForgetConfig",
            "ibidem.grounding.forgetting:forget",
            "remove a document from every file of an index; name what was made with it",
            "ibidem ground forget salaries/march.md --index artifacts/index",
        ),
        "audit verify": Command(
            "ibidem.grounding.config:AuditVerifyConfig",
            "ibidem.grounding.audit.commands:verify_command",
            "check that an audit log only grew since its heads were signed; or check a proof",
            "ibidem audit verify --index artifacts/index --head monday.head",
        ),
        "audit head": Command(
            "ibidem.grounding.config:AuditHeadConfig",
            "ibidem.grounding.audit.commands:head_command",
            "sign what an audit log holds, to keep it elsewhere",
            "ibidem audit head --index artifacts/index --output monday.head",
        ),
        "audit prove": Command(
            "ibidem.grounding.config:AuditProveConfig",
            "ibidem.grounding.audit.commands:prove_command",
            "prove that an event is in an audit log",
            "ibidem audit prove 12 --index artifacts/index --head monday.head",
        ),
        "audit list": Command(
            "ibidem.grounding.config:AuditListConfig",
            "ibidem.grounding.audit.commands:list_command",
            "the last events of an audit log",
            "ibidem audit list --index artifacts/index",
        ),
    },
    "Evaluation": {
        "evaluate perplexity": Command(
            "ibidem.evaluation.config:PerplexityConfig",
            "ibidem.evaluation.perplexity:perplexity",
            "perplexity and bits per byte of a checkpoint on text",
            "ibidem evaluate perplexity --checkpoint artifacts --data data/public/processed",
        ),
        "evaluate dashboard": Command(
            "ibidem.evaluation.config:DashboardConfig",
            "ibidem.evaluation.dashboard:dashboard",
            "perplexity of many checkpoints on many texts, by language and category, as a page",
            "ibidem evaluate dashboard --run artifacts --data data/public --output-dir board",
        ),
        "evaluate human-eval": Command(
            "ibidem.evaluation.config:HumanEvalConfig",
            "ibidem.evaluation.human_eval:human_eval",
            "HumanEval and HumanEval+, by a judge that forged verdicts cannot reach",
            "ibidem evaluate human-eval --checkpoint artifacts --output-dir human-eval",
        ),
        "evaluate mbpp": Command(
            "ibidem.evaluation.config:MbppConfig",
            "ibidem.evaluation.mbpp:mbpp",
            "MBPP, sanitized MBPP and MBPP+",
            "ibidem evaluate mbpp --checkpoint artifacts --problems mbpp.jsonl --output-dir mbpp",
        ),
        "evaluate mmlu": Command(
            "ibidem.evaluation.config:MmluConfig",
            "ibidem.evaluation.mmlu:mmlu",
            "MMLU subjects, few-shot",
            "ibidem evaluate mmlu --checkpoint artifacts --data mmlu --output-dir mmlu-5",
        ),
        "evaluate doc-qa": Command(
            "ibidem.evaluation.config:DocQaConfig",
            "ibidem.evaluation.doc_qa:doc_qa",
            "answers from documents: exact match, F1, citations, unsupported claims, abstentions",
            "ibidem evaluate doc-qa --checkpoint artifacts --data questions.jsonl --output-dir answers",
        ),
        "evaluate chat": Command(
            "ibidem.evaluation.config:ChatConfig",
            "ibidem.evaluation.chat:chat",
            "responses to support scenarios and red-team prompts, for people to rate",
            "ibidem evaluate chat --checkpoint artifacts --prompts prompts.jsonl --output-dir responses",
        ),
        "evaluate refusals": Command(
            "ibidem.evaluation.config:RefusalsConfig",
            "ibidem.evaluation.refusals:refusals",
            "how often a model refuses safe and unsafe prompts",
            "ibidem evaluate refusals --checkpoint artifacts --prompts xstest_prompts.csv",
        ),
        "evaluate verbatim": Command(
            "ibidem.evaluation.config:VerbatimConfig",
            "ibidem.evaluation.verbatim:verbatim",
            "how much of what a model writes stands in its training data, and under which licenses",
            "ibidem evaluate verbatim --checkpoint artifacts --prompts prompts.jsonl --index artifacts/attribution",
        ),
        "evaluate ratings": Command(
            "ibidem.evaluation.config:RatingsConfig",
            "ibidem.evaluation.ratings:ratings",
            "people's ratings of responses, with the raters' agreement",
            "ibidem evaluate ratings --responses responses --ratings ratings.csv --output-dir ratings",
        ),
    },
    "Release": {
        "gate pin": Command(
            "ibidem.evaluation.gate.config:PinConfig",
            "ibidem.evaluation.gate.pin:pin",
            "write the digests of a policy's benchmarks into its file",
            "ibidem gate pin --policy configs/evaluation/gate.yaml",
        ),
        "gate": Command(
            "ibidem.evaluation.gate.config:GateConfig",
            "ibidem.evaluation.gate.gate:gate",
            "decide whether a checkpoint may be released, with the evidence",
            "ibidem gate --evaluate --config configs/evaluation/gate.yaml",
        ),
        "key": Command(
            "ibidem.evaluation.gate.config:KeyConfig",
            "ibidem.evaluation.gate.statements:make_key",
            "make a key that signs evaluations and decisions",
            "ibidem key signing.key",
        ),
        "sign": Command(
            "ibidem.evaluation.gate.config:SignConfig",
            "ibidem.evaluation.gate.statements:sign_evaluation",
            "sign an evaluation, for a gate whose policy names the signer",
            "ibidem sign ratings --key signing.key",
        ),
    },
    "Look": {
        "list": Command(
            "ibidem.listing:ListConfig",
            "ibidem.listing:list_artifacts",
            "the artifacts here: kind, size, when and from what each was made",
            "ibidem list artifacts",
        ),
        "show": Command(
            "ibidem.show:ShowConfig",
            "ibidem.show:show",
            "documents of a dataset, kept or dropped; programs and answers of an evaluation",
            "ibidem show data/public/processed --dropped filter.lines",
        ),
        "trace": Command(
            "ibidem.data.provenance.trace:TraceConfig",
            "ibidem.data.provenance.trace:trace",
            "show what an artifact was made from, or where a document went",
            "ibidem trace artifacts/checkpoints/step-025000",
        ),
        "verify": Command(
            "ibidem.lineage:ArtifactPath",
            "ibidem.lineage:verify_command",
            "rehash an artifact and its ancestors",
            "ibidem verify artifacts/checkpoints/step-025000",
        ),
    },
}

COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}


@configuration
class CommonFlags:
    """Flags of every command."""

    dry_run: bool = False
    """Check the flags, and show what would be read and written, without doing it."""
    quiet: bool = False
    """Show no progress: only the result, or the error."""
    log_format: Form = "lines"
    """Show progress as lines for people, or as JSON lines."""


def load(place: str) -> Any:
    """Import what a command names as `module:name`."""
    module, _, name = place.partition(":")
    with runtime.importing():
        return getattr(importlib.import_module(module), name)


def flags_of(command: Command) -> list[tuple[str, str, str]]:
    """List the flags of a command as (flag, type and default, meaning), its own before those of every command."""
    file = ("--config", "path", "A YAML file with the same keys; flags win over it.")
    return [*config.describe(load(command.config)), file, *config.describe(CommonFlags)]
