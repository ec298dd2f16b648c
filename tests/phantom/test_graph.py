"""The causal machinery: published posteriors of a textbook network, counterfactuals in closed form, back doors by another library."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from polyclinic.phantom import PEOPLE
from polyclinic.phantom.graph import Graph, Node, choice, ordered, yes
from polyclinic.schema import PolyclinicError


def _p(*table: float):
    """P(yes) by the levels of any binary parents, in the order of counting."""

    def law(*parents):
        index = sum(np.asarray(p, dtype=int) * 2**i for i, p in enumerate(reversed(parents)))
        p = np.array(table)[index]
        return np.stack([1 - p, p], axis=-1)

    return law


@pytest.fixture
def sprinkler() -> Graph:
    levels = ("no", "yes")
    return Graph([
        Node("cloudy", (), "", _p(0.5), levels), Node("sprinkler", ("cloudy",), "", _p(0.5, 0.1), levels),
        Node("rain", ("cloudy",), "", _p(0.2, 0.8), levels), Node("wet", ("sprinkler", "rain"), "", _p(0.0, 0.9, 0.9, 0.99), levels),
    ])  # fmt: skip


def test_enumeration_gives_the_textbook_posteriors(sprinkler: Graph) -> None:
    """Murphy (1998), A brief introduction to graphical models: P(sprinkler | wet) = 0.430, P(rain | wet) = 0.708."""
    values, log_p = sprinkler.table({"wet": 1}, ["cloudy", "sprinkler", "rain"])
    joint = np.exp(log_p)
    assert joint.sum() == pytest.approx(0.6471, abs=1e-4)  # his P(wet)
    assert joint[values["sprinkler"] == 1].sum() / joint.sum() == pytest.approx(0.430, abs=5e-4)
    assert joint[values["rain"] == 1].sum() / joint.sum() == pytest.approx(0.708, abs=5e-4)


def test_enumeration_refuses_a_parent_that_is_left_out(sprinkler: Graph) -> None:
    with pytest.raises(PolyclinicError, match="'wet' without rain"):
        sprinkler.table({"wet": 1}, ["cloudy", "sprinkler"])


def test_draws_follow_the_law(sprinkler: Graph) -> None:
    drawn = sprinkler.draw(np.random.default_rng(0).random((4, 40_000)))
    assert drawn["wet"].mean() == pytest.approx(0.6471, abs=0.01)
    assert drawn["rain"][drawn["wet"] == 1].mean() == pytest.approx(0.708, abs=0.015)


def test_a_counterfactual_keeps_the_noise() -> None:
    """x = 1 + u; y = 2x + v: had x been 3, y would have been y + 2(3 - x), and what is no effect of x stays."""
    graph = Graph([
        Node("x", (), "", lambda u: 1 + u), Node("z", (), "", lambda u: u), Node("y", ("x", "z"), "", lambda u, x, z: 2 * x + z + u),
    ])  # fmt: skip
    noise = np.random.default_rng(1).random((3, 50))
    was, would = graph.draw(noise), graph.draw(noise, {"x": 3.0})
    np.testing.assert_allclose(would["y"], was["y"] + 2 * (3 - was["x"]))
    np.testing.assert_array_equal(would["z"], was["z"])
    with pytest.raises(PolyclinicError, match="intervention on 'w'"):
        graph.draw(noise, {"w": 1})


def test_a_child_before_its_parent_is_refused() -> None:
    child = Node("b", ("a",), "", lambda u, a: a)
    with pytest.raises(PolyclinicError, match="'b'"):
        Graph([child, Node("a", (), "", lambda u: u)])
    with pytest.raises(PolyclinicError, match="'a' twice"):
        Graph([Node("a", (), "", lambda u: u)] * 2)


def test_every_law_of_the_phantom_is_a_law() -> None:
    """Of any parents' levels, and of quantities across their range: probabilities that sum to 1."""
    rng = np.random.default_rng(2)
    for node in PEOPLE:
        if not node.levels:
            continue
        parents = [PEOPLE.nodes[p] for p in node.parents]
        quantity = {
            "age": (18, 95),
            "extent_mm": (22, 48),
            "nodule_mm": (4, 32),
            "months": (0, 90),
            "followed_months": (6, 60),
        }
        grids = [range(len(p.levels)) if p.levels else rng.uniform(*quantity[p.name], 3) for p in parents]
        for values in product(*grids):
            law = np.asarray(node.law(*map(np.asarray, values)))
            assert law.shape == (len(node.levels),), node.name
            assert law.min() >= 0, node.name
            assert law.sum() == pytest.approx(1), node.name


def test_the_adjustment_set_blocks_every_back_door() -> None:
    """By networkx: without the treatment's own arrows it is apart from the untreated outcome given its parents, and not given fewer."""
    networkx = pytest.importorskip("networkx")
    told = json.loads(PEOPLE.as_json())["nodes"]
    graph = networkx.DiGraph([(parent, node["name"]) for node in told for parent in node["parents"]])
    assert networkx.is_directed_acyclic_graph(graph)
    graph.remove_edges_from(list(graph.out_edges("treatment")))
    apart = lambda given: networkx.is_d_separator(graph, {"treatment"}, {"months_untreated"}, given)
    assert apart(set(PEOPLE.adjustment_set("treatment")))
    assert not apart(set())
    assert not apart({"acuity"})
    assert all(
        PEOPLE.nodes[name].recorded for name in PEOPLE.adjustment_set("treatment")
    )  # a hospital can adjust for it


def test_ancestors_are_those_of_the_edges() -> None:
    networkx = pytest.importorskip("networkx")
    graph = networkx.DiGraph([(parent, node.name) for node in PEOPLE for parent in node.parents])
    for name in ("months", "severity", "says_nodule", "treatment"):
        assert PEOPLE.ancestors(name) == networkx.ancestors(graph, name)


def test_dot_names_every_edge_once() -> None:
    dot = PEOPLE.as_dot()
    assert dot.count(" -> ") == sum(len(node.parents) for node in PEOPLE)
    assert '"severity" [style=dashed]' in dot


def test_links() -> None:
    assert yes(0.0).tolist() == [0.5, 0.5]
    np.testing.assert_allclose(choice(np.log(2.0), np.log(3.0), np.log(5.0)), [0.2, 0.3, 0.5])
    np.testing.assert_allclose(
        ordered(np.array([0.0, 1.0]), (-1.0, 1.0))[1], [1 / (1 + np.e**2), 0.5 - 1 / (1 + np.e**2), 0.5]
    )
