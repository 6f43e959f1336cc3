"""YAML to nodes: safely, within bounds, with line numbers, and with `${NAME}` from the environment."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.reader import ReaderError
from yaml.resolver import Resolver

from fairqued.daemon.config.tree import BROKEN, Mistakes, Node, Place, join, quoted

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_NODES = 200_000
MAX_DEPTH = 32
"""Deeper nesting is no configuration; parsers and walkers are recursive."""

_MOST_BITS = 64
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TYPED_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float"))
_SCALAR_TAGS = _TYPED_TAGS | frozenset(_TAG + name for name in ("str", "timestamp", "value"))
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}|\$\{", re.ASCII)


class _RefusedError(Exception):
    """The source cannot be read any further."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


class _NotYamlError(_RefusedError):
    """The source is not written in YAML."""


def read_file(path: Path, environ: Mapping[str, str], mistakes: Mistakes) -> Node | None:
    """Return the settings of a file, None if it cannot be read at all. An empty file has no settings."""
    place = Place(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        mistakes.add(place, "", f"cannot be read: {getattr(error, 'strerror', None) or error}")
        return None
    if len(data) > MAX_FILE_BYTES:
        mistakes.add(place, "", f"is larger than {MAX_FILE_BYTES >> 20} MiB: not a configuration")
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        mistakes.add(place._replace(line=data.count(b"\n", 0, error.start) + 1), "", "is not UTF-8 text")
        return None
    node = _read_document(text, place.source, environ, mistakes)
    if node is None or isinstance(node.value, Mapping):
        return node
    if node.value is None:
        return Node({}, Place(place.source, 1))
    mistakes.add(node.place, "", f"expected a mapping of settings, found {node.shown()}")
    return None


def read_value(text: str, variable: str, mistakes: Mistakes, path: str) -> Node:
    """Return the value of an environment variable for the setting at `path`: YAML, else it stands for itself.

    So `*/5 * * * *` and `[::1]:9750` need no quotes within the quotes of the shell.
    """
    place = Place(variable)
    try:
        return _Reader(variable, None, mistakes).node(_compose(text), place, path)
    except _NotYamlError:
        return Node(text, place)
    except _RefusedError as error:
        mistakes.add(place, path, error.problem)
        return Node(BROKEN, place)


def _read_document(text: str, source: str, environ: Mapping[str, str], mistakes: Mistakes) -> Node | None:
    try:
        root = _compose(text)
        return _Reader(source, environ, mistakes).node(root, Place(source, _line(root)), "")
    except _RefusedError as error:
        line = min(error.line, len(text.splitlines()) or 1)  # at a sudden end, libyaml names the line after the last
        mistakes.add(Place(source, line), "", error.problem)
        return None


def _compose(text: str) -> yaml.Node:
    """Return the root of the only document in `text`; raises _RefusedError."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _RefusedError(_line(event), f"is nested deeper than {MAX_DEPTH} levels")
        root: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text) from None
    except (ReaderError, UnicodeEncodeError) as error:
        at = error.position if isinstance(error, ReaderError) else error.start
        raise _RefusedError(text.count("\n", 0, at) + 1, "holds a character that YAML does not allow") from None
    return yaml.ScalarNode(_TAG + "null", "") if root is None else root


def _line(part: yaml.Node | yaml.Event) -> int:
    return 1 if part.start_mark is None else part.start_mark.line + 1


def _not_yaml(error: yaml.MarkedYAMLError, text: str) -> _NotYamlError:
    """What is wrong with the YAML, and in which line; never the line itself, which may hold a secret."""
    mark = error.problem_mark or error.context_mark
    line = 1 if mark is None else mark.line + 1
    problem = f"is not valid YAML: {error.problem or error.context}"
    if "nesting depth" in problem:  # some releases of the library have a limit of their own, far above ours
        return _NotYamlError(line, f"is nested deeper than {MAX_DEPTH} levels")
    lines = text.splitlines()
    if line <= len(lines) and re.match(r" *\t", lines[line - 1]):
        problem += "; indent with blanks, not with tabs"
    elif error.context_mark is not None and error.context_mark.line + 1 < line:
        problem += f" ({error.context} that begins in line {error.context_mark.line + 1})"
    return _NotYamlError(line, problem)


class _Reader:
    """Turns the nodes of one YAML document into ours. Without `environ`, `${NAME}` is text and there are no lines."""

    def __init__(self, source: str, environ: Mapping[str, str] | None, mistakes: Mistakes) -> None:
        self._source = source
        self._environ = environ
        self._mistakes = mistakes
        self._count = 0

    def node(self, node: yaml.Node, place: Place, path: str, depth: int = 0) -> Node:
        """Return `node`, found at `place`, with all below it."""
        self._count += 1
        if self._count > MAX_NODES:
            raise _RefusedError(place.line, f"has more than {MAX_NODES} values once its aliases are expanded")
        if depth > MAX_DEPTH:
            raise _RefusedError(place.line, f"is nested deeper than {MAX_DEPTH} levels once its aliases are expanded")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, place, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            entries = enumerate(node.value)
            return Node([self.node(e, self._place(e), join(path, i), depth + 1) for i, e in entries], place)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALAR_TAGS:
            return self._scalar(node, place, path)
        tag = quoted(node.tag.replace(_TAG, "!!", 1))
        return self._broken(place, path, f"the tag {tag} is not allowed; expected text, numbers, lists and mappings")

    def _mapping(self, node: yaml.MappingNode, place: Place, path: str, depth: int) -> Node:
        inherited: dict[str, Node] = {}
        own: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key, at = key_node.value, self._place(key_node)
            if key_node.tag == _TAG + "merge":
                inherited = self._inherited(value_node, at, path, depth) | inherited
            elif not isinstance(key_node, yaml.ScalarNode):
                self._mistakes.add(at, path, "expected text as a key, found a list or a mapping")
            elif key in own:
                first = f" (first in line {own[key].place.line})" if own[key].place.line else ""
                self._mistakes.add(at, join(path, key), f"is given twice{first}")
            else:
                own[key] = self.node(value_node, at, join(path, key), depth + 1)
        return Node(inherited | own, place)

    def _inherited(self, node: yaml.Node, place: Place, path: str, depth: int) -> dict[str, Node]:
        """What `<<: *anchor` brings in; of several anchors the first wins."""
        anchors = node.value if isinstance(node, yaml.SequenceNode) else [node]
        inherited: dict[str, Node] = {}
        for anchor in anchors:
            found = self.node(anchor, place, path, depth + 1)
            if isinstance(found.value, Mapping):
                inherited = dict(found.value) | inherited
            else:
                self._mistakes.add(place, path, f"expected << to name mappings, found {found.shown()}")
        return inherited

    def _scalar(self, node: yaml.ScalarNode, place: Place, path: str) -> Node:
        text, tag, written = node.value, node.tag, None
        plain = tag not in _TYPED_TAGS and not node.style
        if self._environ is not None and "${" in text:
            substituted, problems = _substitute(text, self._environ)
            if problems:
                return self._broken(place, path, "; ".join(problems))
            text, written = substituted, text
            tag = tag if tag in _TYPED_TAGS else _resolved(text, plain=plain)
        try:
            text.encode()
            value = _typed(tag, text) if tag in _TYPED_TAGS else text
        except UnicodeEncodeError:
            return self._broken(place, path, "is not valid Unicode")
        except (ValueError, LookupError, yaml.YAMLError):
            return self._broken(place, path, f"is no {tag.removeprefix(_TAG)}")
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            return self._broken(place, path, f"is a number of more than {_MOST_BITS} bits")
        from_environment = written is not None or self._environ is None
        return Node(value, place, text if from_environment and not node.style else None, written)

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._source, _line(node) if self._environ is not None else 0)

    def _broken(self, place: Place, path: str, problem: str) -> Node:
        self._mistakes.add(place, path, problem)
        return Node(BROKEN, place)


def _resolved(text: str, *, plain: bool) -> str:
    """The tag of a scalar after substitution: a plain one may be a number, a quoted one is text."""
    tag: str = Resolver().resolve(yaml.ScalarNode, text, (plain, not plain))  # type: ignore[no-untyped-call]
    return tag


def _typed(tag: str, text: str) -> Any:
    return SafeConstructor().construct_object(yaml.ScalarNode(tag, text))


def _substitute(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Replace `${NAME}` and `${NAME:-default}`; `$${` stands for `${`. Return the text and what was wrong with it."""
    problems = []

    def replace(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            problems.append("expected ${NAME} or ${NAME:-default} after ${ ($${ stands for ${ itself)")
            return ""
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            problems.append(f"environment variable {name} is not set; write ${{{name}:-default}} to give it a default")
        return value or ""

    return _REFERENCE.sub(replace, text), problems
