"""Tables in every format: what they escape, and what is to be computed with."""

import io

import pandas as pd

from reports.tables import Table, number, signed


def test_tables_escape_what_their_format_means() -> None:
    table = Table("50 % of a_b", ["x & y", "n|m"], [["{a}", "±1"]])
    assert r"\caption{50 \% of a\_b}" in table.latex()
    assert r"x \& y & n\textbar{}m \\" in table.latex()
    assert r"\{a\} & $\pm$1 \\" in table.latex()
    assert r"| x &amp; y | n\|m |" in table.markdown()
    hostile = Table("c", ["<img onerror=x>"], [["two\nlines `code`"]]).markdown()
    assert "| &lt;img onerror=x&gt; |" in hostile
    assert r"| two lines \`code\` |" in hostile
    assert table.csv() == "x & y,n|m\n{a},±1\n"


def test_csv_is_to_be_computed_with() -> None:
    head = ["method", "accuracy", "minus", "interval", "weights"]
    rows = [["a to b", "91.25 ± 0.31", "−0.35", "−1.00 to +2.50", "1,234,567"], ["c", "90.00", "–", "–", "12"]]
    table = Table("c", head, rows)
    frame = pd.read_csv(io.StringIO(table.csv()))
    assert frame["method"].tolist() == ["a to b", "c"]
    assert frame["weights"].tolist() == [1234567, 12]
    numbers = frame[["accuracy", "accuracy, deviation", "minus", "interval, low", "interval, high"]]
    assert numbers.iloc[0].tolist() == [91.25, 0.31, -0.35, -1.0, 2.5]
    assert numbers.iloc[1].dropna().tolist() == [90.0]
    assert "standard deviation over seeds" in table.latex()


def test_words_that_all_rows_share_stand_in_the_caption_of_latex() -> None:
    rows = [["net", "l1", method, "1"] for method in ("conventional", "folding")]
    text = Table("c.", ["model", "criterion", "method", "accuracy"], rows, 3).latex("means")
    assert r"\caption{c. For all rows: model net, criterion l1.}\label{tab:means}" in text
    assert r"\begin{tabular}{@{}lr@{}}" in text
    assert "conventional & 1" in text


def test_numbers() -> None:
    assert (number(91.254), number(91.254, 0.31), number(float("nan"))) == ("91.25", "91.25 ± 0.31", "–")
    assert (signed(1.2), signed(-0.35), signed(float("nan"))) == ("+1.20", "−0.35", "–")


def test_html_tables_escape_what_they_hold() -> None:
    text = Table("a < b", ["x", "n"], [["<script>", "1 & 2"]]).html()
    assert "<caption>a &lt; b</caption>" in text
    assert '<td class="words">&lt;script&gt;</td><td>1 &amp; 2</td>' in text


def test_a_long_table_is_cut_where_it_is_read_and_says_where_all_of_it_is() -> None:
    table = Table("Measured.", ["cell", "accuracy"], [[f"c{row}", f"{row}.00"] for row in range(1500)])
    cut = table.first(1000, "cells.csv")
    told = "The first 1,000 of 1,500 rows; all are in "
    assert f"Measured. {told}[cells.csv](cells.csv).\n" in cut.markdown()
    assert f'{told}<a href="cells.csv">cells.csv</a>.</caption>' in cut.html()
    assert f"{told}cells.csv." in " ".join(cut.latex("cells").split())
    for text in (cut.markdown(), cut.html(), cut.latex("cells")):
        assert "c999" in text
        assert "c1000" not in text
    assert table.csv().count("\n") == 1501
    whole = table.first(1500, "cells.csv")
    assert whole == table
    assert "The first" not in whole.markdown()
