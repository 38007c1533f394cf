"""The page in a real browser: clicks, keys, wheel, search, colours, groups, and no request to anywhere."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

from tests.support.browser import Browser, find_chromium
from tests.support.synthetic_graphs import HISTORY, HOSTILE, SUMMARY, add_node, flat, residual
from videoeff.inspect import write_html

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no chromium, chromium-browser or google-chrome on the path (Debian: apt-get install chromium)",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    pytest.importorskip("websocket", reason="needs websocket-client, one of the dev dependencies")
    with Browser(CHROMIUM) as one:
        yield one


def show(browser: Browser, path: Path, before: nx.DiGraph, after: nx.DiGraph, *, dark: bool = False) -> None:
    write_html(path, before, after, title="trial", summary=SUMMARY, history=HISTORY)
    browser.open(path, dark=dark)


@pytest.fixture
def trial(browser: Browser, tmp_path: Path) -> Iterator[Browser]:
    """A page of 200 nodes; afterwards nothing may have been requested but the page, or gone wrong."""
    path = tmp_path / "page.html"
    show(
        browser,
        path,
        residual((3, 8, 12, 3)),
        residual((3, 8, 12, 3), stage="lowered", run=True, weights=True),
    )
    yield browser
    assert browser.requests == [path.as_uri()]
    assert browser.problems == []


def shown(browser: Browser, pane: str = "after") -> set[str]:
    return set(
        browser.run(f"[...document.querySelectorAll('#pane-{pane} [data-id]')].map((e) => e.dataset.id)")
    )


def face(item: str, pane: str = "after") -> str:
    return f"#pane-{pane} [data-id={json.dumps(item)}]"


def details(browser: Browser) -> dict[str, str]:
    rows = browser.run(
        "[...document.querySelectorAll('#selection tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    return dict(rows)


def transform(browser: Browser) -> tuple[float, float, float]:
    """x, y and scale of the pane's view."""
    found = browser.run("((m) => [m.e, m.f, m.a])(document.querySelector('#pane-after svg > g').getCTM())")
    return found[0], found[1], found[2]


def choose(browser: Browser, selector: str, value: str) -> None:
    browser.run(
        f"(() => {{ const s = document.querySelector({json.dumps(selector)}); s.value = {json.dumps(value)};"
        " s.dispatchEvent(new Event('change')); })()"
    )
    browser.settle()


def fill(browser: Browser, item: str) -> str:
    text = browser.run(f"getComputedStyle(document.querySelector({json.dumps(face(item) + ' .body')})).fill")
    assert isinstance(text, str)
    return text


def test_click_shows_the_attributes_and_marks_the_edges(trial: Browser) -> None:
    trial.click(face("n:conv2d_1"))
    rows = details(trial)
    assert rows["name"] == "conv2d_1"
    assert rows["op"] == "aten.conv2d.default"
    assert rows["kernel"] == "cpu.conv2d_sparse"
    assert rows["reason"] == "chosen from the cost table"
    assert rows["active share"] == "60.00 %"
    assert rows["MACs per frame"] == "462 M (462,422,016)"
    assert trial.run(
        f"document.querySelector({json.dumps(face('n:conv2d_1'))}).classList.contains('selected')"
    )
    assert trial.run("document.querySelectorAll('#pane-after .edge.on').length") >= 2
    links = trial.run("[...document.querySelectorAll('#selection .links button')].map((b) => b.textContent)")
    assert "x" in links
    assert "conv2d_2" in links


def test_a_link_in_the_details_opens_the_groups_around_its_node(trial: Browser) -> None:
    trial.click(face("n:conv2d_1"))
    assert "n:conv2d_2" not in shown(trial)
    trial.click("#selection ul:last-of-type button")
    assert "n:conv2d_2" in shown(trial)
    assert details(trial)["module"] == "layer1.0.conv1"


def test_a_group_opens_and_closes_where_it_stands(trial: Browser) -> None:
    group = "g:layer1.0"
    assert group in shown(trial)
    assert "n:add_0_0" not in shown(trial)
    toggle = f"{face(group)} [data-toggle]"
    corner = f"document.querySelector({json.dumps(face(group))}).getBoundingClientRect().y"
    before = trial.run(corner)
    trial.click(toggle)
    assert {"n:add_0_0", "n:conv2d_2", "n:cache_0_0"} <= shown(trial)
    assert (
        trial.run(f"document.querySelector({json.dumps(face(group))}).getAttribute('aria-expanded')")
        == "true"
    )
    assert trial.run(corner) == pytest.approx(before, abs=8)
    trial.click(f"{face(group)} > .header [data-toggle]")
    assert "n:add_0_0" not in shown(trial)
    trial.click(face(group), times=2)
    assert "n:add_0_0" in shown(trial)


def test_an_open_group_holds_its_nodes_and_nothing_overlaps(trial: Browser) -> None:
    trial.click("#pane-after .tools button:nth-child(4)")
    boxes = trial.run(
        """(() => {
          const box = (e) => ((b) => [b.left, b.top, b.right, b.bottom])(e.getBoundingClientRect());
          return [...document.querySelectorAll('#pane-after [data-id]')].map((e) => [e.dataset.id,
            e.parentElement.closest('[data-id]')?.dataset.id ?? '',
            box(e.querySelector(':scope > .body, :scope > .frame'))]);
        })()"""
    )
    places = {name: place for name, _, place in boxes}
    by_parent: dict[str, list[str]] = {}
    for name, parent, _ in boxes:
        by_parent.setdefault(parent, []).append(name)
    assert len(places) > 150
    for parent, names in by_parent.items():
        for i, name in enumerate(names):
            left, top, right, bottom = places[name]
            if parent:
                outer = places[parent]
                assert outer[0] <= left <= right <= outer[2], (name, parent)
                assert outer[1] <= top <= bottom <= outer[3], (name, parent)
            for other in names[:i]:
                o = places[other]
                assert right <= o[0] or o[2] <= left or bottom <= o[1] or o[3] <= top, (name, other)


def test_wheel_buttons_drag_and_fit_move_the_view(trial: Browser) -> None:
    x, y = trial.place("#pane-after svg")
    _, _, scale = transform(trial)
    trial.wheel(x, y, -200)
    _, _, nearer = transform(trial)
    assert nearer > scale * 1.2
    trial.click("#pane-after [aria-label='Zoom out']")
    assert transform(trial)[2] == pytest.approx(nearer / 1.3, rel=1e-3)
    start = transform(trial)
    trial.drag((x - 300, y), (60, 40))
    moved = transform(trial)
    assert (moved[0] - start[0], moved[1] - start[1]) == pytest.approx((60, 40), abs=1)
    trial.click("#pane-after [aria-label='Fit the graph']")
    inside = trial.run(
        """(() => {
          const view = document.querySelector('#pane-after svg').getBoundingClientRect();
          const graph = document.querySelector('#pane-after svg > g').getBoundingClientRect();
          return graph.top >= view.top && graph.bottom <= view.bottom && graph.left >= view.left
            && graph.right <= view.right;
        })()"""
    )
    assert inside


def test_wheel_keeps_the_point_under_the_mouse(trial: Browser) -> None:
    x, y = trial.place(face("n:conv2d_1"))
    trial.wheel(x, y, -150)
    assert trial.place(face("n:conv2d_1")) == pytest.approx((x, y), abs=1.5)


def test_search_finds_by_module_and_steps_through_the_hits(trial: Browser) -> None:
    trial.click("#search")
    trial.write("layer3.2")
    assert trial.run("document.querySelector('#hits').textContent") == "5 found"
    hits = trial.run("[...document.querySelectorAll('#pane-after .hit')].map((e) => e.dataset.id)")
    assert hits == ["g:layer3.2"]
    trial.key("Enter")
    assert trial.run("document.querySelector('#hits').textContent") == "1 of 5"
    assert details(trial)["module"] == "layer3.2.conv1"
    trial.key("Enter")
    assert details(trial)["module"] == "layer3.2.relu"
    trial.click("#previous")
    assert details(trial)["module"] == "layer3.2.conv1"
    assert "n:add_2_2" in shown(trial)
    trial.run("document.querySelector('#search').select()")
    trial.write("no such layer")
    assert trial.run("document.querySelector('#hits').textContent") == "nothing found"


def test_colour_follows_the_choice_and_the_legend_with_it(trial: Browser) -> None:
    kind, kind_other = fill(trial, "n:conv2d_1"), fill(trial, "n:linear")
    assert kind != kind_other
    legend = "document.querySelector('#pane-after .legend').textContent"
    assert "follows the change mask" in trial.run(legend)
    choose(trial, "#colour", "activity")
    active, idle = fill(trial, "n:conv2d_1"), fill(trial, "n:linear")
    assert active not in (kind, idle)
    assert idle == fill(trial, "n:x"), "nodes that were not run share one grey"
    assert "active share" in trial.run(legend)
    assert "not run" in trial.run(legend)
    assert "60 %" in trial.run(f"document.querySelector({json.dumps(face('n:conv2d_1'))}).textContent")
    choose(trial, "#colour", "macs")
    assert fill(trial, "n:conv2d_1") != active
    assert "MACs per frame" in trial.run(legend)


def test_dark_and_light_have_readable_text(trial: Browser) -> None:
    measure = """(() => {
      const parse = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const lum = (c) => { const [r, g, b] = parse(c).map((v) => (v /= 255) <= 0.04045 ? v / 12.92
        : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      return [...document.querySelectorAll('#pane-after [data-id]:has(> .body)')]
        .map((e) => { const a = lum(getComputedStyle(e.querySelector('.body')).fill);
          const b = lum(getComputedStyle(e.querySelector('text')).fill);
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); });
    })()"""
    backgrounds = set()
    for dark in (False, True):
        trial.theme(dark)
        for mode in ("kind", "activity", "macs"):
            choose(trial, "#colour", mode)
            contrast = trial.run(measure)
            assert len(contrast) > 10
            assert min(contrast) >= 4.5, (dark, mode)
        backgrounds.add(trial.run("getComputedStyle(document.body).backgroundColor"))
    trial.theme(False)
    assert len(backgrounds) == 2


def test_before_after_and_both(trial: Browser) -> None:
    for view, panes in (("before", ["before"]), ("both", ["before", "after"]), ("after", ["after"])):
        trial.run(f"document.querySelector('input[value={view}]').click()")
        trial.settle()
        assert trial.run(
            "[...document.querySelectorAll('.pane')].filter((e) => !e.hidden).map((e) => e.id)"
        ) == [f"pane-{pane}" for pane in panes]
    trial.run("document.querySelector('input[value=both]').click()")
    trial.settle()
    trial.click(face("n:conv2d_1"))
    assert trial.run(
        f"document.querySelector({json.dumps(face('n:conv2d_1', 'before'))}).classList.contains('selected')"
    )
    assert any(name.startswith("n:x") for name in shown(trial, "before"))


def test_keyboard_alone_reaches_opens_and_selects(trial: Browser) -> None:
    trial.run("document.querySelector('#pane-after .tools button:last-child').focus()")
    trial.key("Tab")
    focused = "document.activeElement.dataset.id"
    assert trial.run(focused) == "n:x"
    trial.key("ArrowDown")
    assert trial.run(focused) == "n:conv2d_1"
    trial.key("Enter")
    assert details(trial)["name"] == "conv2d_1"
    trial.key("ArrowDown")
    assert trial.run(focused) == "g:layer1.0"
    trial.key(" ")
    assert "n:add_0_0" in shown(trial)
    assert trial.run(focused) == "g:layer1.0", "the focus stays on the group that was opened"
    trial.key("ArrowUp")
    assert trial.run(focused) == "n:conv2d_1"
    trial.key("Escape")
    assert details(trial) == {}


def test_constants_are_shown_on_request(trial: Browser) -> None:
    trial.run("document.querySelector('#pane-after .tools button:nth-child(4)').click()")
    trial.settle()
    assert "n:layer1.0.conv1.weight" not in shown(trial)
    trial.click("#constants")
    assert "g:layer1.0.conv1" in shown(trial), "a layer and its weight make a group"
    trial.click("#pane-after .tools button:nth-child(4)")
    assert "n:layer1.0.conv1.weight" in shown(trial)


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    graph: nx.DiGraph = nx.DiGraph(name=HOSTILE, stage="planned")
    add_node(graph, "x", kind="input")
    for i, name in enumerate((HOSTILE, "__proto__", "constructor", "a..b", ".", '"]')):
        add_node(graph, name, "x", module=f"{name}.{i}", label=name, reason=name)
    show(browser, tmp_path / "page.html", graph, graph)
    assert browser.run("document.title") == "trial"
    browser.click(face("n:__proto__"))
    assert details(browser)["reason"] == "__proto__"
    browser.run(
        "[...document.querySelectorAll('.node')].find((e) => e.dataset.id.includes('script')).focus()"
    )
    browser.key("Enter")
    assert details(browser)["name"] == HOSTILE
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.problems == []
    assert len(browser.requests) == 1


@pytest.mark.parametrize(
    "make", [lambda: flat(2000), lambda: residual((80, 100, 100, 50))], ids=["flat", "modules"]
)
def test_two_thousand_nodes_are_laid_out_soon(browser: Browser, tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    graph = make()
    assert len(graph) >= 1900
    show(browser, tmp_path / "page.html", graph, graph)
    milliseconds = float(browser.run("document.querySelector('#pane-after').dataset.layoutMs"))
    assert milliseconds < 5000, "a tenth of a second on a laptop; the bound leaves room for a busy machine"
    assert 5 < len(shown(browser)) <= 61
    assert browser.problems == []


def test_a_graph_without_nodes_is_no_error(browser: Browser, tmp_path: Path) -> None:
    empty: nx.DiGraph = nx.DiGraph(name="empty", stage="captured")
    show(browser, tmp_path / "page.html", empty, empty)
    assert browser.problems == []
    assert shown(browser) == set()


def test_a_layer_called_twice_stands_where_it_is_called(browser: Browser, tmp_path: Path) -> None:
    graph: nx.DiGraph = nx.DiGraph(name="shared head", stage="planned")
    last = add_node(graph, "x", kind="input")
    add_node(graph, "w", module="head.conv", kind="const")
    for i in range(3):
        last = add_node(graph, f"conv_{i}", last, "w", module="head.conv")
        last = add_node(graph, f"norm_{i}", last, module="head.norm")
        last = add_node(graph, f"relu_{i}", last, module="act")
    show(browser, tmp_path / "page.html", graph, graph)
    assert browser.problems == []
    nodes = {f"n:{name}_{i}" for name in ("conv", "norm", "relu") for i in range(3)}
    assert shown(browser) == {"n:x", "g:head@1", "g:head@2", "g:head@3"} | nodes
    names = browser.run(
        "[...document.querySelectorAll('.header .name')].map((e) => e.firstChild.textContent)"
    )
    assert names == ["head (call 1)", "head (call 2)", "head (call 3)"]
    tops = [browser.place(face(f"n:{name}_{i}"))[1] for i in range(3) for name in ("conv", "norm", "relu")]
    assert tops == sorted(tops), "every edge leads down"


def test_groups_that_feed_each_other_are_drawn(browser: Browser, tmp_path: Path) -> None:
    graph: nx.DiGraph = nx.DiGraph(name="ladder", stage="planned")
    last = add_node(graph, "x", kind="input")
    skips = {"a": "x", "b": "x"}
    for i in range(4):
        for side in ("a", "b"):
            last = skips[side] = add_node(graph, f"{side}_{i}", last, skips[side], module=side)
    show(browser, tmp_path / "page.html", graph, graph)
    assert browser.problems == []
    assert {"g:a", "g:b", "n:a_3", "n:b_3"} <= shown(browser)
    curves = browser.run("[...document.querySelectorAll('.edge')].map((e) => e.getAttribute('d'))")
    assert len(curves) > 10
    assert curves
    assert not [d for d in curves if "NaN" in d or "undefined" in d]


def fused(blocks: int, *, stage: str = "lowered") -> nx.DiGraph:
    """A chain of blocks, each a convolution and a ReLU that fill one cache; with a skip around each block."""
    graph: nx.DiGraph = nx.DiGraph(name="chain", stage=stage)
    last = add_node(graph, "x", kind="input", op="input")
    for i in range(blocks):
        block, skip = f"body.{i}", last
        made = [
            add_node(graph, f"conv_{i}", last, module=f"{block}.conv", op="aten.conv2d.default", macs=1000),
            add_node(graph, f"relu_{i}", f"conv_{i}", module=f"{block}.act", op="aten.relu.default"),
        ]
        if stage != "captured":
            made.append(
                add_node(
                    graph,
                    f"keep_{i}",
                    made[-1],
                    module=f"{block}.act",
                    kind="cache",
                    op="veff.delta_cache",
                    threshold=0.5,
                    share=0.25,
                    kernel="reference",
                )
            )
        for name in made:
            graph.nodes[name]["region"] = f"{block}.conv"
        last = add_node(graph, f"add_{i}", made[-1], skip, module=block, op="aten.add.Tensor")
    add_node(graph, "output", last, kind="output", op="output")
    return graph


def test_a_region_is_one_box_with_its_operators_and_its_cache(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path / "page.html", fused(2, stage="captured"), fused(2))
    region = face("r:body.0.conv")
    assert {"r:body.0.conv", "r:body.1.conv", "n:add_0"} <= shown(browser)
    assert "n:conv_0" not in shown(browser)
    text = browser.run(
        f"[...document.querySelectorAll({json.dumps(region)} + ' > text')].map((e) => e.textContent)"
    )
    assert text[0] == "conv"
    assert text[1].startswith("conv2d + relu ·")
    assert "one fused call" in browser.run("document.querySelector('#pane-after .legend').textContent")
    browser.run("document.querySelector('input[value=both]').click()")
    browser.settle()
    browser.click(region)
    rows = details(browser)
    assert rows["layer"] == "body.0.conv"
    assert rows["fused call"] == "conv2d + relu, kept as 1×64×56×56"
    assert (rows["kernel"], rows["active share"], rows["threshold"]) == (
        "reference",
        "25.00 %",
        "0.5 (test not named)",
    )
    marked = browser.run("[...document.querySelectorAll('#pane-before .same')].map((e) => e.dataset.id)")
    assert marked == ["n:conv_0", "n:relu_0"], "the same nodes before the rewrite"
    width = "getComputedStyle(document.querySelector({})).strokeWidth"
    assert browser.run(width.format(json.dumps(f"{region} > .body"))) == "3px", "the choice can be seen"
    browser.click(f"{region} [data-toggle]")
    assert {"n:conv_0", "n:relu_0", "n:keep_0"} <= shown(browser)
    assert browser.problems == []


def test_open_all_opens_modules_first_and_regions_when_asked_again(browser: Browser, tmp_path: Path) -> None:
    graph = fused(30)
    show(browser, tmp_path / "page.html", graph, graph)
    browser.click("#pane-after .tools button:nth-child(4)")
    assert "r:body.29.conv" in shown(browser)
    assert "n:conv_29" not in shown(browser)
    browser.click("#pane-after .tools button:nth-child(4)")
    assert "n:conv_29" in shown(browser)


def test_a_long_chain_is_folded_into_columns(browser: Browser, tmp_path: Path) -> None:
    graph = fused(40)
    show(browser, tmp_path / "page.html", graph, graph)
    browser.click("#pane-after .tools button:nth-child(4)")
    browser.click("#pane-after .tools button:nth-child(3)")
    box = browser.run(
        "((b) => [b.width, b.height])(document.querySelector('#pane-after svg > g').getBoundingClientRect())"
    )
    assert 0.3 < box[0] / box[1] < 4, "not a needle"
    places = [browser.place(face(f"n:add_{i}")) for i in range(40)]
    lefts = [round(x) for x, _ in places]
    columns = sorted(set(lefts))
    assert 2 <= len([a for a, b in zip(columns, [*columns[1:], 10**6], strict=True) if b - a > 40]) <= 6
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        assert y1 > y0 or x1 > x0, "down, or on to the next column"
    curves = browser.run(
        "[...document.querySelectorAll('#pane-after .edge')].map((e) => e.getAttribute('d'))"
    )
    assert curves
    assert not [d for d in curves if "NaN" in d or "undefined" in d or "Infinity" in d]
    assert browser.problems == []


def test_concatenations_that_go_on_from_one_another_are_drawn_as_a_chain(
    browser: Browser, tmp_path: Path
) -> None:
    graph: nx.DiGraph = nx.DiGraph(name="dense block", stage="captured")
    parts = [add_node(graph, "x", kind="input", op="input")]
    parts.append(add_node(graph, "first", "x", op="aten.conv2d.default"))
    for i in range(8):
        join = add_node(graph, f"cat_{i}", *parts, op="aten.cat.default", kind="layout")
        parts.append(add_node(graph, f"conv_{i}", join, op="aten.conv2d.default"))
    show(browser, tmp_path / "page.html", graph, graph)
    lines = browser.run("document.querySelectorAll('#pane-after .edge').length")
    assert lines == 1 + 2 + 8 + 7 * 2, "two lines into each join but the first, which has its two parts"
    browser.click(face("n:cat_7"))
    links = browser.run(
        "[...document.querySelectorAll('#selection .links button')].map((b) => b.textContent)"
    )
    assert set(parts[:9]) <= set(links), "the panel lists the parts themselves"
