"""Cameras as resources: added, changed and removed; their outputs, pictures and figures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.fake_fleet import SIZE
from tests.support.outputs import fastestdet
from tests.support.serving import Running, running, until
from videoeff.errors import ArtifactError, VideoError
from videoeff.video.preprocess import Preprocess
from videoeff.video.zones import Zones

FRONT = {"name": "front", "source": "rtsp://user:secret@10.0.0.7/stream?token=hush"}


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Running]:
    """A service of two networks, with a folder of states, one of media, and no camera."""
    (tmp_path / "media").mkdir()
    (tmp_path / "media/clip.mp4").write_bytes(b"clip")
    (tmp_path / "states").mkdir()
    networks: dict[str, dict[str, Any]] = {
        "net": {"path": "net.veff", "classes": ["person", "dog"]},
        "labels": {"path": "labels.veff", "decoder": "segmentation"},
    }
    folders: dict[str, Any] = {"media": [str(tmp_path / "media")], "keep": str(tmp_path / "states")}
    with running(networks=networks, models={"net": "the net", "labels": "the labels"}, **folders) as made:
        yield made


def names(one: Running) -> list[str]:
    return [camera["name"] for camera in one.json("GET", "/cameras")["cameras"]]


def picture(reply: Any) -> Image.Image:
    assert reply.status_code == 200, reply.text
    return Image.open(io.BytesIO(reply.content))


def test_a_camera_comes_and_goes(one: Running) -> None:
    reply = one.ask("POST", "/cameras", json=FRONT)
    assert reply.status_code == 201
    assert reply.headers["location"] == "/cameras/front"
    assert names(one) == ["front"]
    shown = one.json("GET", "/cameras/front")
    assert shown == reply.json() | {"status": shown["status"]}
    assert shown["settings"]["network"] == "net"
    assert shown["status"]["state"] == "connecting"
    assert one.fleet["front"].arguments["network"] == "the net"
    assert one.fleet["front"].arguments["source"] == FRONT["source"]
    gone = one.json("DELETE", "/cameras/front")
    assert gone["removed"] == "front"
    assert gone["status"]["state"] == "closed"
    assert names(one) == []
    one.refused("GET", "/cameras/front", 404)


def test_no_answer_holds_a_password(one: Running) -> None:
    one.fleet.refusals["bad"] = VideoError("rtsp://user:***@10.0.0.7/stream: does not answer; check it")
    texts = [one.ask("POST", "/cameras", json=FRONT).text]
    texts.append(one.ask("POST", "/cameras", json=FRONT).text)
    texts.append(one.ask("POST", "/cameras", json=FRONT | {"name": "bad"}).text)
    texts += [one.ask("GET", path).text for path in ("/cameras", "/cameras/front", "/metrics")]
    texts += [
        one.ask("PATCH", "/cameras/front", json={"fps": 3}).text,
        one.ask("DELETE", "/cameras/front").text,
    ]
    for text in texts:
        assert "secret" not in text
        assert "hush" not in text


def test_all_settings_reach_the_fleet(one: Running) -> None:
    settings: dict[str, Any] = {
        "name": "clip", "source": "clip.mp4", "network": "labels", "threshold": 0.5, "every": 3, "audit": 0.1,
        "audit_budget": 0.02, "fps": 12.5, "policy": "latest", "queue": 4, "pace": True, "loop": True,
        "zones": {"watch": [[[0, 0], [1, 0], [1, 1]]], "ignore": []},
        "transport": {"protocol": "udp", "timeout": 3, "stall": 2.5},
    }  # fmt: skip
    shown = one.json("POST", "/cameras", 201, json=settings)
    asked = one.fleet["clip"].arguments
    assert asked["source"].endswith("/media/clip.mp4")
    assert shown["settings"]["source"] == shown["status"]["address"] == "clip.mp4"
    assert asked["network"] == "the labels"
    for key in ("threshold", "every", "audit", "audit_budget", "fps", "policy", "queue", "pace", "loop"):
        assert asked[key] == settings[key] == shown["settings"][key]
    assert asked["zones"] == Zones.from_json(settings["zones"])
    assert (asked["transport"].protocol, asked["transport"].stall) == ("udp", 2.5)


def test_an_address_may_not_lead_to_files(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    protocols = one.fleet["front"].arguments["transport"].options["protocol_whitelist"]
    assert "rtsp" in protocols
    assert "file" not in protocols


def test_settings_are_changed_one_by_one(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT | {"threshold": 0.1, "fps": 5})
    shown = one.json("PATCH", "/cameras/front", json={"threshold": 0.2, "fps": None})
    assert (shown["settings"]["threshold"], shown["settings"]["fps"]) == (0.2, None)
    assert one.fleet["front"].arguments["source"] == FRONT["source"]
    assert one.fleet.calls[-2:] == [("remove", "front"), ("add", "front")]


def test_a_change_that_cannot_be_made_leaves_the_camera_as_it_was(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    before = list(one.fleet.calls)
    one.refused("PATCH", "/cameras/front", 400, json={"network": "absent"})
    one.refused("PATCH", "/cameras/front", 403, json={"source": "/etc/passwd"})
    one.refused("PATCH", "/cameras/front", 400, json={"zones": {"watch": [[[0, 0], [2, 2], [1, 1]]]}})
    assert one.fleet.calls == before
    added = one.fleet.add

    def add(name: str, source: Any, **arguments: Any) -> Any:
        if source == "rtsp://10.0.0.8/other":
            raise VideoError("rtsp://10.0.0.8/other: no video; check it")
        return added(name, source, **arguments)

    one.fleet.add = add
    error = one.refused("PATCH", "/cameras/front", 400, json={"source": "rtsp://10.0.0.8/other"})
    assert "no video" in error["what"]
    assert one.fleet["front"].arguments["source"] == FRONT["source"]
    assert names(one) == ["front"]


def test_a_camera_whose_earlier_settings_fail_too_is_removed(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    one.fleet.refusals["front"] = VideoError("the server is gone; start it")
    error = one.refused("PATCH", "/cameras/front", 400, json={"fps": 3})
    assert "the camera was removed" in error["what"]
    assert names(one) == []


def test_an_operator_s_camera_may_read_anything_and_keeps_that() -> None:
    with running(cameras={"yard": {"source": "/srv/yard.mp4"}}) as one:
        assert one.fleet["yard"].arguments["source"] == "/srv/yard.mp4"
        assert one.json("PATCH", "/cameras/yard", json={"fps": 3})["settings"]["source"] == "/srv/yard.mp4"
        one.refused("PATCH", "/cameras/yard", 403, json={"source": "/srv/yard.mp4"})


def test_what_a_file_s_path_is_stays_here(one: Running, tmp_path: Path) -> None:
    path = tmp_path / "media/clip.mp4"
    one.fleet.refusals["bad"] = VideoError(f"{path}: holds no video; choose another")
    error = one.refused("POST", "/cameras", 400, json={"name": "bad", "source": "clip.mp4"})
    assert error["what"] == "clip.mp4: holds no video"
    one.json("POST", "/cameras", 201, json={"name": "clip", "source": "clip.mp4"})
    one.fleet["clip"].why = f"{path}: ends early"
    assert one.json("GET", "/cameras/clip")["status"]["why"] == "clip.mp4: ends early"


def test_states_are_saved_and_come_back(one: Running, tmp_path: Path) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    one.refused("POST", "/cameras/front/restore", 409)
    assert one.json("POST", "/cameras/front/save") == {"camera": "front", "saved": "front.saved"}
    assert (tmp_path / "states/front.saved").read_bytes() == b"state"
    assert one.json("POST", "/cameras/front/restore")["restored"] == "front.saved"
    one.json("POST", "/cameras/front/reset")
    assert one.fleet["front"].resets == 1


def test_a_state_that_cannot_be_removed_with_its_camera(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    one.fleet.refusals["remove"] = ArtifactError("states/front.state: cannot be written (Input/output error)")
    assert "Input/output error" in one.refused("DELETE", "/cameras/front", 500)["what"]
    assert names(one) == []


def test_detections_on_the_frame(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    error = one.refused("GET", "/cameras/front/outputs", 404)
    assert error["what"] == "no frame of it was computed yet"
    one.fleet.give("front", fastestdet((64, 96), 1, 2, label=1), Preprocess(size=(64, 96)))
    found = one.json("GET", "/cameras/front/outputs")
    assert (found["camera"], found["number"], found["time"]) == ("front", 0, 0.0)
    assert (found["ms"], found["waited_ms"]) == (4.25, 1.5)
    assert found["frame"] == {"height": SIZE[0], "width": SIZE[1]}
    assert found["kind"] == "detections"
    ((left, top, right, bottom),) = found["boxes"]
    scale = (SIZE[1] / 96, SIZE[0] / 64)
    assert (left + right) / 2 == pytest.approx(2 * 16 * scale[0], abs=0.02)
    assert (top + bottom) / 2 == pytest.approx(1 * 16 * scale[1], abs=0.02)
    assert found["classes"] == [1]
    assert found["names"] == ["dog"]


def test_a_label_map(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT | {"network": "labels"})
    logits = torch.zeros(1, 3, 24, 40)
    logits[0, 2, :, 20:] = 1
    one.fleet.give("front", logits)
    found = one.json("GET", "/cameras/front/outputs")
    assert found["kind"] == "segmentation"
    assert found["classes"] == [{"class": 0, "share": 0.5}, {"class": 2, "share": 0.5}]
    mask = np.array(picture(one.ask("GET", "/cameras/front/mask.png")))
    assert mask.shape == SIZE
    assert (mask[:, :80] == 0).all()
    assert (mask[:, 80:] == 2).all()


def test_a_label_map_without_the_padding_of_a_letterbox(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT | {"network": "labels"})
    logits = torch.zeros(1, 2, 40, 40)
    logits[0, 1, :8] = logits[0, 1, 32:] = 1  # all of it padding: a frame of 96x160 lies in rows 8 to 32
    logits[0, 1, 8:20] = 1
    one.fleet.give("front", logits, Preprocess(size=(160, 160), fit="letterbox"))
    mask = np.array(picture(one.ask("GET", "/cameras/front/mask.png")))
    assert (mask[:48] == 1).all()
    assert (mask[48:] == 0).all()


def test_classes_beyond_a_byte(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT | {"network": "labels"})
    one.fleet.give("front", torch.tensor([[[3, 700], [70_000, -1]]]))
    mask = np.array(picture(one.ask("GET", "/cameras/front/mask.png")))
    assert [mask[0, 0], mask[0, -1], mask[-1, 0], mask[-1, -1]] == [3, 700, 65535, 65535]


def test_numbers_where_nothing_is_recognised(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    one.fleet.give("front", {"a": torch.tensor([1.5, float("nan")]), "b": torch.zeros(40, 40)})
    first, second = one.json("GET", "/cameras/front/outputs")["outputs"]
    assert first["values"] == [1.5, None]
    assert second["cut"] is True
    assert len(second["values"]) == 1024
    error = one.refused("GET", "/cameras/front/mask.png", 404)
    assert error["what"] == "its network gives no label map"


def test_outputs_that_do_not_fit_the_decoder_say_so(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT | {"network": "labels"})
    one.fleet.give("front", torch.zeros(1, 7))
    found = one.json("GET", "/cameras/front/outputs")
    assert found["kind"] == "values"
    assert "segmentation expects" in found["note"]
    one.refused("GET", "/cameras/front/mask.png", 404)


def test_frames_as_pictures(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    one.fleet.give("front")
    reply = one.ask("GET", "/cameras/front/frame.jpg")
    assert reply.headers["x-frame"] == "0"
    assert reply.headers["content-type"] == "image/jpeg"
    plain = np.array(picture(reply)).astype(int)
    assert plain.shape == (*SIZE, 3)
    assert abs(plain[5, -5] - 70).max() < 6
    assert one.fleet["front"].heat_asked == 0
    heated = np.array(picture(one.ask("GET", "/cameras/front/frame.jpg?heat=1"))).astype(int)
    assert abs(heated[5, -5] - 70).max() < 6
    assert abs(heated[5, 5] - plain[5, 5]).max() > 60
    assert picture(one.ask("GET", "/cameras/front/frame.jpg?width=80")).size == (80, 48)
    assert picture(one.ask("GET", "/cameras/front/frame.jpg?width=4000")).size == (160, 96)


def test_a_picture_is_made_once_for_all_who_ask(one: Running) -> None:
    one.json("POST", "/cameras", 201, json=FRONT)
    one.fleet.give("front")
    for _ in range(3):
        one.ask("GET", "/cameras/front/frame.jpg?heat=1")
    assert one.fleet["front"].heat_asked == 1
    one.fleet.give("front")
    one.ask("GET", "/cameras/front/frame.jpg?heat=1")
    assert one.fleet["front"].heat_asked == 2


def test_the_service_describes_itself(one: Running) -> None:
    found = one.json("GET", "/openapi.json")
    assert {"/cameras", "/cameras/{name}", "/cameras/{name}/events", "/metrics"} <= set(found["paths"])
    body = found["paths"]["/cameras"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"name", "source", "threshold"} <= set(body["properties"])
    text = (Path(__file__).resolve().parents[2] / "docs/cameras.md").read_text(encoding="utf-8")
    for path, methods in found["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in text
    one.refused("GET", "/docs", 404)
    one.refused("GET", "/redoc", 404)


def test_figures_for_prometheus(one: Running) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    one.json("POST", "/cameras", 201, json=FRONT)
    one.fleet["front"].audit_error = 0.25
    one.fleet.give("front")
    one.fleet.give("front")
    one.json("POST", "/cameras", 201, json=FRONT | {"name": "yard"})
    reply = one.ask("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    found = {
        (sample.name, *(v for _, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }
    assert found["videoeff_camera_frames_total", "front"] == 2
    assert found["videoeff_camera_late_total", "front"] == 0
    assert found["videoeff_camera_work_share", "front"] == 0.2
    assert ("videoeff_camera_work_share", "yard") not in found
    assert found["videoeff_camera_compute_seconds", "front", "0.99"] == 0.0095
    assert found["videoeff_camera_waited_seconds", "front", "0.5"] == 0.004
    assert found["videoeff_camera_audit_error", "front"] == 0.25
    assert (found["videoeff_camera_up", "front"], found["videoeff_camera_up", "yard"]) == (1, 0)
    assert found["videoeff_camera_state", "yard", "connecting"] == 1
    assert found["videoeff_cameras",] == 2
    assert found["videoeff_clients",] == 0


def test_changes_of_state_are_logged(one: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "videoeff.serve")
    one.json("POST", "/cameras", 201, json=FRONT)
    one.fleet.give("front")
    until(lambda: "camera front: live" in caplog.text)
    one.fleet["front"].state, one.fleet["front"].why = "lost", "no frame for 5 s"
    until(lambda: "camera front: lost (no frame for 5 s)" in caplog.text)
    assert caplog.text.count("camera front: live") == 1
