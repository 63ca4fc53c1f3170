"""The Merkle tree of RFC 9162: one hash stands for a list of events, and short proofs show what it holds.

            root = h(h(h(0,1), h(2,3)), h(4))        leaf i:  SHA-256(0x00, event)
              /              |                       node:    SHA-256(0x01, left, right)
          (2, 0)             |
         /      |            |                       a full subtree is (level, position): it covers the leaves
      (1, 0)  (1, 1)         |                       from position * 2^level on, 2^level of them
      /   |    /   |         |
    (0,0)(0,1)(0,2)(0,3)   (0,4)

Full subtrees never change, so a log stores each once. Everything here asks for them by a function.

Source: RFC 9162, section 2.1 (the hashes are those of RFC 6962).
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

Hash = bytes
Subtrees = Callable[[int, int], Hash]
"""Returns the hash of the full subtree at (level, position)."""

EMPTY = sha256(b"").digest()
"""The root of an empty tree."""


def leaf_hash(event: bytes) -> Hash:
    """Return the hash of a leaf."""
    return sha256(b"\0" + event).digest()


def node_hash(left: Hash, right: Hash) -> Hash:
    """Return the hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


def completed(index: int, leaf: Hash, subtrees: Subtrees) -> list[tuple[int, int, Hash]]:
    """Return the full subtrees of two leaves or more that the leaf at an index completes, as (level, position, hash).

    >>> [(level, position) for level, position, _ in completed(3, EMPTY, lambda level, position: EMPTY)]
    [(1, 1), (2, 0)]
    """
    nodes, level, current = [], 0, leaf
    while index >> level & 1:
        current = node_hash(subtrees(level, (index >> level) - 1), current)
        level += 1
        nodes.append((level, index >> level, current))
    return nodes


def root(size: int, subtrees: Subtrees) -> Hash:
    """Return the root of the first `size` leaves."""
    return _hash_of(0, size, subtrees) if size else EMPTY


def inclusion_proof(index: int, size: int, subtrees: Subtrees) -> list[Hash]:
    """Return the hashes that lead from a leaf to the root of the first `size` leaves (section 2.1.3.1)."""
    assert 0 <= index < size
    start, end, proof = 0, size, list[Hash]()
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_hash_of(middle, end, subtrees))
            end = middle
        else:
            proof.append(_hash_of(start, middle, subtrees))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, subtrees: Subtrees) -> list[Hash]:
    """Return the hashes that show that a tree of `new` leaves begins with one of `old` (section 2.1.4.1)."""
    assert 0 <= old <= new
    if old in {0, new}:
        return []
    start, end, proof = 0, new, list[Hash]()
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_hash_of(middle, end, subtrees))
            end = middle
        else:
            proof.append(_hash_of(start, middle, subtrees))
            start = middle
    if start:
        proof.append(_hash_of(start, end, subtrees))
    return proof[::-1]


def includes(leaf: Hash, index: int, size: int, proof: Sequence[Hash], root: Hash) -> bool:
    """Return whether a proof shows that a leaf is at an index of a tree (section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last, current = index, size - 1, leaf
    for each in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            current = node_hash(each, current)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            current = node_hash(current, each)
        position, last = position >> 1, last >> 1
    return last == 0 and current == root


def extends(old: int, new: int, proof: Sequence[Hash], old_root: Hash, new_root: Hash) -> bool:
    """Return whether a proof shows that the tree of `new` leaves begins with that of `old` (section 2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old in {0, new}:
        return not proof and old_root == (EMPTY if old == 0 else new_root)
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    of_old = of_new = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            of_old, of_new = node_hash(each, of_old), node_hash(each, of_new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            of_new = node_hash(of_new, each)
        position, last = position >> 1, last >> 1
    return last == 0 and of_old == old_root and of_new == new_root


class Growing:
    """A tree that grows leaf by leaf and keeps only the full subtrees at its right edge, at most one of each level."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[Hash | None] = []

    def append(self, leaf: Hash) -> list[tuple[int, int, Hash]]:
        """Add a leaf; return the subtrees that it completes, as `completed` does."""
        nodes = completed(self.size, leaf, self._left)
        level, current = (nodes[-1][0], nodes[-1][2]) if nodes else (0, leaf)
        if level == len(self._edge):
            self._edge.append(None)
        self._edge[:level] = [None] * level
        self._edge[level] = current
        self.size += 1
        return nodes

    def root(self) -> Hash:
        """Return the root of all leaves so far."""
        return _joined(each for each in self._edge if each is not None)

    def _left(self, level: int, _: int) -> Hash:
        left = self._edge[level]
        assert left is not None
        return left


def _joined(from_the_right: Iterable[Hash]) -> Hash:
    current = None
    for each in from_the_right:
        current = each if current is None else node_hash(each, current)
    return EMPTY if current is None else current


def _hash_of(start: int, end: int, subtrees: Subtrees) -> Hash:
    """Return the hash of the leaves from `start`, which is a multiple of a power of two not below their number."""
    size = end - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return subtrees(level, start >> level)
    middle = start + _split(size)
    return node_hash(_hash_of(start, middle, subtrees), _hash_of(middle, end, subtrees))


def _split(size: int) -> int:
    """Return the largest power of two below a size.

    >>> [_split(size) for size in (2, 3, 4, 5)]
    [1, 2, 2, 4]
    """
    return 1 << (size - 1).bit_length() - 1
