"""The tokens of a run: made, or verified, by one process of each storage; all others trust its digest.

    main process              tokenizes or verifies, leaves a mark beside the tokens      digest ──► all processes
    first process of a node   sees the mark: the storage is shared, nothing is to do
                              does not see it: tokenizes or verifies the node's own tokens
    all other processes       wait, then read the manifest

Hashing terabytes takes a while, so it is not repeated by each of many processes.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist
from accelerate import Accelerator

from ibidem import artifacts
from ibidem.artifacts import Artifact
from ibidem.data import shards
from ibidem.errors import ConfigError, DataError, IbidemError
from ibidem.files import hidden
from ibidem.readers import check_reader
from ibidem.tokenization.tokenizer import Tokenizer
from ibidem.training.config import DataConfig
from ibidem.training.processes import LONGEST_PREPARATION, host_group
from ibidem.training.tokenize import tokenized
from ibidem.training.tokens import KIND


def check_tokens(data: DataConfig) -> None:
    """Fail early if the data of a training do not belong together; only manifests are read.

    Raises:
        ArtifactError: dataset, tokenizer or tokens are something else.
        ConfigError: the tokens are of another tokenizer, of another state of the dataset, or hold out another share.
    """
    dataset = None if data.dataset is None else artifacts.load(data.dataset, kind=shards.KIND)
    if data.tokens is None:
        return
    tokens = artifacts.load(data.tokens, kind=KIND)
    tokenizer = artifacts.load(data.tokenizer)
    if tokens.digest_of("tokenizer") != tokenizer.digest:
        raise ConfigError(
            f"data.tokens {data.tokens}: made with another tokenizer than data.tokenizer {data.tokenizer}; give that "
            "one, or tokenize the dataset with this one"
        )
    if dataset is not None and tokens.digest_of("dataset") != dataset.digest:
        raise ConfigError(
            f"data.tokens {data.tokens}: made from another dataset than data.dataset {data.dataset}, or from another "
            "state of it; run ibidem tokenize again, or leave data.dataset out"
        )
    share = tokens.config["held_out_share"]
    if data.held_out_share not in {None, share}:
        raise ConfigError(
            f"data.held_out_share is {data.held_out_share:g}, but data.tokens {data.tokens} hold out {share:g}; leave "
            "it out, or tokenize the dataset with that share"
        )


def tokens_of(data: DataConfig, output_dir: Path, accelerator: Accelerator) -> tuple[Artifact, Tokenizer]:
    """Return the tokens to train on, and their tokenizer; on all processes.

    Raises:
        IbidemError: they cannot be made, or are damaged; on all processes, whichever of them found out.
    """
    cache_dir = data.cache_dir or output_dir / "tokens"
    tokens = once_on_each_storage(accelerator, lambda: _made(data, cache_dir))
    check_reader(tokens)
    return tokens, Tokenizer.load(data.tokenizer)


def _made(data: DataConfig, cache_dir: Path) -> Artifact:
    if data.tokens is not None:
        return artifacts.verify(data.tokens, kind=KIND)
    assert data.dataset is not None, "the configuration demands one of both"
    return tokenized(data.dataset, data.tokenizer, cache_dir, held_out_share=data.held_out_share)[0]


def once_on_each_storage(accelerator: Accelerator, make: Callable[[], Artifact]) -> Artifact:
    """Make or verify an artifact once on each storage that the processes see; return it on all of them.

    Args:
        accelerator: the processes.
        make: makes the artifact, or verifies it; with the same path and digest on every node.

    Raises:
        IbidemError: what `make` raised on any of the nodes, or a node has another artifact; on all processes.
    """
    group = host_group(accelerator, LONGEST_PREPARATION)
    if group is None:
        return make()
    said = [_attempted(make) if accelerator.is_main_process else None]
    dist.broadcast_object_list(said, src=0, group=group)
    made = said[0]
    if isinstance(made, IbidemError):
        raise made
    assert made is not None
    path, digest, mark = made
    answers: list[IbidemError | None] = [None] * accelerator.num_processes
    dist.all_gather_object(answers, _checked(accelerator, make, path, digest, mark), group)
    errors = [each for each in answers if each is not None]
    if accelerator.is_main_process:
        with suppress(OSError):
            mark.unlink(missing_ok=True)
    if errors:
        raise errors[0]
    return artifacts.load(path)


def _attempted(make: Callable[[], Artifact]) -> tuple[Path, str, Path] | IbidemError:
    try:
        made = make()
    except IbidemError as error:
        return error
    mark = hidden(made.path, "partial")
    with suppress(OSError):  # a storage that cannot be written to has no mark: each node verifies
        mark.touch()
    return made.path, made.digest, mark


def _checked(
    accelerator: Accelerator, make: Callable[[], Artifact], path: Path, digest: str, mark: Path
) -> IbidemError | None:
    try:
        is_first = accelerator.is_local_main_process and not accelerator.is_main_process
        artifact = make() if is_first and not mark.exists() else None
        if artifact is not None and (artifact.path, artifact.digest) != (path, digest):
            return DataError(
                f"{artifact.path}: {artifact.digest[:19]} on this node, but {path}, {digest[:19]}, on the first one; "
                "give all nodes the same files"
            )
    except IbidemError as error:
        return error
    return None
