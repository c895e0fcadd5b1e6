"""The HTML report in headless Chromium."""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from reports import HOSTILE, hostile_row, row, some_rows, turn, write_page, write_rows, write_run, write_training, wrong

from agents.report import report_training
from agents.report.watch import WatchServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
pytestmark = pytest.mark.browser


@dataclass
class Opened:
    """A page, with its requests and errors."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by name."""
    folder = tmp_path_factory.mktemp("reports")
    rows = {
        "evaluation": some_rows(),
        "hostile": [hostile_row(), row()],
        "many": [row(n // 30, n % 30, turns=[turn("")]) for n in range(3000)],
    }
    for name, of_run in rows.items():
        write_page(
            folder / f"{name}.html", write_run(folder / name, of_run, model=HOSTILE if name == "hostile" else "m")
        )
    long_named = [write_run(folder / arm, some_rows(), model="long" * 30, arm=arm) for arm in ("code", "text")]
    write_page(folder / "two.html", *long_named)
    six = [write_run(folder / f"six-{n}", some_rows(), model=f"models/checkpoint-{n}00") for n in range(6)]
    write_page(folder / "six.html", *six)
    mixed = [
        [row(n, 0, prompt="<|user|>Go") if n % 2 else wrong(n, 0) for n in range(4)],
        [row(n, 0) for n in range(4)],
    ]
    pair = [write_run(folder / name, mixed[number], model=name) for number, name in enumerate("ab")]
    write_page(folder / "pair.html", *pair)
    for count in (1, 2, 6):
        runs = [write_training(folder / f"training-{count}-{number}") for number in range(count)]
        report_training(runs, folder / f"training-{count}.html")
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.fixture
def open_report(browser: Any, reports: dict[str, Path]) -> Iterator[Open]:
    """Opens a report; checks at the end that it loaded no other resource and logged no error."""
    opened: list[Opened] = []

    def open_page(name: str = "evaluation", link: str = "", **settings: Any) -> Any:
        page = browser.new_context(**settings).new_page()
        page.set_default_timeout(30_000)
        seen = Opened(page=page)
        opened.append(seen)
        page.on("request", lambda request: seen.requests.append(request.url.partition("#")[0]))
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.goto(reports[name].as_uri() + link)
        return page

    yield open_page
    for seen in opened:
        seen.page.context.close()
        assert {url.partition("?")[0] for url in seen.requests if not url.startswith(("data:", "blob:"))} <= {
            path.as_uri() for path in reports.values()
        }
        assert seen.complaints == []


def drawn(page: Any) -> Any:
    """Wait for the page's charts."""
    page.wait_for_selector("html[data-drawn]", state="attached")
    return page


def links(page: Any) -> list[str]:
    """Return the links of the list."""
    return [str(link) for link in page.locator("#list a").evaluate_all("all => all.map(a => a.getAttribute('href'))")]


def width(page: Any) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


# -------------------------------------------------------------------------------------------------------- the viewer


def test_it_opens_with_heading_main_results_all_transcripts_and_the_first_of_them(open_report: Open) -> None:
    page = open_report()
    expect(page.locator("h1")).to_have_text("m (code) on AIME24, OlymMATH-EN-EASY")
    expect(page.locator(".headlines li").first).to_contain_text("avg@4, 3 problems")
    expect(page.locator("#count")).to_have_text("24 transcripts")
    expect(page.get_by_role("img", name="OlymMATH-EN-EASY. m (code): pass@1")).to_be_visible()
    expect(page.locator("#transcript h3.title")).to_have_text("AIME24 · 0 · #0 right")
    assert page.url.endswith(".html")


def test_filters_narrow_the_list_together(open_report: Open) -> None:
    page = open_report()
    page.get_by_role("combobox", name="Verdict").select_option("wrong")
    expect(page.locator("#count")).to_have_text("12 of 24 transcripts")
    page.get_by_role("combobox", name="Error").select_option("NameError")
    page.get_by_role("combobox", name="Set").select_option("AIME24")
    expect(page.locator("#count")).to_have_text("3 of 24 transcripts")
    assert links(page)[0] == "#AIME24/0/1?set=AIME24&verdict=wrong&error=NameError"
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#count")).to_have_text("24 transcripts")


def test_transcripts_are_found_by_length(open_report: Open) -> None:
    page = open_report()
    page.get_by_label("Min. tokens").fill("200")
    page.get_by_label("Max. tokens").fill("300")
    expect(page.locator("#count")).to_have_text("6 of 24 transcripts")


def test_search_reads_code_output_text_and_problem(open_report: Open) -> None:
    page = open_report()
    for words, count in (("SUM(RANGE", 18), ("'y' is not", 6), ("\\boxed{44}", 6), ("made-up-2", 8)):
        page.get_by_role("searchbox", name="Search").fill(words)
        expect(page.locator("#count")).to_have_text(f"{count} of 24 transcripts")


def test_a_table_row_links_to_its_transcripts(open_report: Open) -> None:
    page = open_report()
    page.get_by_role("link", name="Geometry").click()
    expect(page.locator("#count")).to_have_text("8 of 24 transcripts")
    expect(page.get_by_role("combobox", name="Subject")).to_have_value("Geometry")


def test_a_link_opens_its_transcript_with_code_output_and_verdict(open_report: Open) -> None:
    page = open_report(link="#AIME24/1/1")
    transcript = page.locator("#transcript")
    expect(transcript.locator("h3.title")).to_have_text("AIME24 · 1 · #1 wrong")
    expect(transcript.locator("pre.code").first).to_have_text(
        "```python\ntotal = sum(range(10))  # all\nprint(total)\n```"
    )
    expect(transcript.locator("pre.code .c").first).to_have_text("# all")
    expect(transcript.locator(".output").first).to_have_text("Output · errorNameError: name 'y' is not defined")
    expect(page.locator("#list a[aria-current]")).to_have_attribute("href", "#AIME24/1/1")


def test_the_back_button_goes_back_to_the_transcript_before(open_report: Open) -> None:
    page = open_report(link="#?verdict=right")
    page.locator("#list a").nth(0).click()
    page.locator("#list a").nth(1).click()
    heading = page.locator("#transcript h3.title")
    expect(heading).to_have_text("AIME24 · 0 · #3 right")
    page.go_back()
    expect(heading).to_have_text("AIME24 · 0 · #0 right")
    expect(page.get_by_role("combobox", name="Verdict")).to_have_value("right")


def test_formulas_are_set(open_report: Open) -> None:
    page = open_report()
    expect(page.locator("#transcript .statement math mi")).to_have_text("n")
    expect(page.locator("#transcript menclose")).to_have_text("45")


def test_two_runs_stand_side_by_side_where_one_solves_what_the_other_misses(open_report: Open) -> None:
    page = open_report("pair")
    page.get_by_role("row", name="solved here, missed by the first").get_by_role("link").click()
    expect(page.locator("#count")).to_have_text("2 of 8 transcripts")
    titles = page.locator("#transcript .pair h3.title")
    expect(titles).to_have_text(["b (code) · 0 · #0 right", "a (code) · 0 · #0 wrong"])
    boxes = [titles.nth(n).bounding_box() for n in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]


def test_the_prompt_is_shown_as_the_model_saw_it(open_report: Open) -> None:
    page = open_report("pair", "#a%20%28code%29/AIME24/1/0")
    page.get_by_text("Prompt as the model saw it").click()
    expect(page.locator("#transcript .prompt pre")).to_have_text("<|user|>Go")
    page.locator("#list a").nth(3).click()
    expect(page.locator("#transcript .prompt")).to_have_attribute("open", "")


def test_a_broken_link_gives_a_message(open_report: Open) -> None:
    page = open_report(link="#AIME24/99/0")
    expect(page.locator("#transcript")).to_have_text("There is no transcript AIME24/99/0 in this report.")
    expect(page.locator("#count")).to_have_text("24 transcripts")


def test_a_malformed_link_is_harmless(open_report: Open) -> None:
    page = open_report(link="#?length=3&verdict=nobody&%ff=1")
    expect(page.locator("#count")).to_have_text("24 transcripts")


def test_the_page_works_with_the_keyboard(open_report: Open) -> None:
    page = open_report()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Search")).to_be_focused()
    page.keyboard.type("made-up")
    expect(page.locator("#list a").first).to_have_attribute("href", "#AIME24/0/0?search=made-up")
    page.get_by_role("button", name="Show all").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#list a").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#transcript h3.title")).to_have_text("AIME24 · 0 · #2 wrong")
    expect(page.locator("#list a").nth(2)).to_be_focused()
    page.keyboard.press("End")
    expect(page.locator("#transcript h3.title")).to_contain_text("OlymMATH-EN-EASY · 2 · #3")
    assert page.url.endswith("#OlymMATH-EN-EASY/2/3?search=made-up")


def test_thousands_of_transcripts_are_paginated(open_report: Open) -> None:
    page = open_report("many", "#AIME24/93/11")
    expect(page.locator("#count")).to_have_text("3000 transcripts")
    expect(page.locator("#range")).to_have_text("2801–2850")
    assert page.locator("#list a").count() == 50
    page.locator("#list a[aria-current]").press("End")
    expect(page.locator("#transcript h3.title")).to_have_text("99 · #29 right")
    expect(page.get_by_role("button", name="Next")).to_be_disabled()


def test_the_samples_of_a_training_run_are_found_by_step(open_report: Open) -> None:
    page = open_report("training-1")
    expect(page.get_by_role("img", name="Accuracy on held-out problems, %.")).to_be_visible()
    page.get_by_role("combobox", name="Step").select_option("3")
    assert links(page) == ["#training/3/products/3/0?step=3"]


def test_a_watched_page_reloads_itself_and_keeps_its_place(browser: Any, tmp_path: Path) -> None:
    rows = some_rows()
    folder = write_run(tmp_path, rows)
    write_rows(folder / "samples.jsonl", rows[:9])
    page = browser.new_page()
    with WatchServer([folder], 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        page.goto(f"http://127.0.0.1:{server.server_port}/#AIME24/1/1?verdict=wrong")
        expect(drawn(page).locator("#count")).to_have_text("4 of 9 transcripts")
        page.evaluate("scrollTo(0, 300)")
        write_rows(folder / "samples.jsonl", rows)
        expect(page.locator("#count")).to_have_text("12 of 24 transcripts", timeout=60_000)
        expect(page.locator("#transcript h3.title")).to_have_text("AIME24 · 1 · #1 wrong")
        assert drawn(page).evaluate("scrollY") == 300
        server.shutdown()
        thread.join()
    page.close()


# --------------------------------------------------------------------------------------------------------- its safety


def test_hostile_text_is_shown_and_harmless(open_report: Open) -> None:
    page = open_report("hostile")
    page.get_by_role("combobox", name="Error").select_option(index=1)
    expect(page.locator("#count")).to_have_text("1 of 2 transcripts")
    page.locator("#list a").first.click()
    expect(page.locator("#transcript .statement")).to_contain_text("</script><script>window.hacked = 1</script><img")
    statement, *_, last = page.locator("#transcript p.text").all_text_contents()
    assert statement == last
    assert statement.startswith(HOSTILE.partition("\ud800")[0])
    assert page.locator("#transcript").locator("script, img, svg, iframe").count() == 0
    assert page.evaluate("window.hacked") is None


def test_no_other_script_runs_and_no_resource_is_loaded(browser: Any, reports: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(reports["evaluation"].as_uri())
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("fetch('https://example.org').catch(error => error.name)") == "TypeError"
    page.close()


# ----------------------------------------------------------------------------------------------------------- its looks


@pytest.mark.parametrize("name", ["hostile", "training-1"])
def test_a_phone_needs_no_horizontal_scrolling(open_report: Open, name: str) -> None:
    page = drawn(open_report(name, viewport={"width": 375, "height": 700}))
    assert width(page) == 375
    page.locator("#list a").first.click()
    expect(page.locator("#transcript")).to_be_in_viewport()
    assert width(page) == 375


TEXTS_THAT_MEET = """() => {
    const boxes = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const clipped = (element) => {  // to what its scrolling or clipping ancestors show
        let [left, top, right, bottom] = [-1e9, -1e9, 1e9, 1e9];
        for (let at = element; at && at !== document.body; at = at.parentElement) {
            if (getComputedStyle(at).overflow === "visible") continue;
            const box = at.getBoundingClientRect();
            left = Math.max(left, box.left); top = Math.max(top, box.top);
            right = Math.min(right, box.right); bottom = Math.min(bottom, box.bottom);
        }
        return { left, top, right, bottom };
    };
    while (walker.nextNode()) {
        const node = walker.currentNode, parent = node.parentElement;
        if (!node.data.trim() || !parent.checkVisibility({ visibilityProperty: true })) continue;
        if (parent.closest("script, style, select, math, .skip")) continue;
        const range = document.createRange(), clip = clipped(parent);
        range.selectNodeContents(node);
        for (const box of range.getClientRects()) {
            const seen = {
                left: Math.max(box.left, clip.left) + 1, top: Math.max(box.top, clip.top) + 2,
                right: Math.min(box.right, clip.right) - 1, bottom: Math.min(box.bottom, clip.bottom) - 2,
            };
            if (seen.right > seen.left && seen.bottom > seen.top) boxes.push({ ...seen, node, text: node.data.trim() });
        }
    }
    boxes.sort((a, b) => a.top - b.top);
    const met = [];
    boxes.forEach((a, i) => {
        for (let j = i + 1; j < boxes.length && boxes[j].top < a.bottom; j++) {
            const b = boxes[j];
            if (a.node !== b.node && a.left < b.right && b.left < a.right) met.push(`${a.text} | ${b.text}`);
        }
    });
    return met;
}"""
NARROW_COLUMNS = """() => [...document.querySelectorAll("th, td")]
    .filter((cell) => cell.checkVisibility() && cell.textContent.trim().length >= 4)
    .filter((cell) => cell.clientWidth < 4 * parseFloat(getComputedStyle(cell).fontSize) * 0.6)
    .map((cell) => cell.textContent.trim())"""


@pytest.mark.parametrize(
    "name",
    [
        *("evaluation", "six", "training-1"),
        *(pytest.param(each, marks=pytest.mark.thorough) for each in ("two", "training-2", "training-6")),
    ],
)
def test_no_texts_overlap_and_no_column_is_narrow_at_any_width(open_report: Open, name: str) -> None:
    page = drawn(open_report(name))
    for size in (360, 768, 1024, 1280, 1440, 1920):
        page.set_viewport_size({"width": size, "height": 900})
        page.wait_for_timeout(200)  # the charts follow
        assert (width(page), page.evaluate(TEXTS_THAT_MEET), page.evaluate(NARROW_COLUMNS)) == (size, [], [])


def test_overlapping_texts_and_narrow_columns_are_found(open_report: Open) -> None:
    page = open_report("two")
    page.add_style_tag(
        content=".tables > * { width: 12rem; overflow: visible !important } .tables table { width: 80rem }"
    )
    assert page.evaluate(TEXTS_THAT_MEET)
    page.add_style_tag(content="table { table-layout: fixed; width: 3rem !important; min-width: 0 !important }")
    assert page.evaluate(NARROW_COLUMNS)


# ---------------------------------------------------------------------------------------------------------- its charts


def curves(page: Any) -> Any:
    return page.evaluate("document.querySelector('.lead .plot').data.map((trace) => trace.y)")


def test_charts_show_values_on_hover_and_can_be_smoothed_and_logarithmic(open_report: Open) -> None:
    page = drawn(open_report("training-1"))
    lead = page.locator(".lead .plot")
    lead.hover()
    expect(lead.locator(".hoverlayer")).to_contain_text("25.0%")
    assert curves(page)[0] == [0.25, 0.875]
    page.get_by_label("Smoothing").fill("0.5")
    assert curves(page)[1] == [0.25, 0.5625]  # behind it, faded, the values themselves
    page.get_by_label("Logarithmic axes").check()
    assert page.evaluate("document.querySelector('.lead .plot').layout.yaxis.type") == "log"


def test_changes_of_the_budget_are_marked_and_the_main_chart_is_the_largest(open_report: Open) -> None:
    page = drawn(open_report("training-1"))
    expect(page.locator(".lead .plot")).to_contain_text("budget 3")
    assert page.locator(".plot .shapelayer path").count() >= 4
    lead, other = (page.locator(f"figure.{size} .plot").first.bounding_box() for size in ("lead", "small"))
    assert lead["width"] * lead["height"] > 3 * other["width"] * other["height"]


def test_the_dark_color_scheme_is_supported(open_report: Open) -> None:
    ink = "['color', 'fill'].map((of, i) => getComputedStyle(document.querySelectorAll('body, .xtick text')[i])[of])"
    back = "getComputedStyle(document.body).backgroundColor"
    light, dark = (drawn(open_report(color_scheme=scheme)) for scheme in ("light", "dark"))
    assert light.evaluate(back) == "rgb(255, 255, 255)"
    assert dark.evaluate(back) == "rgb(15, 19, 24)"
    before = dark.evaluate(ink)
    assert all(one != other for one, other in zip(light.evaluate(ink), before, strict=True))
    dark.emulate_media(color_scheme="light")
    expect(dark.locator(".xtick text").first).to_have_css("fill", light.evaluate(ink)[1])


def test_the_printed_page_has_tables_and_charts_but_no_controls(open_report: Open) -> None:
    page = open_report(link="#AIME24/0/0", color_scheme="dark")
    page.emulate_media(media="print")
    expect(page.get_by_role("table").first).to_be_visible()
    expect(page.locator("figure").first).to_be_visible()
    expect(page.locator("#transcript")).to_be_visible()
    expect(page.locator("#filters")).to_be_hidden()
    expect(page.locator("#index")).to_be_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize(
    ("name", "scheme", "size"),
    [
        ("evaluation", "light", 1280),
        pytest.param("pair", "dark", 1280, marks=pytest.mark.thorough),
        pytest.param("training-1", "light", 375, marks=pytest.mark.thorough),
        pytest.param("six", "light", 768, marks=pytest.mark.thorough),
    ],
)
def test_axe_finds_no_accessibility_violations(open_report: Open, name: str, scheme: str, size: int) -> None:
    page = drawn(open_report(name, color_scheme=scheme, viewport={"width": size, "height": 900}))
    page.locator("#list a").nth(1).click()
    results = axe_playwright.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
