"""YAML as a configuration file needs it: plain values, bounded in number and depth, with the lines they stand in.

Aliases (`*name`) work, and what they repeat counts each time, so that no small file becomes a large one. Tags (`!!python/...`)
do not.
"""

from typing import Any

import yaml

MAX_NODES = 20_000  # mappings, lists and values, those that an alias repeats counted again
MAX_DEPTH = 64


class TooMuch(yaml.YAMLError):
    """The text is no configuration: too deep, too many values, or a value that contains itself."""


class _Loader(yaml.SafeLoader):
    """Composes at most MAX_NODES nodes of at most MAX_DEPTH levels."""

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
    """The nodes of a text with one document; None: it is empty. Raises yaml.YAMLError, TooMuch among them."""
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
    """The value of a bounded node: dicts, lists, texts, numbers, dates and None. Raises yaml.YAMLError."""
    constructor = yaml.constructor.SafeConstructor()
    try:
        return constructor.construct_document(node)
    except (ValueError, OverflowError, RecursionError) as error:  # a date or a number that there is none of
        raise TooMuch(f"a value cannot be read: {error}") from None


def _measure(node: yaml.Node, measured: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """How many nodes it stands for once every alias is written out, and how many levels. Raises TooMuch."""
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
