"""The service by real HTTP: answers, refusals, and that nothing of a patient stays behind."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.openapi.models import OpenAPI
from PIL import Image

from polyclinic.clinic import Desk, serve
from polyclinic.clinic.refusals import MOST_FILES
from polyclinic.clinic.reply import NOTICE, Reply
from polyclinic.clinic.views import Pictures
from polyclinic.training import Run
from showing import Showing

Serve = Callable[..., Any]
SECRET = "Mustermann-1957"


def post(url: str, *files: Path | tuple[str, bytes], **options: Any) -> httpx.Response:
    parts = [("files", (f.name, f.read_bytes()) if isinstance(f, Path) else f) for f in files]
    return httpx.post(f"{url}/predict", files=parts, timeout=60, **options)


def refused(response: httpx.Response, status: int) -> dict[str, str]:
    """The refusal, which says three things whatever went wrong."""
    assert response.status_code == status, response.text
    told = response.json()
    assert set(told) == {"found", "expected", "do"}
    assert all(told.values())
    return told


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder below which uploads lie for a moment."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


class Watching:
    """A desk that looks at what it is given before it answers."""

    def __init__(self, desk: Desk, before: Callable[[Sequence[Path]], None]) -> None:
        self.desk, self.card, self.before = desk, desk.card, before

    @property
    def described(self) -> str:
        return self.desk.described

    def answer(
        self, files: Sequence[str | Path], names: Sequence[str] | None = None, pictures: Pictures = "png"
    ) -> Reply:
        self.before([Path(f) for f in files])
        return self.desk.answer(files, names, pictures)


# ---- what it is


def test_health_says_which_model_and_how_much_may_be_sent(finding_url: str, finding_desk: Desk) -> None:
    told = httpx.get(f"{finding_url}/health").json()
    assert told["status"] == "ok"
    assert told["model"] == finding_desk.card.model_dump()
    assert (told["limit_bytes"], told["most_files"], told["notice"]) == (256 * 2**20, MOST_FILES, NOTICE)


def test_the_card_is_that_of_the_run(examined_run: Path, finding_url: str, serve_app: Serve) -> None:
    with serve_app(examined_run) as url:
        told = httpx.get(f"{url}/card").json()
    assert told["markdown"] == (examined_run / "card.md").read_text()
    assert "must not be used for" in told["markdown"]
    assert "It has not been examined" in httpx.get(f"{finding_url}/card").json()["markdown"]


def test_the_description_is_openapi_and_every_reference_leads_somewhere(finding_url: str) -> None:
    described = httpx.get(f"{finding_url}/openapi.json").json()
    assert OpenAPI.model_validate(described).openapi.startswith("3.1")
    drawn = {"/segment", "/segment/begin", "/segment/file", "/segment/end"}
    assert set(described["paths"]) == {"/predict", "/health", "/card"} | drawn
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(described)):
        at: Any = described
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]
        assert at
    body = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert list(body) == ["multipart/form-data"]
    answers = described["paths"]["/predict"]["post"]["responses"]
    assert set(answers) == {"200", "403", "413", "421", "422", "500", "507"}
    assert answers["422"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Refusal"}


def test_the_manual_shows_the_description_and_loads_nothing(finding_url: str) -> None:
    page = httpx.get(f"{finding_url}/docs")
    for word in ("/predict", "/health", "/card", "multipart/form-data", "uncertainty", "most_files"):
        assert word in page.text
    assert not re.search(r"<script|(src|href)=\"(?!/|#|data:)", page.text)
    anchors = set(re.findall(r'href="#([^"]+)"', page.text))
    assert anchors <= set(re.findall(r'id="([^"]+)"', page.text))
    assert "script-src 'none'" in page.headers["content-security-policy"]


def test_every_answer_carries_the_headers_that_keep_it_to_this_page(finding_url: str, broken: Path) -> None:
    pages = [
        httpx.get(f"{finding_url}{path}") for path in ("/", "/docs", "/health", "/card", "/openapi.json", "/nothing")
    ]
    for response in [*pages, post(finding_url, broken)]:
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "server" not in response.headers
    assert "unsafe" not in pages[0].headers["content-security-policy"]


# ---- answers


def test_dicom_png_and_text_are_answered_as_the_desk_answers(
    finding_url: str, finding_desk: Desk, xray: Path, note: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60), dtype=np.uint8)).save(picture)
    for files in ([xray], [picture], [note], [xray, note]):
        reply = Reply.model_validate(post(finding_url, *files).raise_for_status().json())
        assert reply == finding_desk.answer(files)
    assert reply.used == ["image", "text"]


def test_a_nifti_volume_comes_back_with_its_mask(segmentation_url: str, segmentation_desk: Desk, volume: Path) -> None:
    reply = Reply.model_validate(post(segmentation_url, volume).raise_for_status().json())
    expected = segmentation_desk.answer([volume])
    assert (reply.values, reply.structures, reply.views[0].slices) == (
        expected.values, expected.structures, expected.views[0].slices,
    )  # fmt: skip
    assert reply.views[0].title == "volume", "the kind does not come from where the upload lay"


def test_a_program_gets_pictures_and_who_asks_for_them_values(serve_app: Serve, volume: Path) -> None:
    desk = Showing()
    with serve_app(desk) as url:
        plain = post(url, volume)
        deep = post(url, volume, data={"pictures": "samples"})
        wrong = refused(post(url, volume, data={"pictures": "jpeg"}), 422)
        manual = httpx.get(f"{url}/docs").text
    assert Reply.model_validate(plain.json()) == desk.answer([volume])
    assert all(s["image"] and not s["samples"] for s in plain.json()["views"][0]["slices"])
    assert Reply.model_validate(deep.json()) == desk.answer([volume], pictures="samples")
    assert all(s["samples"] and not s["image"] for s in deep.json()["views"][0]["slices"])
    assert "pictures" in str(wrong)
    assert "<code>pictures</code>" in manual


def test_names_are_kept_for_the_sender_and_made_harmless_on_the_disk(
    finding_desk: Desk, serve_app: Serve, xray: Path, uploads: Path
) -> None:
    lain: list[Path] = []

    def look(paths: Sequence[Path]) -> None:
        lain.extend(paths)
        assert all(p.parent == paths[0].parent for p in paths), "slices of a series lie in one folder"
        assert len(set(paths)) == len(paths)
        for path in paths:
            assert path.is_file()
            assert path.resolve().is_relative_to(uploads)
            assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", path.name)
        (whole,) = uploads.iterdir()
        assert whole.stat().st_mode & 0o077 == 0, "nobody else may look"

    names = [
        "../../../../etc/passwd", "..", "/absolute/evil.dcm", "C:\\scans\\a.dcm", "2", "x", "x", "x", ".hidden",
        "Grün & Söhne; rm -rf.dcm", "n" * 300,
    ]  # fmt: skip
    with serve_app(Watching(finding_desk, look)) as url:
        reply = post(url, *[(name, xray.read_bytes()) for name in names]).raise_for_status().json()
    assert len(lain) == len(names)
    called = [u["file"] for u in reply["read"]] + [u["file"] for u in reply["not_used"]]
    assert called[:4] == ["passwd", "..", "evil.dcm", "a.dcm"]
    assert "Grün & Söhne; rm -rf.dcm" in called
    assert list(uploads.iterdir()) == []


def test_answers_to_requests_at_the_same_time_are_not_mixed_up(
    finding_url: str, finding_desk: Desk, small_hospital: Path, uploads: Path
) -> None:
    files = [next(p.iterdir()) for p in sorted((small_hospital / "radiology").glob("CXR-*"))]
    expected = {f.name: finding_desk.answer([f]).values for f in files}
    assert len({v["score"] for v in expected.values()}) > 3
    asked = files * 2
    with ThreadPoolExecutor(8) as pool:
        for file, response in zip(asked, pool.map(lambda f: post(finding_url, f), asked), strict=True):
            reply = response.raise_for_status().json()
            assert reply["values"] == expected[file.name]
            assert reply["views"][0]["file"] == file.name
    assert list(uploads.iterdir()) == []


# ---- refusals


def test_a_file_that_cannot_be_used_is_refused_with_its_reason(finding_url: str, broken: Path, volume: Path) -> None:
    assert "cut short" in refused(post(finding_url, broken), 422)["found"]
    assert "volume" in refused(post(finding_url, volume), 422)["found"]
    assert "empty" in refused(post(finding_url, ("nothing.dcm", b"")), 422)["found"]


def test_two_patients_are_refused(finding_url: str, small_hospital: Path) -> None:
    two = [next((small_hospital / "radiology" / p).iterdir()) for p in ("CXR-0102", "CXR-0103")]
    assert "several patients" in refused(post(finding_url, *two), 422)["found"]


def test_a_request_without_files_is_refused(finding_url: str) -> None:
    options: dict[str, Any]
    for options in (
        {}, {"json": {"files": []}}, {"data": {"files": "words"}}, {"files": {"other": ("a", b"b")}},
        {"content": b"not multipart", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}},
    ):  # fmt: skip
        refused(httpx.post(f"{finding_url}/predict", **options), 422)


def test_addresses_and_methods_that_are_not_there(finding_url: str) -> None:
    refused(httpx.get(f"{finding_url}/nothing"), 404)
    refused(httpx.get(f"{finding_url}/predict"), 405)
    refused(httpx.delete(f"{finding_url}/health"), 405)


def test_too_many_bytes_are_refused_however_they_come(finding_desk: Desk, serve_app: Serve, xray: Path) -> None:
    with serve_app(finding_desk, limit_mb=0.25) as url:
        large = ("large.dcm", bytes(2**20))
        assert "--limit-mb" in refused(post(url, large), 413)["do"]
        # In chunks, without a length: counted as they come.
        request = httpx.Request("POST", f"{url}/predict", files=[("files", large)])
        body, kind = request.read(), request.headers["content-type"]
        chunks = (body[i : i + 65536] for i in range(0, len(body), 65536))
        told = refused(httpx.post(f"{url}/predict", content=chunks, headers={"content-type": kind}), 413)
        assert told["found"] == "more than 262144 bytes"
        # A sender that waits to be told gets its answer before it has sent.
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as line:
            line.sendall(
                b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n\r\n"
            )
            assert line.recv(64).startswith(b"HTTP/1.1 413")
        assert post(url, xray).status_code == 200


def test_too_many_files_are_refused(finding_url: str) -> None:
    told = refused(post(finding_url, *[(f"{n}.txt", b"words") for n in range(MOST_FILES + 1)]), 413)
    assert str(MOST_FILES) in told["expected"]


def test_pages_of_other_sites_and_other_names_are_refused(
    finding_desk: Desk, finding_url: str, serve_app: Serve, note: Path
) -> None:
    port = finding_url.rsplit(":", 1)[1]
    for origin in ("https://example.org", "null", f"http://127.0.0.1:{int(port) + 1}", f"http://localhost:{port}"):
        refused(post(finding_url, note, headers={"origin": origin}), 403)
    for host in ("example.org", "127.0.0.1.example.org", f"evil.test:{port}", "[::1", ""):
        refused(httpx.get(f"{finding_url}/health", headers={"host": host}), 421)
    assert post(finding_url, note, headers={"origin": finding_url}).status_code == 200
    assert httpx.get(f"{finding_url}/health", headers={"host": f"localhost:{port}"}).status_code == 200
    with serve_app(finding_desk, hosts=None) as url:
        assert httpx.get(f"{url}/health", headers={"host": "ward7.hospital.test"}).status_code == 200
        refused(post(url, note, headers={"host": "ward7.hospital.test", "origin": "https://example.org"}), 403)


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _nifti_header(*shape: int) -> bytes:
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<hh", head, 70, 16, 32)
    struct.pack_into("<8f", head, 76, *[1.0] * 8)
    struct.pack_into("<f", head, 108, 352.0)
    head[344:348] = b"n+1\x00"
    return bytes(head)


def _zip_bomb() -> bytes:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("rows.csv", "w") as file,
    ):
        file.write(b"patient_id,age\n")
        for _ in range(64):
            file.write(b"0" * 2**20)
    return out.getvalue()


@pytest.mark.parametrize(
    "hostile",
    [
        ("promise.nii", _nifti_header(30000, 30000, 30000)),
        ("promise.nii.gz", gzip.compress(_nifti_header(30000, 30000, 3000))),
        ("negative.nii", _nifti_header(-5, 4, 4)),
        ("short.nii.gz", gzip.compress(_nifti_header(64, 64, 64) + bytes(1000))),
        ("broad.png", _png_header(60000, 60000)),
        ("bomb.csv.zip", _zip_bomb()),
        ("deep.json", b'{"resourceType": "Bundle", "entry": ' + b"[" * 100_000),
        ("name.dcm", b"\x00" * 128 + b"DICM" + b"\xff" * 4000),
        ("words.txt", b"\x00\x01" * 100),
        ("table.csv", b'"' + b"a" * 100_000),
    ],
    ids=lambda h: h[0],
)
def test_hostile_files_are_refused_and_leave_nothing(
    finding_url: str, hostile: tuple[str, bytes], uploads: Path
) -> None:
    refused(post(finding_url, hostile), 422)
    assert list(uploads.iterdir()) == []
    assert httpx.get(f"{finding_url}/health").status_code == 200


# ---- nothing stays behind


def test_the_log_holds_no_name_and_no_value(
    finding_desk: Desk, serve_app: Serve, xray: Path, uploads: Path, caplog: pytest.LogCaptureFixture
) -> None:
    note = f"Patient: {SECRET}\n\n{SECRET} coughs.\n".encode()

    def fail(paths: Sequence[Path]) -> None:
        if "fault" in paths[0].name:
            raise ValueError(f"could not read {SECRET} in {paths[0]}")

    with caplog.at_level(logging.DEBUG), serve_app(Watching(finding_desk, fail)) as url:
        assert post(url, (f"{SECRET}.txt", note)).status_code == 200
        assert SECRET in refused(post(url, (f"{SECRET}.dcm", b"broken")), 422)["found"], "the sender may know its name"
        fault = post(url, (f"fault-{SECRET}.txt", note))
        assert SECRET not in json.dumps(refused(fault, 500))
        assert "ValueError" in fault.text
        assert fault.headers["cache-control"] == "no-store"
        httpx.get(f"{url}/{SECRET}", params={"name": SECRET})
        httpx.request(SECRET.replace("-", ""), f"{url}/health")
    said = [r for r in caplog.records if r.name == "polyclinic.clinic"]
    server = "\n".join(
        r.getMessage() + str(r.exc_info or "") for r in caplog.records if r.name.startswith(("uvicorn", "polyclinic"))
    )
    assert "Mustermann" not in server
    assert "Exception in ASGI" not in server
    lines = [json.loads(r.getMessage()) for r in said]
    requests = [(x["method"], x["path"], x["status"]) for x in lines if x["event"] == "request"]
    assert requests == [
        ("POST", "/predict", 200), ("POST", "/predict", 422), ("POST", "/predict", 500),
        ("GET", "(other)", 404), ("(other)", "/health", 405),
    ]  # fmt: skip
    (kept,) = [x for x in lines if x["event"] == "fault"]
    assert kept["kind"] == "ValueError"
    assert kept["at"].startswith("test_service.py:")
    assert list(uploads.iterdir()) == []


# ---- from start to end


@contextmanager
def command(
    *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`polyclinic …` in its own process, and what it says on stderr as it says it."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name("polyclinic"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    )  # fmt: skip
    said: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        yield process, said
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(30)


def address(said: list[str], process: subprocess.Popen[str] | None = None) -> str:
    """The address, once it is told."""
    for _ in range(1200):
        found = re.search(r"http://\S+?:\d+", "".join(said))
        if found:
            return found[0]
        assert process is None or process.poll() is None, "".join(said)
        time.sleep(0.05)
    raise AssertionError("".join(said))


@pytest.mark.server
def test_the_command_serves_and_ends_cleanly_on_ctrl_c(
    tiny_finding_run: Run, xray: Path, broken: Path, tmp_path: Path
) -> None:
    run = str(tiny_finding_run.path)
    with command("serve", run, "--port", "0", environment={"TMPDIR": str(tmp_path)}) as (process, said):
        url = address(said, process)
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/health").json()["model"]["run"] == tiny_finding_run.path.name
        assert "polyclinic" in httpx.get(url).text
        reply = post(url, (f"{SECRET}.dcm", xray.read_bytes())).raise_for_status().json()
        assert reply["read"][0]["file"] == f"{SECRET}.dcm"
        refused(post(url, (f"{SECRET}.nii", b"broken")), 422)
        refused(post(url, (f"{SECRET}.dcm", broken.read_bytes())), 422)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        for size in (100_000, 3_000_000):  # kept in memory while it is parsed, and on the disk
            assert "no room" in refused(post(url, ("large.dcm", bytes(size))), 507)["found"]
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert process.stdout is not None
        stdout = process.stdout.read()
    assert process.returncode == 0, "".join(said)
    assert stdout.strip() == "stopped"
    told = "".join(said)
    assert NOTICE in told
    assert "Traceback" not in told
    assert SECRET not in told
    assert "WARNING" not in told
    requests = [json.loads(line) for line in said if line.startswith("{")]
    assert [r["status"] for r in requests] == [200, 200, 200, 422, 422, 507, 507]
    assert [p for p in tmp_path.iterdir() if p.name.startswith("polyclinic-")] == []


@pytest.mark.server
def test_an_open_address_is_warned_about_loudly(tiny_finding_run: Run) -> None:
    with command("serve", str(tiny_finding_run.path), "--port", "0", "--host", "0.0.0.0") as (process, said):
        address(said, process)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    told = "".join(said)
    assert "WARNING: bound to 0.0.0.0" in told
    assert "NO LOGIN" in told
    assert told.index("WARNING") < told.index("http://")


def test_the_function_serves_until_ctrl_c_and_returns(
    tiny_finding_run: Run, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    found: list[int] = []
    over = threading.Event()

    def visit() -> None:
        try:
            url = address(said)
            found.append(httpx.get(f"{url}/health").status_code)
            found.append(post(url, (f"{SECRET}.dcm", broken.read_bytes())).status_code)
        finally:
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    with caplog.at_level(logging.DEBUG):
        try:
            serve(tiny_finding_run, port=0, say=said.append)
        finally:
            over.set()
        visitor.join(30)
        assert found == [200, 422]
        # pydicom logs the name of a file that is cut short; while the service runs, only the service's own log is heard.
        assert SECRET not in caplog.text
        assert "/predict" in caplog.text
        logging.getLogger("pydicom").warning("heard again")
        assert "heard again" in caplog.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address(said)}/health")


def test_an_address_in_use_is_known_before_the_model_is_read(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(tmp_path / "no run here", port=taken.getsockname()[1])


# ---- several runs on one backbone


@pytest.fixture(scope="module")
def two_runs(tiny_run: Run, tiny_finding_run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    from polyclinic.adaptation import adapt

    return [tiny_finding_run, adapt(tiny_run, "survival", "lora", steps=2)]


@pytest.fixture(scope="module")
def two_url(two_runs: list[Run], serve_app: Serve) -> Iterator[str]:
    with serve_app(two_runs) as url:
        yield url


def test_each_request_names_the_run_that_it_asks(
    two_url: str, two_runs: list[Run], finding_desk: Desk, row_of: Callable[..., Path], note: Path
) -> None:
    finding, survival = (run.path.name for run in two_runs)
    reply = Reply.model_validate(post(two_url, note, data={"run": finding}).raise_for_status().json())
    alone = finding_desk.answer([note])
    assert (reply.task, reply.model) == (alone.task, alone.model)
    assert reply.values["score"] == pytest.approx(alone.values["score"], abs=1e-3)
    other = Reply.model_validate(post(two_url, row_of("CXR-0329"), data={"run": survival}).raise_for_status().json())
    assert (other.task, other.model.run) == ("survival", survival)


def test_a_request_that_names_no_run_of_several_is_refused(two_url: str, two_runs: list[Run], note: Path) -> None:
    names = ", ".join(run.path.name for run in two_runs)
    told = refused(post(two_url, note), 422)
    assert (told["found"], told["expected"]) == ("no name of a run", f"one of {names}")
    assert refused(post(two_url, note, data={"run": "mine"}), 422)["found"] == "no run 'mine' that answers"
    assert refused(httpx.get(f"{two_url}/card"), 422)["expected"] == f"one of {names}"
    card = httpx.get(f"{two_url}/card", params={"run": two_runs[1].path.name}).json()
    assert card["model"]["task"] == "survival"


def test_health_says_which_runs_there_are(two_url: str, two_runs: list[Run]) -> None:
    told = httpx.get(f"{two_url}/health").json()
    assert [m["run"] for m in told["models"]] == [run.path.name for run in two_runs]
    assert told["model"] == told["models"][0]
    assert len({m["backbone"] for m in told["models"]}) == 1


def test_several_runs_share_their_backbone_in_memory(two_runs: list[Run]) -> None:
    from polyclinic.clinic.desk import desks

    one, other = desks(two_runs).values()
    weights = dict(one.adapted.model.named_parameters())
    shared = [n for n, p in other.adapted.model.named_parameters() if n in weights and p is weights[n]]
    assert len(shared) == len(weights)


def test_two_of_a_name_are_refused(tiny_finding_run: Run) -> None:
    from polyclinic.adaptation import AdaptError
    from polyclinic.clinic import create_app

    with pytest.raises(AdaptError, match="two runs called"):
        create_app([tiny_finding_run, tiny_finding_run])
