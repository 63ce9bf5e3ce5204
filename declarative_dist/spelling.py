"""Whether two names are so near that one was probably meant for the other."""

from __future__ import annotations


def is_one_edit_from(name: str, other: str) -> bool:
    """Whether inserting, deleting, replacing or swapping one letter makes one name the other.

    Example:
        >>> from declarative_dist.spelling import is_one_edit_from
        >>> is_one_edit_from("rte", "rate"), is_one_edit_from("rate", "ratio")
        (True, False)
    """
    if name == other or abs(len(name) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(name), len(other)) and name[start] == other[start]:
        start += 1
    rest, other_rest = name[start:], other[start:]
    return (
        rest[1:] == other_rest
        or rest == other_rest[1:]
        or rest[1:] == other_rest[1:]
        or (rest[:2] == other_rest[:2][::-1] and rest[2:] == other_rest[2:])
    )
