import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from numpy.typing import NDArray

from radar_rl.envs.drawing import ACCEPTED, ACCEPTED_PALE, TREE, draw
from radar_rl.envs.layout import tree_layout
from radar_rl.envs.picture import Scene, as_image, as_text
from radar_rl.rollouts.view import TreeView

HOSTILE = {
    "[bold red]": "[bold␣red]",
    "$x_1^{$": "$x_1^{$",
    "中文": "中文",
    "a\nb": "a⏎b",
    "\x1b[31m": r"\x1b[31m",
    "\r\a": r"\r\x07",
    ":smile:": ":smile:",
    "\u202e": r"\u202e",
    "\udc80": r"\udc80",
    "🙂": "🙂",
    "\\": "\\",
    "": "∅",
    "z" * 90: "z" * 90,
}


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def scene_of(tree: TreeView, text: str | None = "Once upon a") -> Scene:
    return Scene(
        tree,
        position=41,
        max_depth=8,
        text=text,
        gained=[0, 0, 3, 3, 5],
        paid=[0, 0.5, 2, 2.5, 4],
        seconds=[0, 0.01, 0.03, 0.04, 0.0625],
        stops=[False, False, True, False, True],
        unit="tokens",
    )


def small_tree(verified: bool) -> TreeView:
    """Ten nodes of which two are accepted; the bonus token follows them."""
    tree = TreeView(
        depths=np.array([0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
        log_probs=np.log([1, 0.125, 0.5, 0.0625, 0.25, 0.2, 0.03, 0.15, 0.1, 0.01]).astype(np.float32),
        parents=np.array([-1, 0, 0, 0, 2, 2, 1, 4, 4, 6]),
        labels=("a", " night", " time", " hill", " there", ",", " when", " was", " lived", " all"),
        draft_calls=3,
    )
    if not verified:
        return tree
    path = np.isin(np.arange(10), [0, 2, 5])
    return replace(tree, accepted=2, emitted=3, path=path, bonus=" long")


def random_tree(nodes: int, depth: int, seed: int) -> TreeView:
    rng = np.random.default_rng(seed)
    parents, depths, log_probs = [-1], [0], [0.0]
    for node in range(1, nodes):
        parent = int(rng.integers(max(0, node - 12), node))
        parent = parent if depths[parent] < depth else 0
        parents.append(parent)
        depths.append(depths[parent] + 1)
        log_probs.append(log_probs[parent] - rng.exponential())
    labels = tuple(f"tok{node}" for node in range(nodes))
    return TreeView(np.array(depths), np.array(log_probs, dtype=np.float32), np.array(parents), labels, depth)


def beams(accepted: int | None) -> TreeView:
    probabilities = np.array([0.5, 0.125, 0.0625, 0.25, 0.03125, 0.015625], dtype=np.float32)
    emitted = None if accepted is None else accepted + 1
    log_probs = np.append(np.float32(0), np.log(probabilities))
    return TreeView(np.array([0, 1, 1, 1, 2, 2, 2]), log_probs, None, None, 2, accepted, emitted)


def tree_part(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    _, top, _, height = (round(x) for x in TREE)
    return image[top : top + height]


def has_colour(image: NDArray[np.uint8], colour: str) -> bool:
    wanted = np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)
    return bool((image == wanted).all(axis=2).any())


def edges(scene: Scene) -> PathCollection:
    """The curves from node to node, which are the only ones without a face."""
    collections = [c for axes in draw(scene).axes for c in axes.collections if isinstance(c, PathCollection)]
    (found,) = (c for c in collections if len(c.get_facecolor()) == 0)
    return found


# ---- as text


def test_every_node_stands_below_its_parent_with_its_probability() -> None:
    lines = as_text(scene_of(small_tree(verified=False))).splitlines()
    tree = small_tree(verified=False)
    assert tree.labels is not None
    found = {line.split()[-2]: line for line in lines if "○" in line}
    assert len(found) == 10
    for label, depth, log_prob in zip(tree.labels, tree.depths, tree.log_probs, strict=True):
        line = found[label.replace(" ", "␣")]
        assert line.index("○") == 4 * depth
        assert float(line.split()[-1]) == pytest.approx(np.exp(log_prob), rel=0.005)
    order = [line.split()[-2] for line in lines if "○" in line]  # depth first, the most probable child first
    assert order == ["a", "␣time", "␣there", "␣was", "␣lived", ",", "␣night", "␣when", "␣all", "␣hill"]


def test_the_accepted_path_and_the_bonus_token_are_marked() -> None:
    text = as_text(scene_of(small_tree(verified=True)))
    lines = text.splitlines()
    assert [line.split()[-2] for line in lines if "●" in line] == ["a", "␣time", ","]
    (bonus,) = (i for i, line in enumerate(lines) if "◆" in line)
    assert "␣long" in lines[bonus]
    assert "● ," in lines[bonus - 1]
    assert lines[bonus].index("◆") == lines[bonus - 1].index("●") + 4
    assert "accepted 2, emitted 3" in lines[0]
    drafting = as_text(scene_of(small_tree(verified=False)))
    assert "●" not in drafting
    assert "◆" not in drafting
    assert "draft call 3 of 8" in drafting


def test_what_was_gained_and_paid_is_printed() -> None:
    text = as_text(scene_of(small_tree(verified=True)))
    for number in ("gained 5.00", "paid 4.00", "+1.00 tokens", "80 tokens per second"):
        assert number in text
    assert "Once upon a" in text
    assert "per second" not in as_text(replace(scene_of(small_tree(verified=True)), unit="reward"))


def test_tokens_are_printed_literally() -> None:
    tree = replace(
        small_tree(verified=True),
        depths=np.minimum(np.arange(len(HOSTILE)), 1),
        parents=np.minimum(np.arange(len(HOSTILE)), 1) - 1,
        log_probs=-np.arange(len(HOSTILE), dtype=np.float32),
        labels=tuple(HOSTILE),
        path=np.arange(len(HOSTILE)) == 0,
        bonus="[/bold]\x1b",
    )
    text = as_text(scene_of(tree, text="[/red]\x1b\n中"))
    lines = text.splitlines()
    assert all(character.isprintable() for line in lines for character in line)
    shown = [line.split()[-2] for line in lines if "●" in line or "○" in line]
    assert shown == list(HOSTILE.values())
    assert r"◆ [/bold]\x1b" in text
    assert r"[/red]\x1b⏎中" in text
    assert not np.array_equal(as_image(scene_of(tree)), as_image(scene_of(replace(tree, labels=("a",) * len(HOSTILE)))))


def test_a_deep_tree_is_printed_without_broken_lines() -> None:
    lines = as_text(scene_of(random_tree(60, 30, seed=0))).splitlines()
    assert [line.count("○ tok") for line in lines if "tok" in line] == [1] * 60 + [0]  # the last counts tokens


def test_beams_are_printed_by_level() -> None:
    text = as_text(scene_of(beams(accepted=1), text=None))
    assert "no tokens" in text
    levels = [line for line in text.splitlines() if "level" in line and "0." in line]
    assert [line.split()[0] for line in levels] == ["●", "○"]
    assert [float(p) for p in levels[0].split()[3:]] == [0.5, 0.125, 0.0625]
    assert "●" not in as_text(scene_of(beams(accepted=None), text=None))
    assert not set("├└") & set(text)


# ---- as an image


def test_images_are_of_one_size_whatever_they_show() -> None:
    nothing = TreeView(np.zeros(1, np.int64), np.zeros(1, np.float32), np.array([-1]), ("x",), 1)
    trees = [small_tree(True), small_tree(False), random_tree(60, 8, seed=1), random_tree(300, 8, seed=2), nothing]
    trees += [beams(2), beams(0), beams(None), replace(small_tree(True), labels=None)]
    scenes = [scene_of(tree) for tree in trees]
    begun = {"gained": [0.0], "paid": [0.0], "seconds": [0.0], "stops": [False]}
    scenes += [replace(scenes[0], **begun), replace(scenes[0], text="", max_depth=3), replace(scenes[0], max_depth=30)]
    for scene in scenes:
        image = as_image(scene)
        assert (image.shape, image.dtype) == ((720, 1280, 3), np.uint8)
        assert image.std() > 1


def test_an_image_depends_on_its_scene_only() -> None:
    scene = scene_of(small_tree(verified=True))
    first = as_image(scene)
    as_image(scene_of(beams(1)))
    np.testing.assert_array_equal(first, as_image(scene))
    assert not np.array_equal(first, as_image(replace(scene, paid=[0, 0.5, 2, 2.5, 4.5])))


def test_the_accepted_path_is_highlighted_once_verified() -> None:
    assert has_colour(tree_part(as_image(scene_of(small_tree(verified=True)))), ACCEPTED)
    assert not has_colour(tree_part(as_image(scene_of(small_tree(verified=False)))), ACCEPTED)
    colours = [to_hex(colour) for colour in edges(scene_of(small_tree(verified=True))).get_edgecolor()]
    assert colours.count(ACCEPTED) == 3  # to two accepted nodes and to the bonus token
    assert ACCEPTED not in map(to_hex, edges(scene_of(small_tree(verified=False))).get_edgecolor())


def test_accepted_levels_are_a_band_where_nodes_are_not_known() -> None:
    widths = []
    for accepted in (None, 0, 1, 2):
        image = tree_part(as_image(scene_of(beams(accepted), text=None)))
        pale = np.round(255 * np.array(to_rgb(ACCEPTED_PALE))).astype(np.uint8)
        widths.append(int((image == pale).all(axis=2).any(axis=0).sum()))
    assert widths[:2] == [0, 0]
    assert widths[3] > 1.8 * widths[2] > 180


def test_the_more_probable_a_node_the_wider_its_edge() -> None:
    tree = small_tree(verified=False)
    widths = np.asarray(edges(scene_of(tree)).get_linewidths())
    assert len(widths) == 9
    np.testing.assert_array_equal(np.argsort(widths), np.argsort(tree.log_probs[1:]))
    assert widths[1] > 2.5  # points, of probability 0.5


@pytest.mark.parametrize(("nodes", "depth", "seed"), [(12, 3, 0), (60, 8, 1), (60, 3, 2), (60, 1, 3), (200, 8, 4)])
def test_labels_do_not_overlap_and_edges_do_not_cross(nodes: int, depth: int, seed: int) -> None:
    tree = random_tree(nodes, depth, seed)
    rows = 26.0
    layout = tree_layout(tree, rows)
    assert layout.labelled[0]
    assert layout.heights.min() >= 0
    assert layout.heights.max() <= 1
    assert tree.parents is not None
    for level in range(depth + 1):
        column = np.flatnonzero(tree.depths == level)
        column = column[np.argsort(layout.heights[column])]
        labelled = layout.heights[column[layout.labelled[column]]]
        assert (np.diff(labelled) * rows > 1 - 1e-9).all()
        if level:
            assert (np.diff(layout.heights[tree.parents[column]]) >= 0).all()
    # Where room is scarce the most probable nodes are named.
    assert tree.log_probs[layout.labelled].min() >= tree.log_probs[~layout.labelled].max(initial=-np.inf)


def test_the_accepted_nodes_are_labelled_however_unlikely() -> None:
    tree = random_tree(60, 3, seed=2)
    last = int(np.argmin(tree.log_probs))
    path = np.zeros(60, dtype=np.bool_)
    assert tree.parents is not None
    node = last
    while node >= 0:
        path[node] = True
        node = tree.parents[node]
    assert not tree_layout(tree, 26.0).labelled[last]
    assert tree_layout(replace(tree, path=path), 26.0).labelled[path].all()
