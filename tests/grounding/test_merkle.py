"""The Merkle tree: the vectors of Certificate Transparency, and RFC 9162's definitions written down as they stand."""

from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibidem.grounding.audit import merkle

LEAVES = [
    bytes.fromhex(each)
    for each in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
]
ROOTS = [  # google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc; the root of each number of leaves
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {  # (index, size): hashes
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {  # (old, new): hashes
    (1, 1): [],
    (1, 8): INCLUSION[0, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}

Leaves = list[bytes]


def split(leaves: Leaves) -> int:
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return k


def naive_root(leaves: Leaves) -> bytes:
    """Section 2.1.1, MTH."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(leaves)
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_inclusion(m: int, leaves: Leaves) -> Leaves:
    """Section 2.1.3.1, PATH."""
    if len(leaves) == 1:
        return []
    k = split(leaves)
    if m < k:
        return [*naive_inclusion(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_inclusion(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_consistency(m: int, leaves: Leaves, *, is_known: bool = True) -> Leaves:
    """Section 2.1.4.1, SUBPROOF."""
    if m == len(leaves):
        return [] if is_known else [naive_root(leaves)]
    k = split(leaves)
    if m <= k:
        return [*naive_consistency(m, leaves[:k], is_known=is_known), naive_root(leaves[k:])]
    return [*naive_consistency(m - k, leaves[k:], is_known=False), naive_root(leaves[:k])]


def stored(leaves: Leaves) -> Callable[[int, int], bytes]:
    """Store full subtrees as the log does; it computes none of them twice."""
    nodes: dict[tuple[int, int], bytes] = {}
    for index, leaf in enumerate(leaves):
        nodes[0, index] = merkle.leaf_hash(leaf)
        for level, position, hashed in merkle.completed(index, nodes[0, index], lambda *place: nodes[place]):
            assert (level, position) not in nodes
            nodes[level, position] = hashed
    return lambda level, position: nodes[level, position]


def test_the_roots_and_proofs_are_those_of_certificate_transparency() -> None:
    subtrees = stored(LEAVES)
    assert [merkle.root(size, subtrees).hex() for size in range(9)] == ROOTS
    for place, expected in INCLUSION.items():
        assert [each.hex() for each in merkle.inclusion_proof(*place, subtrees)] == expected
    for sizes, expected in CONSISTENCY.items():
        assert [each.hex() for each in merkle.consistency_proof(*sizes, subtrees)] == expected


@given(st.lists(st.binary(max_size=3), max_size=70))
def test_a_tree_that_grows_has_the_root_of_the_definition(leaves: Leaves) -> None:
    tree, subtrees = merkle.Growing(), stored(leaves)
    for size, leaf in enumerate(leaves):
        assert tree.root() == naive_root(leaves[:size]) == merkle.root(size, subtrees)
        nodes = tree.append(merkle.leaf_hash(leaf))
        assert nodes == [(level, position, subtrees(level, position)) for level, position, _ in nodes]
    assert tree.root() == naive_root(leaves)


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=70), st.data())
def test_inclusion_proofs_are_those_of_the_definition_and_show_nothing_else(
    leaves: Leaves, data: st.DataObject
) -> None:
    index, size, subtrees = data.draw(st.integers(0, len(leaves) - 1)), len(leaves), stored(leaves)
    proof, root = merkle.inclusion_proof(index, size, subtrees), naive_root(leaves)
    assert proof == naive_inclusion(index, leaves)
    leaf = merkle.leaf_hash(leaves[index])
    assert merkle.includes(leaf, index, size, proof, root)
    assert not merkle.includes(merkle.leaf_hash(leaves[index] + b"!"), index, size, proof, root)
    assert not merkle.includes(leaf, index, size, [*proof, root], root)
    assert not merkle.includes(leaf, index, size, proof, bytes(32))
    assert not merkle.includes(leaf, size, size, proof, root)
    for number in range(len(proof)):
        assert not merkle.includes(leaf, index, size, proof[:number] + proof[number + 1 :], root)
        assert not merkle.includes(leaf, index, size, [*proof[:number], bytes(32), *proof[number + 1 :]], root)
    for other in range(size):
        if leaves[other] != leaves[index]:
            assert not merkle.includes(leaf, other, size, proof, root)


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=70), st.data())
def test_consistency_proofs_are_those_of_the_definition_and_show_nothing_else(
    leaves: Leaves, data: st.DataObject
) -> None:
    old, new, subtrees = data.draw(st.integers(0, len(leaves))), len(leaves), stored(leaves)
    proof, roots = merkle.consistency_proof(old, new, subtrees), (naive_root(leaves[:old]), naive_root(leaves))
    assert proof == (naive_consistency(old, leaves) if old else [])
    assert merkle.extends(old, new, proof, *roots)
    assert not merkle.extends(old, new, [*proof, bytes(32)], *roots)
    assert not merkle.extends(old, new, proof, bytes(32), roots[1])
    assert not merkle.extends(new + 1, new, proof, *roots)
    if old not in {0, new}:
        assert not merkle.extends(old, new, proof, roots[0], bytes(32))
        for number in range(len(proof)):
            assert not merkle.extends(old, new, proof[:number] + proof[number + 1 :], *roots)
            assert not merkle.extends(old, new, [*proof[:number], bytes(32), *proof[number + 1 :]], *roots)


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_an_append_and_a_proof_ask_for_few_subtrees(size: int) -> None:
    asked = 0

    def subtree(*_: int) -> bytes:
        nonlocal asked
        asked += 1
        return bytes(32)

    merkle.inclusion_proof(size // 3, size, subtree)
    assert asked <= 2 * size.bit_length() ** 2
    asked = 0
    for index in range(size):
        merkle.completed(index, bytes(32), subtree)
    assert asked < size
