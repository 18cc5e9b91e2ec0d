"""The page of a report, as a browser shows it."""

import base64
import html
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.storage.store import Store
from reports.page import write_report
from tests.reports.test_reports import ROWS, evaluation, plan

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=console.error(1)>"

needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome found")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with two criteria, two methods, a failure, and names and messages that are markup."""
    folder = tmp_path_factory.mktemp("page")
    store = Store(folder / "run")
    second = [{**row, "cell": f"{row['cell']}-2", "criterion": HOSTILE} for row in ROWS[1:]]
    store.write_rows("evaluations", "all", ROWS + second)
    failure = {"cell": "lost", "kind": "train", "error": "ValueError", "message": f"{HOSTILE}\nsecond line"}
    store.write_rows("failures", "lost", [failure])
    plan(store, [*ROWS, *second, evaluation("lost", final=False)])
    store.write(f"name: '{HOSTILE}'\n".encode(), "experiment.yaml")
    write_report(folder / "run", folder / "out", command=f"metaprune report '{HOSTILE}'")
    return folder / "out" / "index.html"


def opened(page: Path, script: str = "") -> tuple[str, list[str]]:
    """The document after the browser ran the page and then a script, and what was logged."""
    copy = page.with_name("driven.html")
    copy.write_text(page.read_text(encoding="utf-8") + f"<script>{script}</script>", encoding="utf-8")
    options = ["--headless", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    command = [BROWSER, *options, "--virtual-time-budget=2000", "--dump-dom", copy.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout, re.findall(r"CONSOLE.*", shown.stderr)


class Outline(HTMLParser):
    """The elements of a page, with their attributes, in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def of(self, *tags: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def reported(document: str) -> str:
    """What a script left in the title."""
    return re.search(r"<title>(.*)</title>", document)[1]


CELLS = "const rows = () => [...document.querySelectorAll('#cells tbody tr')].filter((row) => !row.hidden);"


@needs_browser
def test_it_opens_and_logs_nothing(page: Path) -> None:
    document, logged = opened(page)
    assert logged == []
    (image,) = Outline(document).of("img")
    assert image["src"].startswith("data:image/svg+xml;base64,")


@needs_browser
def test_a_script_that_fails_is_noticed(page: Path) -> None:
    _, logged = opened(page, "nothing()")
    assert "nothing is not defined" in logged[0]


@needs_browser
def test_a_filter_changes_the_tables(page: Path) -> None:
    script = f"""{CELLS}
    const select = document.querySelector("select[name=criterion]");
    const before = rows().length;
    select.value = "l1";
    select.dispatchEvent(new Event("change", {{ bubbles: true }}));
    const values = rows().map((row) => row.cells[5].textContent);
    const visible = document.querySelectorAll("section:not(#provenance) tbody tr:not([hidden])").length;
    const told = document.getElementById("shown").value.startsWith(`${{visible}} of `);
    document.title = [before, ...values, told].join("|");
    """
    document, logged = opened(page, script)
    assert logged == []
    assert reported(document) == "5|l1|l1|l1|true"


@needs_browser
def test_a_method_filter_hides_the_columns_of_others(page: Path) -> None:
    script = """
    const select = document.querySelector("select[name=method]");
    select.value = "intra-fusion";
    select.dispatchEvent(new Event("change", { bubbles: true }));
    const heads = [...document.querySelectorAll("#data-free-table th")].filter((head) => !head.hidden);
    document.title = heads.map((head) => head.textContent).join("|");
    """
    document, _ = opened(page, script)
    assert reported(document) == "model|pipeline|criterion|group|sparsity (%)|intra-fusion|Intra-Fusion gain"


@needs_browser
def test_tables_are_sorted_by_value(page: Path) -> None:
    script = f"""{CELLS}
    const button = [...document.querySelectorAll("#cells th button")].find((b) => b.textContent === "accuracy");
    const ends = () => [rows()[0], rows().at(-1)].map((row) => row.cells[13].textContent);
    button.click(); const up = ends();
    button.click(); document.title = [...up, ...ends(), button.parentElement.getAttribute("aria-sort")].join("|");
    """
    document, _ = opened(page, script)
    assert reported(document) == "61.00 ± 1.41|90.00|90.00|61.00 ± 1.41|descending"


def test_the_page_is_complete_in_itself_and_accessible(page: Path) -> None:
    outline = Outline(page.read_text(encoding="utf-8"))
    assert all(
        e[name].startswith(("#", "data:"))
        for e in outline.of("a", "img", "link")
        for name in ("href", "src")
        if name in e
    )
    assert not any("src" in script for script in outline.of("script"))
    assert [len(outline.of(tag)) for tag in ("h1", "main", "nav", "header")] == [1, 1, 1, 1]
    assert all("Lines: conventional" in image["alt"] for image in outline.of("img"))
    assert all(head["scope"] == "col" for head in outline.of("th"))
    ids = [e["id"] for _, e in outline.elements if "id" in e]
    assert len(ids) == len(set(ids))
    within = [e for e in outline.of("a") if "download" not in e]
    assert {e["href"][1:] for e in within} <= set(ids)


def test_every_table_downloads_as_the_file_beside_the_page(page: Path) -> None:
    outline = Outline(page.read_text(encoding="utf-8"))
    links = [e for e in outline.of("a") if "download" in e]
    assert len(links) == len(outline.of("table"))
    for link in links:
        kind, _, content = link["href"].partition(";base64,")
        assert kind == "data:text/csv;charset=utf-8"
        file = page.parent / link["download"]
        assert link["download"] == "failures.csv" or base64.b64decode(content) == file.read_bytes()


@needs_browser
@pytest.mark.slow
def test_pointing_at_a_point_shows_its_networks_and_how_to_export_them(page: Path) -> None:
    """The points of the fixture are means over two seeds; the one of the unpruned network is of a single one."""
    script = """
    const plot = document.querySelector(".plot[tabindex]");
    const points = JSON.parse(plot.querySelector("script").textContent);
    const aim = (number, type) => {
      const place = plot.getBoundingClientRect();
      const [across, down] = points[number];
      const [clientX, clientY] = [place.left + across * place.width + 2, place.top + down * place.height - 2];
      plot.dispatchEvent(new MouseEvent(type, { clientX, clientY, bubbles: true }));
    };
    const told = () => tip.hidden ? "hidden" : [...tip.children].map((part) => part.textContent).join(" / ");
    const number = points.findIndex((each) => each[2].includes("81.00"));
    aim(number, "mousemove");
    const hovered = told();
    plot.dispatchEvent(new MouseEvent("mouseleave"));
    const left = told();
    aim(number, "click");
    plot.dispatchEvent(new MouseEvent("mouseleave"));
    const clicked = told() === hovered;
    document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    const escaped = told();
    plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    document.title = [hovered, left, clicked, escaped, told() !== "hidden"].join("|");
    """
    document, logged = opened(page, script)
    assert logged == []
    hovered, *others = html.unescape(reported(document)).split("|")
    text, *commands = hovered.split(" / ")
    assert re.fullmatch(r"group 0, intra-fusion.*: 50, 81\.00 ± 1\.41", text), text
    run = page.parents[1] / "run"
    beginnings = [f"metaprune export {run} intra-fusion{seed}" for seed in (0, 2)]
    assert len(commands) == 2
    assert all(command.startswith(begin) for command, begin in zip(commands, beginnings, strict=True)), commands
    assert others == ["hidden", "true", "hidden", "true"]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(page: Path, scheme: int) -> None:
    """At least 4.5 : 1, level AA."""
    style = re.search(r"<style>(.*?)</style>", page.read_text(encoding="utf-8"), re.S)[1]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", style.split(":root")[scheme + 1]))
    for text in ("text", "quiet", "link"):
        for ground in ("page", "band"):
            low, high = sorted(luminance(colours[name]) for name in (text, ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_settings_commands_and_failures_are_told_and_escaped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    hostile = "&lt;img src=x onerror=console.error(1)&gt;"
    assert f"metaprune report &#39;{hostile}&#39;" in text
    assert f"name: &#39;{hostile}&#39;" in text
    assert f"ValueError: {hostile}</td>" in text
    assert "second line" not in text
    assert "0 of 10 stages are done, 1 failed, 9 are still missing." in text
    assert HOSTILE not in text
