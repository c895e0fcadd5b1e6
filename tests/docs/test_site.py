"""The site: every page is in its navigation, tables are complete, nothing is loaded from elsewhere, all fits."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from pages import DOCS, PAGES, ROOT, name

import evaluate
import train

markdown = pytest.importorskip("markdown")
hooks = pytest.importorskip("docs.hooks")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def listed(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from listed(part)


def flags_of(text: str) -> set[str]:
    """Return the flags that stand in code on a page."""
    return set(re.findall(r"`(--[a-z][\w.-]*)`", text))


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder; yield the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()  # else the thread polls a closed socket, without a pause
            thread.join()


def flags_of_help(main: Any, args: Sequence[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the flags that a program's help names."""
    with pytest.raises(SystemExit):
        main([*args, "--help"])
    text = re.sub(r"\x1b\[[\d;]*m|│", "", capsys.readouterr().out)
    starts = re.findall(r"^ {1,2}(--.*?)(?:  |$)", text, re.MULTILINE)
    return {flag for start in starts for flag in re.findall(r"--[a-z][\w.-]*", start)}


def test_every_page_is_in_the_navigation() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.parent.name != "decisions"}
    assert pages <= set(listed(CONFIG["nav"])), "list the page in mkdocs.yml"


def test_every_decision_is_in_the_list() -> None:
    assert re.findall(r"\((.*?)\)$", hooks.decisions(), re.MULTILINE) == sorted(
        page.name for page in (DOCS / "decisions").glob("*.md")
    )


def test_the_tables_have_exactly_the_flags_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    known = [flags_of_help(train.parse, [command], capsys) for command in ("sft", "tiny")]
    assert flags_of(hooks.training_flags()) - {"--help"} == set.union(*known)


@pytest.mark.parametrize("command", ["quick", "compare", "report", "regrade", "import", "select", "list"])
def test_the_tables_have_every_command_and_flag_of_an_evaluation(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = hooks.evaluation_flags()
    assert f"## {command}\n" in page
    assert flags_of_help(evaluate.main, [command], capsys) <= flags_of(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_has_the_same_parts_on_github_and_on_the_site(page: Path) -> None:
    extensions = [each if isinstance(each, str) else next(iter(each)) for each in CONFIG["markdown_extensions"]]
    github = MarkdownIt("gfm-like", {"linkify": False}).render(page.read_text())
    site = markdown.markdown(page.read_text(), extensions=extensions)
    tags = r"<(h\d|li|ol|ul|pre|table|tr|td|img|strong|em)\b"
    assert re.findall(tags, site) == re.findall(tags, github)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a network; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    code = "import socket; socket.socket.connect = None\nfrom mkdocs.__main__ import cli; cli()"
    call = [sys.executable, "-c", code, "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        html = page.read_text()
        assert re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//[^>]*>", html) == []
        links = [link for link in re.findall(r"<link[^>]+>", html) if "http" in link and "canonical" not in link]
        assert links == []


@pytest.mark.slow
@pytest.mark.browser
def test_no_page_is_wider_than_the_screen_or_asks_other_hosts(site: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api")
    places = ("training", "results", "reference/models", "reference/train", "reference/cir_env", "source/train.py")
    with serving(site) as address, sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        requests: list[str] = []
        for scheme, name_of_scheme in (("light", "default"), ("dark", "slate")):
            tab = browser.new_page(color_scheme=scheme)
            tab.on("request", lambda request: requests.append(request.url))
            tab.goto(f"{address}/")
            assert tab.locator(f"body[data-md-color-scheme={name_of_scheme}]").count() == 1
        for place in places:
            answer = tab.goto(f"{address}/{place}/")
            assert answer is not None
            assert answer.ok, place
            for width in (360, 1280):
                tab.set_viewport_size({"width": width, "height": 800})
                fits = f"document.documentElement.scrollWidth <= {width}"
                tab.wait_for_function(fits)  # once the sidebars have moved
        assert [url for url in requests if not url.startswith((address, "data:"))] == []
        browser.close()
