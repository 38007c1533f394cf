"""What an operator configures: networks, cameras, limits; from a TOML file and the command line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from videoeff.errors import FleetError

#: Names of cameras and networks: they stand in addresses and in names of files.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """Checks every key and every value, and changes no type silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


class TransportSettings(Settings):
    """How a camera in a network is reached.

    Attributes:
        protocol: of RTSP.
        timeout: seconds to open the connection.
        stall: seconds without a frame after which the connection counts as lost.
    """

    protocol: Literal["tcp", "udp", "auto"] | None = None
    timeout: Annotated[Number, Field(gt=0, le=600)] | None = None
    stall: Annotated[Number, Field(gt=0, le=3600)] | None = None


def _source(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (whole and value >= 0) or (isinstance(value, str) and 0 < len(value) <= 2000 and value.isprintable()):
        return value
    raise ValueError("expected an address, the number of a device, or a file")


class CameraSettings(Settings):
    """One camera.

    Attributes:
        source: an address, the number of a device, or a file.
        network: the name of a configured network; the first one if left out.
        threshold: of all layers; the network's own if left out.
        zones: polygons that are watched or ignored, {"watch": [[[x, y], ...]], "ignore": [...]}, corners in
            0..1 of the frame.
        every: look at every n-th frame; as the network was converted if left out.
        audit: share of the frames that are compared with the dense network; likewise.
        audit_budget: mean relative error of the last audits above which the camera is told to drift.
        fps: most frames a second that are computed; more are left out.
        policy: "latest" drops frames that come too fast, "every" computes them all.
        queue: frames that may wait.
        transport: how a camera in a network is reached.
        pace: give a file's frames at the file's own rate.
        loop: begin a file again at its end.
    """

    source: Annotated[str | int, BeforeValidator(_source)]
    network: Name | None = None
    threshold: Annotated[Number, Field(ge=0)] | None = None
    zones: dict[str, Any] | None = None
    every: Annotated[int, Field(ge=1, le=10_000)] | None = None
    audit: Annotated[Number, Field(ge=0, le=1)] | None = None
    audit_budget: Annotated[Number, Field(ge=0)] | None = None
    fps: Annotated[Number, Field(gt=0, le=1000)] | None = None
    policy: Literal["latest", "every"] | None = None
    queue: Annotated[int, Field(ge=1, le=256)] = 8
    transport: TransportSettings | None = None
    pace: bool = False
    loop: bool = False


class NewCamera(CameraSettings):
    """A camera and its name, as ``POST /cameras`` takes them."""

    name: Name


class NetworkSettings(Settings):
    """One network.

    Attributes:
        path: its artifact.
        decoder: how its outputs are read, where they are not recognised: fastestdet, yolox, ultralytics,
            ultralytics:N, torchvision, segmentation, none.
        classes: names of its classes, from class 0 on.
    """

    path: Path
    decoder: str | None = None
    classes: tuple[str, ...] = ()

    @field_validator("path", mode="before")
    @classmethod
    def _a_path(cls, value: Any) -> Any:
        return Path(value) if isinstance(value, str) else value

    @field_validator("classes", mode="before")
    @classmethod
    def _a_row(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class ServeSettings(Settings):
    """The service.

    Attributes:
        networks: by name; the first is that of cameras that name none.
        cameras: by name; they may read anything, since the operator names them.
        host: address to listen at. Another one than of this machine alone needs a token.
        port: 0 takes a free one.
        token_file: holds the token that every request must carry.
        names: further names of this service in the header Host, such as that of a proxy before it.
        keep: folder of the cameras' states; they are saved at the end and come back at the start.
        workers: threads that compute.
        evict_after: seconds a camera may be idle before its state is put into `keep` and its memory freed.
        save_every: seconds between copies of every camera's state in `keep`.
        media: folders whose files cameras added over the network may read.
        devices: numbers of devices that they may read.
        allow_hosts: names of hosts (with * and ?), addresses or networks (192.168.1.0/24) that they may read.
        max_cameras: at a time.
        max_clients: streams of events and previews at a time.
        max_body: bytes of a request.
        client_queue: outputs that wait for a slow client before the oldest is dropped.
        preview_fps: most pictures a second of a preview.
    """

    networks: dict[Name, NetworkSettings] = {}
    cameras: dict[Name, CameraSettings] = {}
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8756
    token_file: Path | None = None
    names: tuple[str, ...] = ()
    keep: Path | None = None
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    evict_after: Annotated[Number, Field(gt=0)] | None = None
    save_every: Annotated[Number, Field(gt=0)] | None = None
    media: tuple[Path, ...] = ()
    devices: tuple[int, ...] = ()
    allow_hosts: tuple[str, ...] = ("*",)
    max_cameras: Annotated[int, Field(ge=1, le=10_000)] = 64
    max_clients: Annotated[int, Field(ge=1, le=10_000)] = 32
    max_body: Annotated[int, Field(ge=256, le=16 << 20)] = 64 << 10
    client_queue: Annotated[int, Field(ge=1, le=1024)] = 16
    preview_fps: Annotated[Number, Field(gt=0, le=60)] = 5.0

    @field_validator("token_file", "keep", mode="before")
    @classmethod
    def _a_path(cls, value: Any) -> Any:
        return Path(value) if isinstance(value, str) else value

    @field_validator("media", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        return (
            tuple(Path(v) if isinstance(v, str) else v for v in value) if isinstance(value, list) else value
        )

    @field_validator("names", "devices", "allow_hosts", mode="before")
    @classmethod
    def _a_row(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


def checked(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    """Values as settings.

    Raises:
        FleetError: a key is unknown or missing, or a value has another type or lies outside its range. The
            message names the key, and the nearest known one.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise FleetError(f"{where}: " + "{}: {}; {}".format(*what_is_wrong(error, model))) from error


def what_is_wrong(error: ValidationError, model: type[BaseModel]) -> tuple[str, str, str]:
    """The first thing that is wrong: the key, what is wrong with it, and what to do."""
    found = _first(error)
    path = _path_of(found["loc"])
    key, message = ".".join(map(str, path)) or "the whole", found["msg"]
    if found["type"] == "extra_forbidden":
        known = _known(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        return key, "unknown key", f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    if found["type"] == "missing":
        return key, "is missing", "give it"
    if found["type"] == "string_pattern_mismatch":
        rule = "use 1 to 64 letters, digits, dots, - and _, the first of them a letter or a digit"
        return key, f"{_short(found['input'])} is no name", rule
    message = message.removeprefix("Value error, ")
    return key, f"{_short(found['input'])} cannot be used", message[0].lower() + message[1:]


def _first(error: ValidationError) -> Any:
    """The problem to tell of: an unknown key before a missing one, since it is often that one misspelt."""
    found = error.errors(include_url=False, include_context=False)
    return next((e for e in found if e["type"] == "extra_forbidden"), found[0])


def _path_of(place: Sequence[int | str]) -> list[int | str]:
    """Without what pydantic adds for a key that is itself wrong."""
    return [p for p in place if p != "[key]"]


def _known(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys of the settings at a path."""
    here = model
    for part in path:
        field = here.model_fields.get(str(part))  # None for a name among networks or cameras
        here = (_model_in(field.annotation) if field is not None else None) or here
    return list(here.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings that an annotation such as ``dict[Name, CameraSettings]`` is of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(part) for part in getattr(annotation, "__args__", ()))
    return next((model for model in found if model is not None), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_settings(path: Path) -> dict[str, Any]:
    """The values of a TOML file; paths in it are taken from its folder.

    Raises:
        FleetError: it cannot be read, is no TOML, or what it says cannot be used.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FleetError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FleetError(f"{path}: is no TOML ({error}); mend it") from error
    settings = checked(ServeSettings, data, str(path))
    folder = path.parent
    for key in ("token_file", "keep"):
        if key in data:
            data[key] = folder / data[key]
    if "media" in data:
        data["media"] = tuple(folder / p for p in settings.media)
    for name, network in settings.networks.items():
        data["networks"][name]["path"] = folder / network.path
    for name, camera in settings.cameras.items():
        if isinstance(camera.source, str) and ":" not in camera.source and not camera.source.isdecimal():
            data["cameras"][name]["source"] = str(folder / camera.source)
    return data
