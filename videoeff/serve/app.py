"""The routes of the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from videoeff.serve import streams
from videoeff.serve.access import Access
from videoeff.serve.bodies import as_settings, body_of
from videoeff.serve.metrics import exposition
from videoeff.serve.page import page
from videoeff.serve.pictures import mask_png
from videoeff.serve.problems import Problem
from videoeff.serve.service import Entry, Service
from videoeff.serve.settings import CameraSettings, NewCamera
from videoeff.version import __version__

#: Seconds between two looks at the cameras' states, for the log.
_LOOK = 1.0

Heat = Annotated[bool, Query(description="Draw where layers computed.")]
Width = Annotated[int | None, Query(ge=16, le=4096, description="Of the picture, in pixels.")]


def build_app(service: Service, token: str | None, port: int) -> ASGIApp:
    """The service as an application that a server of ASGI runs.

    Args:
        service: started.
        token: that requests must carry; None for none.
        port: that the server listens at.
    """
    app = FastAPI(
        title="videoeff serve",
        version=__version__,
        description="Cameras of a fleet: their settings, outputs, pictures and figures.",
        lifespan=_lifespan(service),
        docs_url=None,  # these two pages load scripts from another host
        redoc_url=None,
        responses={400: {"description": "What happened, where, and what to do.", "model": None}},
    )
    _answer_errors(app)
    _add_cameras(app, service)
    _add_streams(app, service)
    _add_pictures(app, service)
    _add_house(app, service)
    return Access(app, service.settings, token, port)


def _lifespan(service: Service) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.hub.attach()
        looking = asyncio.create_task(_look(service))
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    return lifespan


async def _look(service: Service) -> None:
    while True:
        await asyncio.sleep(_LOOK)
        await run_in_threadpool(service.log_states)


def _answer_errors(app: FastAPI) -> None:
    """Every error is answered as JSON that says what, where, and what to do."""

    def answer(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse(problem.to_json(), problem.status, headers=headers)

    async def of_problem(_: Request, error: Any) -> JSONResponse:
        return answer(error)

    async def of_query(_: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return answer(Problem(400, "cannot be used", where, first["msg"]))

    async def of_http(request: Request, error: Any) -> JSONResponse:
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            what, fix = f"{request.method} is not served here", f"use {allowed}"
        else:
            what, fix = "there is nothing here", "GET /openapi.json lists what there is"
        return answer(Problem(error.status_code, what, request.url.path[:200], fix), error.headers)

    async def of_defect(request: Request, _: Exception) -> JSONResponse:
        problem = Problem(
            500,
            "the service failed",
            request.url.path[:200],
            "this is a defect of it; its log has the details",
        )
        return answer(problem)

    app.add_exception_handler(Problem, of_problem)
    app.add_exception_handler(RequestValidationError, of_query)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, of_defect)


def _body(model: Any) -> dict[str, Any]:
    """What OpenAPI says of a body that is read by hand."""
    return {"requestBody": {"content": {"application/json": {"schema": model.model_json_schema()}}}}


def _add_cameras(app: FastAPI, service: Service) -> None:
    most = service.settings.max_body

    async def change(call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(service.changes, call, *arguments)

    @app.get("/cameras", tags=["cameras"])
    def list_cameras() -> JSONResponse:
        """All cameras with their settings and figures, and the service as a whole."""
        return JSONResponse(service.overview())

    @app.post("/cameras", status_code=201, tags=["cameras"], openapi_extra=_body(NewCamera))
    async def add_camera(request: Request) -> JSONResponse:
        """Add a camera."""
        asked = as_settings(NewCamera, await body_of(request, most))
        camera = CameraSettings(**{key: getattr(asked, key) for key in CameraSettings.model_fields})
        shown = await change(service.add, asked.name, camera)
        return JSONResponse(shown, 201, headers={"location": f"/cameras/{asked.name}"})

    @app.get("/cameras/{name}", tags=["cameras"])
    def show_camera(name: str) -> JSONResponse:
        """One camera with its settings and figures."""
        return JSONResponse(service.shown(name))

    @app.patch("/cameras/{name}", tags=["cameras"], openapi_extra=_body(CameraSettings))
    async def change_camera(name: str, request: Request) -> JSONResponse:
        """Change some settings; null takes the default. Its figures begin anew."""
        values = await body_of(request, most)
        kept = service.find(name).settings.model_dump(exclude_unset=True)
        merged = {key: value for key, value in (kept | values).items() if value is not None}
        camera = as_settings(CameraSettings, merged)
        return JSONResponse(await change(service.change, name, values, camera))

    @app.delete("/cameras/{name}", tags=["cameras"])
    async def remove_camera(name: str) -> JSONResponse:
        """Remove a camera; its last figures."""
        return JSONResponse({"removed": name, "status": await change(service.remove, name)})

    def act(word: str, text: str) -> None:
        async def acting(name: str) -> JSONResponse:
            return JSONResponse(await change(getattr(service, word), name))

        app.post(f"/cameras/{{name}}/{word}", tags=["cameras"], description=text, name=word)(acting)

    act("save", "Write its state into the service's folder of states.")
    act("restore", "Take its state from there.")
    act("reset", "Compute its next frame whole.")


def _newest(service: Service, name: str) -> tuple[Entry, Any]:
    entry = service.find(name)
    output = entry.camera.latest
    if output is None:
        state = entry.camera.status().state
        raise Problem(
            404, "no frame of it was computed yet", f"camera {name}", f"it is {state}; ask again later"
        )
    return entry, output


def _add_streams(app: FastAPI, service: Service) -> None:
    @app.get("/cameras/{name}/outputs", tags=["outputs"])
    def newest_output(name: str) -> Response:
        """The newest output: detections, shares of classes, or numbers."""
        entry, output = _newest(service, name)
        return Response(entry.reader.text(output), media_type="application/json")

    @app.get("/cameras/{name}/events", tags=["outputs"])
    async def events(name: str) -> Response:
        """Every output from now on, as server-sent events."""
        return streams.events(service, name)

    @app.websocket("/cameras/{name}/live")
    async def live(websocket: WebSocket, name: str) -> None:
        await streams.live(service, name, websocket)


def _add_pictures(app: FastAPI, service: Service) -> None:
    @app.get("/cameras/{name}/preview.mjpeg", tags=["pictures"])
    async def preview(
        name: str,
        heat: Heat = True,
        width: Width = None,
        fps: Annotated[float | None, Query(gt=0, le=60, allow_inf_nan=False)] = None,
    ) -> Response:
        """A moving picture, at most so many frames a second as the service allows."""
        most = service.settings.preview_fps
        return streams.preview(service, name, heat, width, most if fps is None else min(fps, most))

    @app.get("/cameras/{name}/frame.jpg", tags=["pictures"])
    async def frame(name: str, heat: Heat = False, width: Width = None) -> Response:
        """The frame of the newest output."""
        entry, output = _newest(service, name)
        loop = asyncio.get_running_loop()
        jpeg = await loop.run_in_executor(service.pool, entry.pictures.jpeg, output, heat, width)
        return Response(jpeg, media_type="image/jpeg", headers={"x-frame": str(output.number)})

    @app.get("/cameras/{name}/mask.png", tags=["pictures"])
    async def mask(name: str) -> Response:
        """The class of each pixel of the newest frame, for networks that give one."""
        entry, output = _newest(service, name)

        def made() -> bytes | None:
            found = entry.reader.mask(output)
            return None if found is None else mask_png(found)

        png = await asyncio.get_running_loop().run_in_executor(service.pool, made)
        if png is None:
            raise Problem(
                404,
                "its network gives no label map",
                f"camera {name}",
                "GET /cameras/NAME/outputs has what it gives; set the network's `decoder` to segmentation if "
                "those are logits of classes",
            )
        return Response(png, media_type="image/png", headers={"x-frame": str(output.number)})


def _add_house(app: FastAPI, service: Service) -> None:
    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        text, policy = page()
        return HTMLResponse(text, headers={"content-security-policy": policy})

    @app.get("/metrics", tags=["service"])
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(exposition(service), media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz", tags=["service"])
    async def healthz() -> JSONResponse:
        """The process answers."""
        return JSONResponse({"alive": True})

    @app.get("/readyz", tags=["service"])
    async def readyz() -> JSONResponse:
        """The cameras were added and the fleet computes; status 503 where not."""
        ready = service.started and not service.hub.closed.is_set()
        return JSONResponse({"ready": ready}, 200 if ready else 503)
