"""Shape annotations are checked at run time in all tests; randomness comes from explicit generators.

Here, too, is the real book, built once for all tests that read it or open it in a browser.
"""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # before anything imports tqdm, as torch does

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jaxtyping
import pytest
import torch
from filelock import FileLock
from playwright.sync_api import sync_playwright

jaxtyping.install_import_hook(["icl_lib", "icl_book"], "typechecking.check")

from driving import drive  # noqa: E402 - it imports icl_book

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# No sandbox: tests may run as root in a container. The browser fetches nothing itself, finds no other host.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@pytest.fixture(autouse=True)
def one_thread():
    """Workers run side by side, and sums do not depend on the number of cores."""
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def no_shape_checks():
    """What a user has, for tests of the library's own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# ------------------------------------------------------------------------- the real book and a browser


@pytest.fixture(scope="session")
def build_root(tmp_path_factory):
    """The real book, built in the smoke profile, by whichever worker comes first."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers' own folders lie side by side in it
    folder = folder / "book"
    with FileLock(f"{folder}.lock"):
        if not (folder / "smoke/html/.key").exists():  # the driver writes it last
            done = drive("build", "--profile", "smoke", ICL_BUILD=folder)
            assert done.returncode == 0, done.stdout + done.stderr
            print(done.stdout)  # the seconds of every chapter
    return folder


@pytest.fixture(scope="session")
def pages(request) -> Path:
    """The folder of the rendered pages: `$ICL_PAGES`, or the smoke book."""
    if folder := os.environ.get("ICL_PAGES"):
        assert Path(folder, "index.html").exists(), f"ICL_PAGES = {folder} has no pages: type make book first"
        return Path(folder).resolve()
    return request.getfixturevalue("build_root") / "smoke/html"


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files, keeps connections open, writes no log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def site(pages):
    """The address of the pages over http: http://127.0.0.1:PORT/."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=pages)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """A running Chromium; without one installed, the test is skipped."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium): the pages were not opened")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)


@pytest.fixture(params=["http", "file"])
def root(request, browser, pages):
    """The explorable `NAME` of the page `CHAPTER`, both of the test's module, in an open page of a phone."""
    home = request.getfixturevalue("site") if request.param == "http" else f"{pages.as_uri()}/"
    page = browser.new_page(viewport={"width": 390, "height": 844})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{home}{request.module.CHAPTER}")
    found = page.locator(f"[data-explorable={request.module.NAME}][data-ready]")
    found.wait_for()
    yield found
    assert not errors
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
