"""The labelled study: objects and tracks of masks, scores, frame skipping, and a run of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import (
    labelled_contenders,
    labelled_data,
    labelled_figures,
    labelled_nets,
    labelled_render,
    labelled_run,
    labelled_score,
    labelled_train,
)
from videoeff.calibration.boxes import Boxes
from videoeff.errors import VideoError
from videoeff.video.writer import ClipWriter

ROOT = Path(__file__).resolve().parents[2]
OBJECT, UNKNOWN, OUTSIDE = labelled_data.OBJECT, labelled_data.UNKNOWN, labelled_data.OUTSIDE


def masks(*boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (48, 64)) -> Any:
    """A mask for each list of boxes (left, top, right, bottom)."""
    drawn = np.zeros((len(boxes), *size), np.uint8)
    for mask, row in zip(drawn, boxes, strict=True):
        for left, top, right, bottom in row:
            mask[top:bottom, left:right] = OBJECT
    return drawn


# ---------------------------------------------------------------- objects


def test_objects_touch_by_sides_corners_and_the_unknown_rim() -> None:
    mask = masks([(2, 3, 12, 13), (12, 13, 16, 20), (30, 5, 40, 25)])[0]
    found = labelled_data.objects(mask)
    assert found.boxes.tolist() == [[30, 5, 40, 25], [2, 3, 16, 20]]
    assert found.areas.tolist() == [200, 100 + 28]
    mask[3:6, 16:30] = UNKNOWN
    mask[13:20, 16] = UNKNOWN  # touches the left one by the side and nothing else
    assert len(labelled_data.objects(mask)) == 2
    mask[5:14, 17] = UNKNOWN  # and now joins both
    joined = labelled_data.objects(mask)
    assert joined.boxes.tolist() == [[2, 3, 40, 25]]  # of what is surely object
    assert joined.areas.tolist() == [328]


def test_objects_at_the_edges_with_holes_and_none() -> None:
    ring = masks([(0, 0, 20, 20)], size=(20, 20))[0]
    ring[5:15, 5:15] = 0
    found = labelled_data.objects(ring)
    assert found.boxes.tolist() == [[0, 0, 20, 20]]
    assert found.areas.tolist() == [300]
    assert len(labelled_data.objects(np.full((4, 4), UNKNOWN, np.uint8))) == 0
    assert labelled_data.objects(np.zeros((4, 4), np.uint8)).boxes.shape == (0, 4)


def test_objects_agree_with_a_flood_fill() -> None:
    rng = np.random.default_rng(0)
    for density in (0.2, 0.45, 0.7):
        mask = np.where(rng.random((24, 31)) < density, OBJECT, 0).astype(np.uint8)
        expected = []
        todo = set(zip(*(v.tolist() for v in np.nonzero(mask)), strict=True))
        while todo:
            group, front = [], [todo.pop()]
            while front:
                y, x = front.pop()
                group.append((y, x))
                near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & todo
                todo -= near
                front += near
            ys, xs = zip(*group, strict=True)
            expected.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1, len(group)))
        found = labelled_data.objects(mask)
        ours = [(*box, area) for box, area in zip(found.boxes.tolist(), found.areas.tolist(), strict=True)]
        assert sorted(ours) == sorted(expected)


def test_small_objects_are_told_apart() -> None:
    found = labelled_data.objects(masks([(0, 0, 10, 10), (20, 20, 30, 29)])[0])
    assert found.large.areas.tolist() == [100]
    assert found.small.areas.tolist() == [90]


# ---------------------------------------------------------------- tracks


def moving(frames: int, left: float, speed: float, width: int = 12) -> list[list[tuple[int, int, int, int]]]:
    return [[(round(left + speed * i), 10, round(left + speed * i) + width, 30)] for i in range(frames)]


def test_tracks_follow_objects_over_a_gap_and_know_new_ones() -> None:
    rows = moving(20, 2, 1.0)
    rows[8] = []  # out of sight for a frame
    for i in range(12, 20):
        rows[i] = [*rows[i], (50, 35, 62, 47)]
    truth = labelled_score.Truth.of(masks(*rows))
    first, second = truth.tracks
    assert first.frames == [i for i in range(20) if i != 8]
    assert not first.new  # it was there at the start
    assert second.frames == list(range(12, 20))
    assert second.new


def test_a_part_that_splits_off_is_not_new() -> None:
    whole, left, right = (10, 10, 40, 30), (10, 10, 24, 30), (26, 10, 40, 30)
    rows = [[whole]] * 6 + [[left, right]] * 6
    truth = labelled_score.Truth.of(masks(*rows))
    assert len(truth.tracks) == 2
    assert not any(track.new for track in truth.tracks)


def test_objects_that_stop() -> None:
    rows = moving(20, 2, 1.5) + [[(32, 10, 44, 30)]] * 40 + moving(20, 32, 0.5)
    truth = labelled_score.Truth.of(masks(*rows))
    (track,) = truth.tracks
    ((first, last),) = labelled_data.stops(track, labelled_score.STANDING, labelled_score.BLOCK)
    assert 20 <= first <= 28
    assert 52 <= last <= 62
    kinds = [int(k[0]) for k in truth.classes]
    assert kinds[2] == 2  # fast
    assert set(kinds[first : last + 1]) == {0}
    assert kinds[75] == 1  # slow
    shorter = labelled_score.Truth.of(masks(*(moving(20, 2, 1.5) + [[(32, 10, 44, 30)]] * 15)))
    assert all((k != 0).all() for k in shorter.classes)


# ---------------------------------------------------------------- scores


def test_unknown_and_outside_pixels_do_not_count() -> None:
    mask = masks([(10, 10, 30, 30)])[0]
    truth = labelled_data.objects(mask).large
    mask[:, 40:] = UNKNOWN
    mask[40:] = OUTSIDE
    marked = np.zeros(mask.shape, bool)
    marked[10:30, 10:25] = True  # three quarters of the object
    marked[0:10, 0:10] = True  # wrong
    marked[:, 40:] = True  # unknown
    marked[40:] = True  # outside
    counts, found = labelled_score.judge_mask(marked, mask, truth)
    assert counts == [300, 100, 100, 40 * 40 - 400 - 100]
    assert found.tolist() == [True]
    value = float(labelled_score.miou(np.array(counts)))
    assert value == pytest.approx((300 / 500 + 1100 / 1300) / 2)
    marked[10:30, 15:25] = False  # a quarter is left
    assert labelled_score.judge_mask(marked, mask, truth)[1].tolist() == [False]


def boxes(*rows: tuple[float, float, float, float], scores: tuple[float, ...] = ()) -> Boxes:
    corners = np.array(rows, float).reshape(-1, 4)
    return Boxes(corners, np.array(scores or [0.9] * len(rows)), np.zeros(len(rows), np.int64))


def test_boxes_found_wrong_missed_and_ignored() -> None:
    mask = masks([(2, 2, 22, 22), (40, 2, 60, 22), (2, 40, 7, 45)])[0]
    mask[30:48, 40:64] = UNKNOWN
    every = labelled_data.objects(mask)
    answer = boxes((3, 2, 23, 22), (2, 3, 22, 23), (1, 39, 8, 46), (42, 31, 60, 47), (25, 25, 35, 35))
    counts, found = labelled_score.judge_boxes(answer, mask, every.large, every.small)
    # The second is a double, the third a small object, the fourth is in the unknown, the fifth is wrong.
    assert counts == [1, 2, 1, 0]
    assert found.tolist() == [True, False]
    sums = np.array(counts)
    assert labelled_score.recall(sums) == 0.5
    assert labelled_score.precision(sums) == pytest.approx(1 / 3)
    assert labelled_score.f1(sums) == pytest.approx(2 / 5)


def test_when_a_new_object_is_first_found_and_what_never_is() -> None:
    rows = [[(2, 2, 14, 22)]] * 30
    rows = [[*row, (40, 20, 55, 40)] if i >= 10 else row for i, row in enumerate(rows)]
    rows = [[*row, (22, 30, 34, 45)] if 20 <= i < 28 else row for i, row in enumerate(rows)]
    truth = labelled_score.Truth.of(masks(*rows))
    found = [np.zeros(len(o), bool) for o in truth.objects]
    where = {tuple(o.boxes[j]): (i, j) for i, o in enumerate(truth.objects) for j in range(len(o)) if i == 13}
    for i in range(13, 30):
        place = [tuple(b) for b in truth.objects[i].boxes].index((40, 20, 55, 40))
        found[i][place] = True
    assert (40, 20, 55, 40) in where
    told = labelled_score.delays([labelled_score.Judged(np.zeros((30, 4)), found)], [truth])
    assert told["new"] == 2
    assert sorted(told["delays"]) == [3, 8]  # the other is never found: its whole life counts
    assert (told["never"], told["missed"], told["objects"]) == (1, 2, 3)
    assert told["mean_delay"] == 5.5


def test_speeds_of_what_is_found() -> None:
    truth = labelled_score.Truth.of(masks(*([[(2, 2, 14, 22)]] * 40)))
    found = [np.array([i < 30]) for i in range(40)]
    sights = labelled_score.Judged(np.zeros((40, 4)), found).sights(truth)
    assert sights.sum(0).tolist() == [[30, 40], [0, 0], [0, 0]]


# ---------------------------------------------------------------- intervals


def interval(*terms: Any, block: int) -> dict[str, float]:
    """A figure of (found, there) that has an interval."""
    found = labelled_score.interval(terms, labelled_score.share, block)
    return {name: value for name, value in found.items() if value is not None}


def test_intervals_are_paired_and_of_blocks() -> None:
    rng = np.random.default_rng(1)
    hard = np.repeat(rng.uniform(0.2, 0.9, 40), 10)  # neighbouring frames are alike
    there = np.full(400, 20)
    ours = np.stack([rng.binomial(there, hard), there], 1)
    theirs = np.stack([np.minimum(ours[:, 0] + 1, 20), there], 1)  # a little better on every frame
    alone = interval(([1.0], [ours]), block=10)
    assert alone["value"] == pytest.approx(ours[:, 0].sum() / 8000)
    apart = interval(([1.0], [ours]), ([-1.0], [theirs]), block=10)
    width, paired = (f["high"] - f["low"] for f in (alone, apart))
    assert paired < 0.1 * width
    assert apart["low"] <= apart["value"] <= apart["high"] < 0
    single = interval(([1.0], [ours]), block=1)
    assert single["high"] - single["low"] < 0.6 * width
    assert labelled_score.interval([([1.0], [ours[:40]])], labelled_score.share, block=10)["low"] is None


def test_a_figure_over_clips_is_their_mean() -> None:
    full, empty = np.tile([[1, 1]], (50, 1)), np.tile([[0, 2]], (200, 1))
    found = labelled_score.interval([([1.0, 1.0], [full, empty])], labelled_score.share)
    assert (found["value"], found["low"], found["high"]) == (0.5, 0.5, 0.5)
    without = labelled_score.interval([([1.0, 1.0], [full, 0 * empty])], labelled_score.share)
    assert without["value"] == 1  # the second has nothing to find


def test_skipping_at_equal_milliseconds() -> None:
    skips = {1: [8.0, 8.0, 8.0, 8.0], 2: [4.0] * 4, 4: [2.0] * 4}
    weights = labelled_score.at_equal_ms([4.0, 3.0, 9.0, 1.0], skips)
    assert weights == {1: [0, 0, 1, 0], 2: [1, 0.5, 0, 0], 4: [0, 0.5, 0, 1]}


# ---------------------------------------------------------------- contenders


def test_labels_are_told_apart_and_every_skip_is_there() -> None:
    labels = [c.label for c in labelled_contenders.CONTENDERS]
    assert len(set(labels)) == len(labels)
    assert labels[0] == "dense"
    for step in labelled_contenders.STEPS:
        assert {labelled_contenders.skipping(step, t).label for t in (False, True)} <= set(labels)


def test_streams_say_their_options() -> None:
    contender = labelled_contenders.streaming(0.1, every=2, predict=1.5)
    assert contender.label == "τ = 0.1, predict 1.5, every 2nd frame"
    assert contender.options is not None
    assert contender.options["threshold"] == 0.1
    assert contender.options["predict"] == 1.5
    assert contender.options["block"] == 8
    assert contender.every == 2


def test_held_answers() -> None:
    assert labelled_contenders.hold("abc", 3, 8) == list("aaabbbcc")


@pytest.mark.skipif(
    bool(labelled_contenders.no_tracker()), reason=f"a tracker is {labelled_contenders.no_tracker()}"
)
def test_the_tracker_moves_boxes_between_the_frames_looked_at() -> None:
    answers = [boxes((4.0 * i, 10, 4.0 * i + 30, 40)) for i in range(0, 60, 4)]
    rows = labelled_contenders.follow(answers, 4, 60)
    for frame in range(40, 60):
        assert rows[frame].boxes[0, 0] == pytest.approx(4.0 * frame, abs=2)
    assert rows[3].boxes.tolist() == answers[0].boxes.tolist()  # seen once: it stays
    weak = [boxes((10, 10, 40, 40), scores=(s,)) for s in (0.9, 0.9, 0.2, 0.2)]
    kept = labelled_contenders.follow(weak, 1, 4)
    assert [len(k) for k in kept] == [1, 1, 1, 1]  # tied to a known object
    assert len(labelled_contenders.follow([boxes((10, 10, 40, 40), scores=(0.2,))], 1, 1)[0]) == 0


# ---------------------------------------------------------------- networks


def test_the_networks_are_small_and_keep_the_size() -> None:
    both = labelled_nets.Both().eval()
    assert 0.2e6 < sum(p.numel() for p in both.parameters()) < 0.6e6
    picture = torch.rand(1, 3, 48, 80)
    logits, cells = both(picture)
    assert logits.shape == (1, 1, 48, 80)
    assert cells.shape == (1, 5, 6, 10)
    torch.testing.assert_close(both.network("segmenter")(picture), logits)
    torch.testing.assert_close(both.network("detector")(picture), cells)


def test_frames_are_padded_not_resized() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    given = labelled_nets.preprocess((40, 50))(labelled_nets.pad(frame))
    assert given.shape == (1, 3, 48, 64)
    expected = (frame[..., 0] / 255 - labelled_nets.MEAN[0]) / labelled_nets.STD[0]
    assert given[0, 0, :40, :50].numpy() == pytest.approx(expected, abs=1e-5)


def test_the_detector_is_read_as_it_is_taught() -> None:
    mask = masks([(8, 8, 40, 32)])[0]
    heat, target, counted = labelled_train.targets(torch.from_numpy(mask))
    assert np.argwhere(heat.numpy() == 1).tolist() == [[2, 3]]
    assert counted.all()
    assert target[:, 2, 3].tolist() == [8, 8, 40, 32]
    output = np.full((1, 5, 6, 8), -9.0, np.float32)
    y, x = (v * 8 for v in np.mgrid[0.5:6, 0.5:8])
    output[0, 1:] = np.log(np.maximum([x - 8, y - 8, 40 - x, 32 - y], 1) / 8)
    output[0, 0, 2, 3] = 3.0
    found = labelled_nets.DETECTOR.boxes(output, (48, 64))
    assert found.boxes == pytest.approx(np.array([[8, 8, 40, 32]]), abs=1e-4)
    given = torch.from_numpy(mask[None])
    taught = labelled_train.detect_loss(torch.from_numpy(output), given)
    assert taught < 0.1
    output[0, 1] += 0.5  # half as wide again to the left
    assert labelled_train.detect_loss(torch.from_numpy(output), given) > taught + 0.2
    small = labelled_train.targets(torch.from_numpy(masks([(8, 8, 12, 12)])[0]))
    assert small[0].max() == 0
    assert small[2].min() == 0


def test_training_ignores_unknown_pixels() -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.uint8)
    mask[:, :, 8:] = UNKNOWN
    logits = torch.full((1, 1, 16, 16), -20.0)
    quiet = labelled_train.segment_loss(logits, mask)
    logits[..., 8:] = 20.0
    torch.testing.assert_close(labelled_train.segment_loss(logits, mask), quiet)
    logits[..., :8] = 20.0
    assert labelled_train.segment_loss(logits, mask) > quiet + 5


def test_a_fold_is_judged_by_networks_that_have_not_seen_it() -> None:
    folds = {fold: set(labelled_data.of_fold(fold)) for fold in labelled_data.FOLDS}
    assert sorted(n for names in folds.values() for n in names) == sorted(labelled_data.CLIPS)
    for fold in folds:
        assert not folds[fold] & folds[labelled_data.other(fold)]
        assert len(folds[fold]) == 3


def test_what_is_missing_says_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "office.mp4").touch()
    text = labelled_data.missing(tmp_path, ["office"])
    assert text.startswith("office.masks.npz missing: SBI2015")
    (tmp_path / "office.masks.npz").touch()
    assert labelled_data.missing(tmp_path, ["office"]) == ""


# ---------------------------------------------------------------- judging


def write(folder: Path, name: str, frames: int = 12, size: tuple[int, int] = (48, 64)) -> None:
    """A clip of a bright square that moves over noise, with its masks."""
    rng = np.random.default_rng(0)
    ground = rng.integers(40, 90, (*size, 3), dtype=np.uint8)
    drawn = masks(*(moving(frames, 4, 2.0)), size=size)
    with ClipWriter(folder / f"{name}.mp4", 25, size) as writer:
        for mask in drawn:
            writer.write(np.where(mask[..., None] == OBJECT, np.uint8(220), ground))
    np.savez_compressed(folder / f"{name}.masks.npz", masks=drawn)


def test_a_clip_and_its_masks_must_fit(tmp_path: Path) -> None:
    write(tmp_path, "office")
    frames, found = labelled_data.load(tmp_path, "office")
    assert frames.shape == (12, 48, 64, 3)
    assert found.shape == (12, 48, 64)
    np.savez(tmp_path / "office.masks.npz", masks=found[:5])
    with pytest.raises(VideoError, match=r"frames are \(12, 48, 64\), masks \(5, 48, 64\)"):
        labelled_data.load(tmp_path, "office")


def test_an_exact_stream_is_judged_like_the_dense_network(tmp_path: Path) -> None:
    write(tmp_path, "office")
    frames, found = labelled_data.load(tmp_path, "office")
    truth = labelled_score.Truth.of(found)
    both = labelled_nets.Both().eval()
    contender = labelled_contenders.Contender
    for kind in labelled_nets.KINDS:
        judge = labelled_run.Judge(kind, both.network(kind), frames, found, truth)
        dense, work = judge.judge(labelled_contenders.DENSE)
        assert work == 1
        exact, less = judge.judge(contender("exact", {}))
        assert np.array_equal(exact.counts, dense.counts)
        assert 0 < less <= 1
        half, work = judge.judge(labelled_contenders.skipping(2))
        assert work == 0.5
        assert np.array_equal(half.counts[::2], dense.counts[::2])
        if kind == "segmenter":
            assert dense.counts.sum(1).tolist() == [48 * 64] * 12
        seen, work = judge.judge(contender("both", {}, every=2))
        assert np.array_equal(seen.counts, half.counts)
        assert work <= 0.5


def test_answers_are_kept_by_network_and_contender(tmp_path: Path) -> None:
    checkpoint = tmp_path / "net.pt"
    checkpoint.write_bytes(b"one")
    kept = labelled_run.Kept(tmp_path / "kept", checkpoint)
    contender = labelled_contenders.Contender("x", {"threshold": 0.1})
    path = kept.path("detector", "office", contender)
    judged = labelled_score.Judged(np.arange(8).reshape(2, 4), [np.array([True, False]), np.empty(0, bool)])
    kept.put(path, judged, 0.25)
    again, work = kept.get(path)
    assert work == 0.25
    assert np.array_equal(again.counts, judged.counts)
    assert [f.tolist() for f in again.found] == [[True, False], []]
    other = labelled_contenders.Contender("x", {"threshold": 0.2})
    assert kept.path("detector", "office", other) != path
    checkpoint.write_bytes(b"two")
    assert labelled_run.Kept(tmp_path / "kept", checkpoint).path("detector", "office", contender) != path


# ---------------------------------------------------------------- tables


def document() -> dict[str, Any]:
    """Results of two contenders and a stream on two clips of ten blocks, the second clip harder."""
    rows = [[(2, 10, 14, 30)]] * 250
    truth = {name: labelled_score.Truth.of(masks(*rows)) for name in ("candela", "office")}
    contenders = [
        labelled_contenders.DENSE,
        *(labelled_contenders.skipping(n) for n in labelled_contenders.STEPS),
        labelled_contenders.Contender("τ = 0.1", {"threshold": 0.1}),
    ]
    judged: dict[str, dict[str, Any]] = {}
    timed: dict[str, Any] = {}
    for name, base in (("candela", 80), ("office", 60)):
        judged[name] = {}
        for contender in contenders:
            hit = base - 4 * (contender.every - 1) - (0 if contender.dense else 1)
            counts = np.tile([hit, 0, 100 - hit, 900], (250, 1))
            found = [np.array([i >= contender.every]) for i in range(250)]
            judged[name][contender.label] = labelled_score.Judged(counts, found), 1 / contender.every
        timed[name] = {"dense": {"eager": 9.0, "openvino": 8.0}, "streams": {"τ = 0.1": 3.0}}
    figures = labelled_figures.Figures("segmenter", truth, judged, timed, contenders)
    return {"runs": [], "sections": {"labelled": {"segmenter": figures.to_json()}}}


def test_figures_and_tables() -> None:
    found = document()
    json.dumps(found, allow_nan=False)
    rows = {row["label"]: row for row in found["sections"]["labelled"]["segmenter"]["contenders"]}
    stream = rows["τ = 0.1"]
    assert stream["ms"] == 3.0
    assert rows["every 2nd frame"]["ms"] == 4.0
    miou = labelled_score.miou
    every = [miou(np.array([base - 1, 0, 101 - base, 900])) for base in (80, 60)]
    assert stream["miou"]["value"] == pytest.approx(np.mean(every))
    assert stream["miou_minus_dense"]["high"] < 0
    # 3 ms lie between every 2nd (4 ms) and every 3rd frame (2.67 ms).
    part = (4 - 3) / (4 - 8 / 3)
    skip = [
        (1 - part) * miou(np.array([b - 4, 0, 104 - b, 900]))
        + part * miou(np.array([b - 8, 0, 108 - b, 900]))
        for b in (80, 60)
    ]
    assert stream["over_skipping"]["value"] == pytest.approx(np.mean(every) - np.mean(skip))
    assert stream["speeds"]["standing"]["share"]["value"] == pytest.approx(249 / 250)
    assert "fast" not in stream["speeds"]
    lines = labelled_render.segmenter(found).splitlines()
    assert lines[2].startswith("| *dense* | 100 % | 8.00 |")
    assert any(line.startswith("| τ = 0.1 | 100 % | 3.00 |") for line in lines)
    assert "every 8th frame" in labelled_render.objects(found)
    assert "| candela | office |" in labelled_render.clips(found)


def test_pages_are_filled(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- labelled:segmenter -->old<!-- /labelled:segmenter -->\nb")
    written = labelled_render.render(document(), tmp_path / "all.md", [page, tmp_path / "absent.md"])
    assert [p.name for p in written] == ["all.md", "page.md"]
    text = page.read_text()
    assert "| *dense* |" in text
    assert ">old<" not in text
    assert text.endswith("\nb")


# ---------------------------------------------------------------- the whole


@pytest.mark.slow
def test_a_run(tmp_path: Path) -> None:
    """Train a few steps on made-up clips, judge, and write tables; no path of this machine in the results."""
    for name in labelled_data.CLIPS:
        write(tmp_path, name, frames=24)
    result = tmp_path / "labelled.json"
    command = [
        sys.executable, ROOT / "benchmarks" / "labelled.py", "--data", tmp_path,
        "--cache", tmp_path / "cache", "--json", result, "--pages", tmp_path / "page.md", "--steps", 2,
    ]  # fmt: skip

    def run(*more: str) -> None:
        subprocess.run([str(c) for c in (*command, *more)], check=True, timeout=280, cwd=ROOT)

    run("--train")
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {"judges-a.pt", "judges-b.pt"}
    assert (tmp_path / "cache" / "judges-a.pt").stat().st_size < 2e6
    run("--judge", "--clips", "office")
    text = result.read_text()
    assert str(tmp_path) not in text
    found = json.loads(text)["sections"]["labelled"]
    assert list(found) == ["segmenter", "detector"]
    rows = {row["label"]: row for row in found["segmenter"]["contenders"]}
    assert 0 < rows["τ = 0"]["work"] < 1
    assert rows["τ = 0.1, every 2nd frame"]["work"] < 0.5
    assert rows["every 4th frame"]["work"] == 0.25
    assert "Segmenter: mIoU on each clip" in result.with_suffix(".md").read_text()


@pytest.mark.real
def test_the_labelled_clips(shared_data: Path) -> None:
    """Each clip has the masks it should have, and objects, new ones and standing ones are found in them."""
    folder = shared_data / "labelled"
    if labelled_data.missing(folder, ["office"]):
        pytest.skip("needs the labelled clips of ../shared/data/labelled, which are absent here")
    frames, found = labelled_data.load(folder, "office")
    truth = labelled_score.Truth.of(found)
    assert len(frames) == len(truth.objects) == 700
    assert any(track.new for track in truth.tracks)
    assert any((kinds == 0).any() for kinds in truth.classes)
