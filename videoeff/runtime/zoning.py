"""Zones of a stream: the watched pixels of each input, and frames as the stream sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from videoeff.errors import ArtifactError, StateError
from videoeff.ir import edit
from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.watched import mask_to_text, text_to_mask, watched_problem
from videoeff.runtime.body import StreamBody
from videoeff.runtime.engine import Engine
from videoeff.runtime.freezing import Freezer, composed
from videoeff.runtime.partitioned import PartitionedModel
from videoeff.video.zones import Zones

if TYPE_CHECKING:
    from videoeff.video.preprocess import Preprocess

#: Channels of a picture.
_CHANNELS = (1, 3, 4)

#: What zones are given as: polygons, or the watched pixels of the input, bool (H, W) or (B, H, W).
GivenZones = Zones | Tensor


@dataclass(frozen=True)
class Picture:
    """A tensor of a stream's call that is read as pictures.

    Attributes:
        index: its number among the call's tensors.
        shape: its shape.
        layout: which of its dimensions are streams and pixels.
        cache: what keeps it, in a model captured whole.
    """

    index: int
    shape: tuple[int, ...]
    layout: PixelLayout
    cache: fx.Node | None = None

    @property
    def extent(self) -> tuple[int, int, int]:
        """(R, H, W): rows of the batch, pixels."""
        return self.layout.extent(self.shape)

    @property
    def channels_last(self) -> bool:
        """Whether its last dimension, read as columns of pixels, is rather that of its channels."""
        last, ndim = self.shape[-1], len(self.shape)
        return (
            ndim >= 4 and self.layout.w == ndim - 1 and last in _CHANNELS and self.shape[-3] not in _CHANNELS
        )


def pictures_of(body: StreamBody) -> list[Picture]:
    """The tensors of a stream's call that are read as pictures.

    A model captured whole says which dimensions it reads as pixels. One in parts is taken to read pictures
    (B, C, H, W) and (C, H, W) of 1, 3 or 4 channels.
    """
    specs = body.signature.frame_specs
    if isinstance(body, Engine):
        nodes = body.program.placeholders[: len(specs)]
        found = []
        for index, node in enumerate(nodes):
            cache = next((user for user in node.users if is_cache(user)), None)
            if cache is not None and cache_option(cache, "kind") == "input" and info(cache).is_spatial:
                layout = info(cache).layout
                assert layout is not None  # a spatial value has one
                found.append(Picture(index, specs[index].shape, layout, cache))
        return found
    pictures = []
    for index, (shape, _) in enumerate(specs):
        if len(shape) not in (3, 4) or shape[-3] not in _CHANNELS:
            continue
        if len(shape) == 4 and shape[0] == body.streams:
            pictures.append(Picture(index, shape, PixelLayout(0, 2, 3, tuple(range(shape[0])))))
        if len(shape) == 3 and body.streams == 1:
            pictures.append(Picture(index, shape, PixelLayout(None, 1, 2, (0,))))
    return pictures


@dataclass(frozen=True)
class Zoned:
    """The zones that a stream was given.

    Attributes:
        given: polygons, or the watched pixels of the input.
        preprocess: from the camera's frame to the input; None where the frame fills it.
        frame_size: (H, W) of the camera's frames; None where it does not matter.
    """

    given: GivenZones
    preprocess: Preprocess | None = None
    frame_size: tuple[int, int] | None = None

    def masks(self, name: str, body: StreamBody) -> dict[int, Tensor]:
        """The watched pixels, bool (R or 1, H, W), by the number of the call's tensor; none where all are.

        Raises:
            StateError: no input fits, nothing is watched, or where the frame lies is not known.
            VideoError: the polygons leave nothing of the frame to watch.
        """
        pictures = pictures_of(body)
        if not pictures:
            raise StateError(
                f"{name}: none of its inputs is read as pictures, so no pixels can be ignored; zones are "
                "for frames (B, C, H, W) or (C, H, W)"
            )
        odd = next((p for p in pictures if p.channels_last), None)
        if odd is not None:
            raise StateError(
                f"{name}: its argument {odd.index} is {list(odd.shape)}, with its channels last, and zones "
                "are for frames (B, C, H, W); give the model frames in that order"
            )
        if isinstance(self.given, Zones):
            found = {p.index: self._polygons(name, self.given, p) for p in pictures}
        else:
            found = self._pixels(name, self.given, pictures, body.streams)
        return {index: mask for index, mask in found.items() if not bool(mask.all())}

    def _polygons(self, name: str, zones: Zones, picture: Picture) -> Tensor:
        size = picture.extent[1:]
        if self.preprocess is None or self.preprocess.fit == "stretch":
            return zones.mask(size).unsqueeze(0)
        if self.frame_size is None:
            raise StateError(
                f"{name}: its frames are padded ({self.preprocess.fit}), so where the zones lie in its input "
                "follows from the camera's frame size; give set_zones(zones, preprocess, frame_size=(H, W))"
            )
        place = replace(self.preprocess, size=size).place(self.frame_size)
        return zones.mask(size, place).unsqueeze(0)

    def _pixels(
        self, name: str, mask: Tensor, pictures: Sequence[Picture], streams: int
    ) -> dict[int, Tensor]:
        size = tuple(mask.shape[-2:])
        chosen = [p for p in pictures if p.extent[1:] == size]
        if not chosen:
            sizes = ", ".join(f"{h}x{w}" for h, w in dict.fromkeys(p.extent[1:] for p in pictures))
            raise StateError(
                f"{name}: the mask of watched pixels is {size[0]}x{size[1]}, its input {sizes}; give a mask "
                "of that size, or polygons (videoeff.video.zones.Zones), which fit every size"
            )
        rows = mask.unsqueeze(0) if mask.ndim == 2 else mask
        if len(rows) not in (1, streams):
            raise StateError(
                f"{name}: {len(rows)} masks for {streams} stream(s); give one (H, W), or ({streams}, H, W)"
            )
        empty = [str(i) for i, row in enumerate(rows) if not bool(row.any())]
        if empty:
            raise StateError(
                f"{name}: nothing is left to watch{'' if len(rows) == 1 else f' in stream {empty[0]}'}: the "
                "mask is False everywhere; True stands for a watched pixel"
            )
        own = rows.detach().to("cpu", copy=True)
        return {p.index: self._of_rows(name, own, p) for p in chosen}

    def _of_rows(self, name: str, masks: Tensor, picture: Picture) -> Tensor:
        if len(masks) == 1:
            return masks
        streams = picture.layout.streams
        if streams is None or picture.layout.rows is None:
            raise StateError(
                f"{name}: its argument {picture.index} is shared by all streams of the batch, so a mask for "
                "each stream does not fit; give one mask (H, W)"
            )
        return masks[list(streams)]

    def to_json(self, body: StreamBody) -> dict[str, Any]:
        """A plain dictionary; the masks too, where the graph does not hold them."""
        found: dict[str, Any] = {}
        if isinstance(self.given, Zones):
            found["polygons"] = self.given.to_json()
        else:
            shared = self.given.ndim == 2
            found["mask"] = mask_to_text(self.given.unsqueeze(0) if shared else self.given)
            found["shared"] = shared
        if body.freezer is not None:
            found["frozen"] = {str(i): mask_to_text(mask) for i, mask in body.freezer.masks.items()}
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any], body: StreamBody) -> Zoned | None:
        """What :meth:`to_json` wrote; a body in parts is given its masks.

        Raises:
            ArtifactError: the masks do not fit the body.
        """
        given: GivenZones | None = None
        if "polygons" in data:
            given = Zones.from_json(data["polygons"])
        elif data["mask"]:
            mask = text_to_mask(data["mask"])
            given = mask[0] if data["shared"] else mask
        if "frozen" in data:
            apply(body, _checked(data["frozen"], body))
        return None if given is None else cls(given)


def _checked(texts: Mapping[str, str], body: StreamBody) -> dict[int, Tensor]:
    pictures = {str(p.index): p for p in pictures_of(body)}
    for index, text in texts.items():
        if index not in pictures:
            raise ArtifactError(f"its zones are of argument {index!r}, which is no picture; convert it anew")
        if problem := watched_problem(text, pictures[index].extent):
            raise ArtifactError(f"its zones of argument {index}: {problem}; convert it anew")
    return {int(index): text_to_mask(text) for index, text in texts.items() if text}


def check_zones(name: str, zones: Any) -> None:
    """Whether a value may be zones.

    Raises:
        StateError: it is something else.
    """
    if zones is None or isinstance(zones, Zones):
        return
    if not isinstance(zones, Tensor):
        raise StateError(
            f"{name}: zones are a {type(zones).__name__}; give videoeff.video.zones.Zones, or the watched "
            "pixels as a bool tensor (H, W)"
        )
    if zones.dtype != torch.bool or zones.ndim not in (2, 3):
        raise StateError(
            f"{name}: zones are {zones.dtype} {list(zones.shape)}; watched pixels are bool, (H, W) or "
            "(B, H, W)"
        )


def apply(body: StreamBody, masks: Mapping[int, Tensor]) -> None:
    """Watch these pixels from the next frame on, all pixels of inputs without a mask. State is kept.

    Args:
        body: what the stream runs.
        masks: what :meth:`Zoned.masks` gave.
    """
    if isinstance(body, Engine):
        body.own_program()
    pictures = pictures_of(body)
    if isinstance(body, Engine):
        texts = {p.index: mask_to_text(masks[p.index]) if p.index in masks else "" for p in pictures}
        changed = False
        for picture in pictures:
            assert picture.cache is not None  # of a model captured whole
            if cache_option(picture.cache, "watched") != texts[picture.index]:
                changed |= edit.set_option(picture.cache, watched=texts[picture.index])
        if changed:
            body.relower()
        return
    assert isinstance(body, PartitionedModel)  # there is no other
    layouts = {p.index: p.layout for p in pictures if p.index in masks}
    if not masks:
        body.freezer = None
    elif body.freezer is None:
        body.freezer = Freezer(masks, layouts, body.streams)
    else:
        body.freezer.change(masks, layouts)


def as_seen(
    body: StreamBody, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call as a stream sees it: its ignored pixels as the stream keeps them.

    This is what the dense network is given wherever a stream is compared with it, before or after the
    stream's own frame.

    Args:
        body: what the stream runs.
        args: positional arguments of a call that fits.
        kwargs: its keyword arguments.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, v in enumerate(leaves) if isinstance(v, Tensor)]
    frames = [leaves[i] for i in places]
    with torch.no_grad():
        seen = frames_as_seen(body, frames)
    if all(a is b for a, b in zip(seen, frames, strict=True)):
        return args, kwargs
    for place, frame in zip(places, seen, strict=True):
        leaves[place] = frame
    seen_args, seen_kwargs = pytree.tree_unflatten(leaves, spec)
    return seen_args, seen_kwargs


def frames_as_seen(body: StreamBody, frames: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of a call as a stream sees them; see :func:`as_seen`."""
    if body.freezer is not None:
        return body.freezer.seen(frames)
    found = list(frames)
    if not isinstance(body, Engine) or all(body.fresh):
        return found
    for picture in pictures_of(body):
        watched = watched_of(picture)
        if watched is not None and picture.cache is not None:
            kept = body.value(cache_name(picture.cache))
            found[picture.index] = composed(found[picture.index], kept, watched, picture.layout, body.fresh)
    return found


def compose_on(
    masks: Mapping[int, Tensor], body: StreamBody, call: Sequence[Tensor], base: Sequence[Tensor]
) -> list[Tensor]:
    """The tensors of a call with the ignored pixels of another."""
    layouts = {p.index: p.layout for p in pictures_of(body)}
    found = list(call)
    for index, mask in masks.items():
        found[index] = composed(found[index], base[index], mask, layouts[index], ())
    return found


def watched_of(picture: Picture) -> Tensor | None:
    """The watched pixels that the graph has for an input, bool (R or 1, H, W); None where all are."""
    text = "" if picture.cache is None else cache_option(picture.cache, "watched")
    return text_to_mask(text) if text else None


def masks_of(body: StreamBody) -> dict[int, Tensor]:
    """The watched pixels in effect, bool (R or 1, H, W), by the call's tensor; none where all are."""
    if body.freezer is not None:
        return dict(body.freezer.masks)
    found = {p.index: watched_of(p) for p in pictures_of(body)}
    return {index: mask for index, mask in found.items() if mask is not None}


def ignored_share(body: StreamBody) -> float:
    """The share of the pixels of all pictures of a call that are ignored."""
    masks = masks_of(body)
    pixels = ignored = 0.0
    for picture in pictures_of(body) if masks else ():
        rows, height, width = picture.extent
        pixels += rows * height * width
        if picture.index in masks:
            ignored += rows * height * width * float((~masks[picture.index]).float().mean())
    return ignored / pixels if pixels else 0.0
