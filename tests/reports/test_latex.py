"""Tables in LaTeX: they compile without further packages, and fit one column or a page."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.tables import Table, number, signed
from reports.tables.latex import COLUMN, PAGE, escaped

HOSTILE = r"50 % of a_b & c# $x$ {y} ~z ^w \v <i> ± − × – · … äéñçøß αλΩ 日本 ﬁ"
OPTIONS = "fusion-preserving(restore_norm=False, target=k-means), data-free repair, global, multiples of 8"
METHODS = ["conventional", "conventional, repair", "intra-fusion", OPTIONS, "folding", "folding, data-free repair"]
METHODS += ["intra-fusion(source_marginal=importance, target_marginal=importance)", "my_own_method(alpha=0.5)"]
KEYS = ["model", "pipeline", "criterion", "settings", "group", "sparsity (%)"]
NAMES = [
    "vgg11_bn-w0.0625",
    "FaP, 4 folds, overlapping(share=0.6), activations(repair=False)",
    "lamp(restore_order=True)",
]


def grid(methods: list[str], rows: int) -> Table:
    """Methods beside each other, as grids are shown."""
    body = []
    for row in range(rows):
        keys = [*NAMES, f"fine_tuning.learning_rate={row % 3}", str(row % 8), "50"]
        body.append([*keys, *(number(90.0 + place, 1.25, 3 + row % 2) for place, _ in enumerate(methods))])
    return Table("Accuracy (%).", [*KEYS, *methods], body, 4, 6, methods)


WORDS = ["run", "environment", "processor", "GPU", "commit", "rows"]
ENVIRONMENT = [
    "a/folder/of/runs",
    "0123456789ab",
    "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
    "NVIDIA H100 80GB HBM3",
]
TABLES = {
    "narrow": Table("Few.", ["method", "accuracy"], [["folding", number(90.0, 1.0, 3)]] * 4, 1, 1, ["accuracy"]),
    "two methods": grid(METHODS[:2], 6),
    "all methods": grid(METHODS, 6),
    "fifty methods": grid([f"method-{number}(alpha={number})" for number in range(50)], 3),
    "many rows": grid(METHODS[:4], 120),
    "words": Table("Words.", WORDS, [[*ENVIRONMENT, "0123456789ab+", "1,234"]] * 3, 5),
    "one long word": Table("Words.", ["run", "n"], [["a" * 300, "1"], ["b", "2"]], 1),
    "pairs": Table(
        "Pairs.",
        [
            "model",
            *(f"{method}, {what}" for method in METHODS[:1] + METHODS[2:3] for what in ("published", "measured")),
        ],
        [["vgg11_bn", "1.00", "2.00", "−3.00", "4.00"], ["resnet18", "2.00", "1.00", "4.00", "–"]],
        1,
    ),
    "hostile": Table(f"Caption: {HOSTILE}", ["method", HOSTILE], [[HOSTILE, signed(-2.0)], ["b", "–"]]),
}
ONE_COLUMN = r"\documentclass{article}\usepackage[textwidth=5.5in]{geometry}"
TWO_COLUMNS = r"\documentclass[twocolumn]{article}\usepackage[textwidth=6.875in,columnsep=0.375in]{geometry}"


def typeset(folder: Path, document: str) -> str:
    """What pdfLaTeX says of a document."""
    (folder / "table.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    compiled = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert compiled.returncode == 0, compiled.stdout[-2000:]
    assert (folder / "table.pdf").read_bytes().startswith(b"%PDF")
    return compiled.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdfLaTeX found")
@pytest.mark.parametrize("begin", [ONE_COLUMN, TWO_COLUMNS], ids=["one column", "two columns"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_compiles_and_fits(tmp_path: Path, name: str, begin: str) -> None:
    text = TABLES[name].latex("label")
    packages = r"\usepackage{booktabs,longtable}\hfuzz=0.1pt"
    onecolumn = r"\onecolumn" if "longtable" in text else ""
    said = typeset(tmp_path, rf"{begin}{packages}\begin{{document}}{onecolumn}{text}\end{{document}}")
    assert "Overfull" not in said
    # As boxes, each is no wider than the place that its environment has.
    tabular = text.replace("longtable", "tabular").replace(r"\endhead", "")
    outer = re.compile(r"^(\\begin\{tabular\}.*?^\\end\{tabular\})", re.MULTILINE | re.DOTALL)
    size = re.search(r"\\centering(\\\w+size|\\small)", text)[1]
    blocks = [re.sub(r"^\\caption.*$", "", block, flags=re.MULTILINE) for block in outer.findall(tabular)]
    assert blocks
    boxes = [
        rf"\setbox0=\hbox{{{size}\setlength{{\tabcolsep}}{{3pt}}{block}}}\typeout{{WIDTH \the\wd0}}" for block in blocks
    ]
    said = typeset(tmp_path, rf"{begin}{packages}\begin{{document}}{' '.join(boxes)}x\end{{document}}")
    widths = [float(found) for found in re.findall(r"WIDTH ([\d.]+)pt", said)]
    assert len(widths) == len(blocks)
    assert max(widths) <= (COLUMN if r"\begin{table}" in text else PAGE) + 4


def test_a_narrow_table_takes_one_column_and_a_wide_one_the_page() -> None:
    assert TABLES["narrow"].latex().startswith(r"\begin{table}")
    assert TABLES["all methods"].latex().startswith(r"\begin{table*}")
    assert all("resizebox" not in table.latex() for table in TABLES.values())


def test_what_does_not_fit_beside_goes_on_below_under_the_same_keys() -> None:
    text = TABLES["fifty methods"].latex()
    blocks = text.count(r"\begin{longtable}")
    assert blocks > 1
    assert text.count("group &") == blocks
    heads = text.replace(r" \\ ", "")  # names are broken over lines
    assert all(heads.count(f"method-{number}(alpha={number})") == 1 for number in range(50))


def test_methods_with_one_name_stand_under_one_head() -> None:
    text = TABLES["two methods"].latex()
    assert r"\multicolumn{2}{c}{conventional}" in text
    assert r"\cmidrule(lr)" in text
    assert "– & repair" in text


def test_the_best_value_of_each_row_is_bold() -> None:
    rows = [["a", number(90.0, 1.0, 3), number(91.0, 2.0, 3)], ["b", number(92.0, 1.0, 3), number(92.0, 1.0, 3)]]
    text = Table("c.", ["cell", "x", "y"], [*rows, ["c", "–", number(1.0)]], 1, 1, ["x", "y"]).latex()
    assert r"a & 90.00 $\pm$ 1.00 & \textbf{91.00} $\pm$ 2.00 \\" in text
    assert r"b & \textbf{92.00} $\pm$ 1.00 & \textbf{92.00} $\pm$ 1.00 \\" in text
    assert r"c & – & 1.00 \\" in text


def test_the_number_of_seeds_is_in_the_caption_or_beside_each_value() -> None:
    assert "n = 3 seeds." in TABLES["narrow"].latex()
    text = TABLES["two methods"].latex()
    assert r"90.00 $\pm$ 1.25 (3)" in text
    assert r"90.00 $\pm$ 1.25 (4)" in text
    assert "In brackets: the number of seeds." in text


def test_letters_that_pdflatex_lacks_are_given_by_their_code_point() -> None:
    assert escaped("αΩé日") == r"$\alpha$$\Omega$éU+65E5"
