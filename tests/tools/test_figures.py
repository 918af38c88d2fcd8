"""Files of figures: which are refused, what is never replaced, and the formats."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from galamp.core.errors import UserError
from galamp.tools.figures import FORMATS, FigureFile, add_figure_flags, figure_file, rendered

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def asked(*words: str) -> FigureFile | None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_figure_flags(parser, "draw", former="--plot")
    return figure_file(parser.parse_args(words))


def drawn() -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.add_subplot().set_title("$x$")
    return figure


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("graph", "expected a name that ends in .png or .svg or .pdf"),
        ("a.gif", "expected a name that ends in .png"),
        (".", "expected a name that ends in .png"),
        ("no/such/a.png", "there is no folder no/such; make it first"),
        ("a\nb/c.png", "there is no folder"),
        ("folder.png", "is a folder"),
        ("x" * 300 + ".png", "File name too long"),
        ("a\0b.png", "null"),
        ("/dev/null/a.png", "Not a directory"),
        ("mine.svg", "exists; choose another name, or give --overwrite"),
        ("dangling.png", "exists; choose another name, or give --overwrite"),
    ],
)
def test_a_file_is_refused_in_one_line_before_any_work(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("mine.svg").write_text("mine")
    Path("dangling.png").symlink_to("nowhere")
    with pytest.raises(UserError, match="--figure") as told:
        asked("--figure", name)
    assert problem in str(told.value)
    assert str(told.value).isprintable()
    assert Path("mine.svg").read_text() == "mine"


def test_to_replace_needs_a_figure() -> None:
    assert asked() is None
    with pytest.raises(UserError, match="goes with --figure"):
        asked("--overwrite")


def test_a_file_that_has_come_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    file = asked("--figure", str(path))
    assert file is not None
    path.write_text("mine")
    with pytest.raises(UserError, match="cannot be written: File exists"):
        file.write(b"new")
    assert path.read_text() == "mine"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "a.png"
    other.write_text("mine")
    path.symlink_to(other)
    file = asked("--figure", str(path), "--overwrite")
    assert file is not None
    file.write(b"new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert other.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_former_flag_is_taken_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked("--plot", str(tmp_path / "a.pdf")) == FigureFile(tmp_path / "a.pdf")
    assert capsys.readouterr().err == "galamp: --plot is now called --figure\n"


def test_the_format_is_that_of_the_name() -> None:
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for name in FORMATS:
        assert rendered(drawn, FigureFile(Path(f"x.{name.upper()}")).format)[:4] in begins[name]


def test_a_matplotlibrc_changes_nothing() -> None:
    plain = rendered(drawn)
    import matplotlib as mpl

    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "red", "font.size": 30}):
        assert rendered(drawn) == plain
    assert rendered(drawn, style={"font.size": 30}) != plain


@pytest.mark.parametrize("format", FORMATS)
def test_equal_figures_are_equal_files(format: str) -> None:
    """Clipped curves have ids in an SVG, which matplotlib draws at random by itself."""

    def curve() -> Figure:
        figure = drawn()
        figure.axes[0].plot([0, 1], [1, 0])
        return figure

    assert rendered(curve, format) == rendered(curve, format)
