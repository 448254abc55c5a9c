"""A NIR graph as plain values: nodes, edges and metadata, from an HDF5 tree and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from trustsnn.errors import UnsafeArtifactError
from trustsnn.interop.hdf5 import Group, Value

MOST_NODES = 10_000

_POOL, _CONVOLUTION = ("kernel_size", "stride", "padding"), ("weight", "bias", "stride", "padding", "dilation", "groups")
NODES: dict[str, tuple[str, ...]] = {
    "Input": ("shape",),
    "Output": ("shape",),
    "Affine": ("weight", "bias"),
    "Linear": ("weight",),
    "Scale": ("scale",),
    "Conv1d": _CONVOLUTION,
    "Conv2d": _CONVOLUTION,
    "SumPool2d": _POOL,
    "AvgPool2d": _POOL,
    "Flatten": ("start_dim", "end_dim"),
    "Delay": ("delay",),
    "Threshold": ("threshold",),
    "I": ("r",),
    "LI": ("tau", "r", "v_leak"),
    "IF": ("r", "v_threshold"),
    "LIF": ("tau", "r", "v_leak", "v_threshold"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "w_in"),
}
"""The kinds of nodes and the values that each must have."""


@dataclass
class Node:
    """A node: its kind, the values that NIR gives it, and free metadata."""

    kind: str
    values: dict[str, Value] = field(default_factory=dict)
    metadata: dict[str, Value] = field(default_factory=dict)


@dataclass
class Graph:
    """Nodes by name and the edges between them. Nodes of nested graphs have their graph's name and a dot before their own; a nested
    graph's input and output stay as nodes that hand on what they get."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    metadata: dict[str, Value] = field(default_factory=dict)
    name: str = "the graph"

    def refuse(self, node: str, got: str) -> NoReturn:
        """UnsafeArtifactError about a node, in one form."""
        kind = f" ({self.nodes[node].kind})" if node in self.nodes else ""
        raise UnsafeArtifactError(f"{self.name}, node {node!r}{kind}: {got}.")

    def numbers(self, node: str, value: str) -> NDArray[np.float64]:
        """A value of a node as finite numbers in float64."""
        found = self.nodes[node].values[value]
        if isinstance(found, str) or found.dtype.kind not in "biuf" or not np.isfinite(found).all():
            self.refuse(node, f"expected finite numbers as {value}")
        return found.astype(np.float64)

    def integers(self, node: str, value: str, count: int | None = None, least: int = 0) -> tuple[int, ...]:
        """A value of a node as whole numbers, `count` of them, one standing for all."""
        found = self.numbers(node, value)
        whole = tuple(int(n) for n in found.reshape(-1))
        whole = whole * count if count and len(whole) == 1 else whole
        if (count and len(whole) != count) or any(n != m for n, m in zip(whole, np.resize(found, len(whole)), strict=True)):
            self.refuse(node, f"expected {count or 'some'} whole numbers as {value}, got {found.reshape(-1).tolist()[:8]}")
        if any(not least <= n < 1 << 31 for n in whole):
            self.refuse(node, f"expected {value} of at least {least}, got {list(whole)[:8]}")
        return whole


def graph_of(file: Group, name: str) -> Graph:
    """The graph of a file's root group; UnsafeArtifactError for what is no graph of known nodes."""
    found = Graph(name=name)
    top = file.members.get("node")
    if not isinstance(top, Group) or _kind(top) != "NIRGraph":
        raise UnsafeArtifactError(f"{name}: expected a group 'node' of the type NIRGraph, got {sorted(file.members)[:8]}.")
    found.metadata = _metadata(top)
    _add(found, top, "")
    return found


def _kind(group: Group) -> str:
    kind = group.members.get("type")
    return kind if isinstance(kind, str) else ""


def _metadata(group: Group) -> dict[str, Value]:
    held = group.members.get("metadata")
    return {key: v for key, v in held.members.items() if not isinstance(v, Group)} if isinstance(held, Group) else {}


def _add(graph: Graph, group: Group, prefix: str) -> None:
    """Add the nodes and edges of a graph's group, nested ones with it."""
    nodes, edges = group.members.get("nodes"), group.members.get("edges")
    where = prefix.rstrip(".") or graph.name
    if not isinstance(nodes, Group) or not isinstance(edges, np.ndarray):
        graph.refuse(where, "expected a graph's nodes and edges")
    if edges.size and (edges.dtype.kind != "U" or edges.shape != (len(edges), 2)):
        graph.refuse(where, f"expected edges as pairs of names, got {edges.dtype}{list(edges.shape)}")
    ends: dict[str, tuple[str, str]] = {}  # of an edge that leads to a node, and of one that leaves it
    for key, node in nodes.members.items():
        name = prefix + key
        if not isinstance(node, Group) or len(graph.nodes) >= MOST_NODES:
            graph.refuse(name, f"expected a node, among at most {MOST_NODES:,}")
        kind = _kind(node)
        if kind == "NIRGraph":
            before = set(graph.nodes)
            _add(graph, node, f"{name}.")
            inner = {n: graph.nodes[n].kind for n in graph.nodes if n not in before and n.rpartition(".")[0] == name}
            ends[key] = (_only(graph, inner, "Input", name), _only(graph, inner, "Output", name))
        elif kind in NODES and set(NODES[kind]) <= node.members.keys() and name not in graph.nodes:
            values = {k: v for k, v in node.members.items() if not isinstance(v, Group) and k != "type"}
            graph.nodes[name] = Node(kind, values, _metadata(node))
            ends[key] = (name, name)
        else:
            expected = f"the values {', '.join(NODES[kind])}" if kind in NODES else f"one of {', '.join(NODES)}"
            graph.refuse(name, f"expected {expected}, got {kind!r} with {sorted(node.members)[:12]}")
    for source, target in sorted(set(map(tuple, edges.tolist()))):
        if source not in ends or target not in ends:
            graph.refuse(where, f"an edge between {source!r} and {target!r}, of which one is not there")
        graph.edges.append((ends[source][1], ends[target][0]))


def _only(graph: Graph, kinds: Mapping[str, str], kind: str, where: str) -> str:
    found = [name for name, each in kinds.items() if each == kind]
    return found[0] if len(found) == 1 else graph.refuse(where, f"expected one {kind} in a nested graph, got {len(found)}")


def tree_of(graph: Graph, version: str = "1.0.8") -> dict[str, Any]:
    """The HDF5 tree of a graph; dots in names of nodes make nested graphs."""
    return {"version": version, "node": _nested(graph, list(graph.nodes.items()), "", graph.metadata)}


def _nested(graph: Graph, nodes: list[tuple[str, Node]], prefix: str, metadata: Mapping[str, Value]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in nodes:
        head, dot, _ = name[len(prefix) :].partition(".")
        if dot and head not in found:
            within = [(n, each) for n, each in nodes if n.startswith(f"{prefix}{head}.")]
            found[head] = _nested(graph, within, f"{prefix}{head}.", {})
        elif not dot:
            found[head] = {"type": node.kind, **node.values, **({"metadata": node.metadata} if node.metadata else {})}
    edges = [(s[len(prefix) :], t[len(prefix) :]) for s, t in graph.edges if s.startswith(prefix) and t.startswith(prefix)]
    outer = sorted({(s.partition(".")[0], t.partition(".")[0]) for s, t in edges})
    pairs = [(s, t) for s, t in outer if s != t]
    own = {"type": "NIRGraph", "nodes": found, "edges": np.array(pairs, dtype=str).reshape(-1, 2)}
    return {**own, **({"metadata": dict(metadata)} if metadata else {})}
