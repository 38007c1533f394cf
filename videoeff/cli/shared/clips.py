"""What commands that read a clip have in common: opening it for a model, and telling what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videoeff.video.preprocess import Preprocess
    from videoeff.video.source import Clip


def reopened(clip: Clip, name: str, frames: int | None, *, alpha: bool) -> Clip:
    """The clip again with its opacity, where the model takes it; else the clip as it is.

    A command opens its clip before it reads the model, which takes longer.
    """
    if not alpha:
        return clip
    from videoeff.cli.shared.live import LiveClip
    from videoeff.video.source import open_clip

    if isinstance(clip, LiveClip):
        clip.alpha = True
        return clip

    clip.close()
    return open_clip(name, frames=frames, alpha=True)


def note_on_shape(preprocess: Preprocess, frame: tuple[int, int]) -> tuple[str, ...]:
    """A note where frames lie on their side in the input: width and height swapped, or an upright clip."""
    if preprocess.size is None or preprocess.fit != "stretch":
        return ()
    (height, width), (high, wide) = frame, preprocess.size
    if (height - width) * (high - wide) >= 0:
        return ()
    return (
        f"frames of {height}x{width} (height x width) are stretched to {high}x{wide}; --input-size takes the "
        "height first, and --fit letterbox keeps proportions",
    )


def losses(clip: Clip) -> dict[str, int]:
    """How many frames are missing or made up, for reports."""
    return {"lost": clip.lost, "damaged": clip.damaged, "skipped": clip.skipped}


def notes_on_losses(clip: Clip) -> tuple[str, ...]:
    """The same for people, a sentence each; none for a whole clip."""
    found = []
    if clip.lost:
        found.append(
            f"{clip.lost} packet(s) of the clip gave no frame, because they or the frames they build on are "
            "damaged or lost; frames behind them may be made up by the decoder"
        )
    if clip.damaged:
        found.append(f"of {clip.damaged} frame(s) the decoder made up a part, because their data are damaged")
    if clip.skipped:
        found.append(
            f"{clip.skipped} frame(s) seem to be missing from the clip: its time stamps step over them"
        )
    return tuple(found)
