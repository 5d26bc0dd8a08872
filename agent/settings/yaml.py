"""Parse YAML with limits on size and depth.

Aliases (`*name`) are allowed. The values that an alias repeats count again each time, so that a small file cannot
expand into a huge one. Tags (`!!python/...`) are refused.
"""

from typing import Any

import yaml

MAX_NODES = 20_000  # mappings, lists and values; those repeated by an alias count again
MAX_DEPTH = 64


class TooMuch(yaml.YAMLError):
    """The text is nested too deeply, or has too many values, a value that contains itself, or an unreadable value."""


class _Loader(yaml.SafeLoader):
    """A YAML loader that raises TooMuch for more than MAX_NODES nodes or MAX_DEPTH levels."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._num_nodes += 1
        if self._depth > MAX_DEPTH:
            raise TooMuch(f"it is nested more than {MAX_DEPTH} levels deep")
        if self._num_nodes > MAX_NODES:
            raise TooMuch(f"it has more than {MAX_NODES} values")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def bounded_node(text: str) -> yaml.Node | None:
    """Parse a text and return its root node; None for an empty text. Raises yaml.YAMLError or its subclass TooMuch."""
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    except RecursionError:
        raise TooMuch("it is nested too deeply") from None
    finally:
        loader.dispose()
    if node is not None:
        _measure(node, {}, 0)
    return node


def plain_value(node: yaml.Node) -> Any:
    """Return the value of a node: dicts, lists, strings, numbers, dates and None. Raises yaml.YAMLError."""
    constructor = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_document(node)
    except (ValueError, OverflowError, RecursionError) as error:  # raised for February 31, or a number of 5000 digits
        raise TooMuch(f"a value cannot be read: {error}") from None


def _measure(node: yaml.Node, measured: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """Return how many nodes and how many levels `node` has if every alias is replaced by its value. Raises TooMuch.

    measured: results so far, by the id of the node. depth: the level of `node`.
    """
    if depth > MAX_DEPTH:
        raise TooMuch("a value contains itself, or aliases nest too deeply")
    if id(node) not in measured:
        below: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            below = [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        inner = [_measure(each, measured, depth + 1) for each in below]
        size, height = 1 + sum(size for size, _ in inner), 1 + max((height for _, height in inner), default=0)
        if size > MAX_NODES or height > MAX_DEPTH:
            raise TooMuch(f"its aliases stand for more than {MAX_NODES} values, or more than {MAX_DEPTH} levels")
        measured[id(node)] = size, height
    return measured[id(node)]
