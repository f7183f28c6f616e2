"""Figures as a paper prints them: as wide as its columns, with text that can be read and one meaning per colour."""

import importlib
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from filled import PARAMS, fill
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text

from spiking_diffusion import artifacts, paths
from spiking_diffusion.graph.jobs import Job
from spiking_diffusion.graph.suites import FIGURES, figures_of
from spiking_diffusion.reporting.figures.codes import codebook
from spiking_diffusion.reporting.figures.curves import ablation, steps, temperature
from spiking_diffusion.reporting.figures.spikes import spikes
from spiking_diffusion.reporting.figures.training import LINES, dynamics, losses
from spiking_diffusion.reporting.groups import groups
from spiking_diffusion.reporting.style import (
    COLOURS,
    ONE_COLUMN,
    PAGE,
    STYLE,
    TWO_COLUMNS,
    RoundNumbers,
    at_most,
    shades,
)
from spiking_diffusion.stages import make

SUITES = ["quick", "table1", "ablation-k-quick", "methods", "baselines-only"]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with plt.style.context(STYLE, after_reset=True):
        yield
    plt.close("all")


def drawn(figure, monkeypatch):
    """Every text that is drawn when the figure is saved, and where it is in it."""
    figure.draw_without_rendering()  # lays it out
    seen, draw = [], Text.draw
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", lambda text, renderer: seen.append(text) or draw(text, renderer))
        figure.draw_without_rendering()
    return [(text, text.get_window_extent()) for text in seen if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("suite", SUITES)
def test_print_size_and_text(suite, monkeypatch):
    """As wide as one or two columns, on one page, 8 pt at least, no text cut and none over another."""
    fill(PARAMS, suite)
    for kind in figures_of(PARAMS, suite):
        module = importlib.import_module(f"spiking_diffusion.reporting.figures.{FIGURES[kind].module}")
        figure = getattr(module, kind)(groups(PARAMS, suite))
        assert figure.get_figwidth() in (ONE_COLUMN, TWO_COLUMNS) and figure.get_figheight() <= PAGE, kind
        texts = drawn(figure, monkeypatch)
        assert min(text.get_fontsize() for text, _ in texts) >= 8, kind
        page = figure.bbox.padded(1)
        cut = [text.get_text() for text, box in texts if not page.contains(box.x0, box.y0) or box.x1 > page.x1]
        assert cut == [], kind
        pairs = itertools.combinations(texts, 2)
        over = [(a.get_text(), b.get_text()) for (a, one), (b, other) in pairs if one.padded(-1).overlaps(other)]
        assert over == [], kind
        plt.close(figure)


def test_files_have_the_width_of_the_figure_and_true_type_fonts():
    """Seen to fail: cut to what is drawn, a figure had another width and its text another size in print."""
    fill(PARAMS, "both")
    png = make(Job(PARAMS, "losses_figure", "both"))
    pdf = png.with_suffix(".pdf").read_bytes()
    assert f"/MediaBox [ 0 0 {72 * TWO_COLUMNS:g} ".encode() in pdf
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert plt.imread(png).shape[1] == round(STYLE["savefig.dpi"] * TWO_COLUMNS)


def luminance(colour):
    return float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)))


def test_colours_mean_one_thing_and_shades_differ_in_print_without_colour():
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert shades(COLOURS["fsvae"], 1) == [COLOURS["fsvae"]]
    for model in ("spiking-diffusion", "fsvae"):
        of_model = [luminance(shade) for shade in shades(COLOURS[model], LINES)]
        assert min(-np.diff(of_model)) > 0.04, "from light to dark"


def test_models_have_their_colours_in_every_panel():
    fill(PARAMS, "both")
    panels = {panel.get_title(): panel for panel in losses(groups(PARAMS, "both")).axes}
    held_out = {line.get_label(): to_hex(line.get_color()) for line in panels["Held-out images"].lines}
    assert held_out == {"FSVAE": COLOURS["fsvae"], "VQ-SVAE": COLOURS["spiking-diffusion"]}
    for panel, model in (("FSVAE: loss", "fsvae"), ("VQ-SVAE: loss", "spiking-diffusion")):
        line = next(line for line in panels[panel].lines if line.get_label() == "reconstruction")
        assert to_hex(line.get_color()) == COLOURS[model]


def test_legend_of_losses_names_lines_of_all_rows():
    """Seen to fail: the lowest row of `quick` has no FSVAE, and the legend had none."""
    fill(PARAMS, "quick")
    legends = [panel.get_legend() for panel in losses(groups(PARAMS, "quick")).axes if panel.get_legend()]
    assert [len(legend.get_texts()) for legend in legends] == [3, 3, 2, 2]


def rewrite(path, change):
    artifacts.write_text(path, change(pd.read_csv(path)).to_csv(index=False))


def histories(suite, change):
    for name in PARAMS.suites[suite]:
        for network in PARAMS.resolve(name).family.networks:
            rewrite(paths.history_path(paths.model_path(name, network)), change)


def test_one_epoch_has_marks():
    """Seen to fail: a line of one point is not drawn."""
    fill(PARAMS, "both")
    assert {line.get_marker() for panel in losses(groups(PARAMS, "both")).axes for line in panel.lines} == {"None"}
    histories("both", lambda history: history.iloc[:1])
    for figure in (losses(groups(PARAMS, "both")), dynamics(groups(PARAMS, "both"))):
        assert {line.get_marker() for panel in figure.axes for line in panel.lines} == {"o"}


def test_dynamics_have_five_lines_at_most_and_axes_from_zero():
    fill(PARAMS, "ablation-k-quick")
    histories("ablation-k-quick", lambda history: history.assign(**{f"rate_rest.{n}": 0.1 * n for n in range(8)}))
    figure = dynamics(groups(PARAMS, "ablation-k-quick"))
    for panel in [panel for panel in figure.axes if panel.lines]:
        assert len(panel.lines) == LINES
        assert (panel.get_xlim()[0], panel.get_ylim()[0]) == (0, 0)
    titles = [panel.get_title() for panel in figure.axes]
    assert "Weight of SFR (5 of 6)" in titles and "SDID (5 of 9 layers)" in titles


@pytest.mark.parametrize(
    ("limits", "ticks"),
    [((0.03, 0.9), [0.05, 0.1, 0.2, 0.5]), ((0.05, 200), [0.1, 1, 10, 100]), ((1e-8, 1), [1e-8, 1e-5, 1e-2])],
)
def test_numbers_of_a_logarithmic_axis_are_round_and_few(limits, ticks):
    assert RoundNumbers().tick_values(*limits) == pytest.approx(ticks)


def test_at_most_keeps_the_ends():
    assert at_most(range(9), 5) == [0, 2, 4, 6, 8]
    assert at_most("abc", 5) == ["a", "b", "c"]


def test_spikes_have_a_scale_and_hide_no_line():
    """Each channel's PSPs stay in its row, the second train is thinner than the first, and the bar is a PSP of 0.5."""
    fill(PARAMS, "both")
    *_, potentials = spikes(groups(PARAMS, "both")).axes
    *psps, bar = potentials.lines
    channels = len(psps) // 2
    for number, line in enumerate(psps):
        row = number % channels
        assert row - 1 < min(line.get_ydata()) and max(line.get_ydata()) <= row
    assert min(line.get_linewidth() for line in psps[:channels]) > 1.5 * psps[-1].get_linewidth()
    trace = artifacts.read_npz(paths.traces_path("digits"))
    highest = max(trace[f"{train}_psp"].max() for train in ("encoder", "asg"))
    heights = [max(line.get_ydata()) - min(line.get_ydata()) for line in psps]
    assert potentials.texts[0].get_text() == "0.5"
    assert np.ptp(bar.get_ydata()) / max(heights) == pytest.approx(0.5 / highest, rel=0.01)


def test_the_marked_token_is_framed_and_not_covered():
    fill(PARAMS, "both")
    picture = spikes(groups(PARAMS, "both")).axes[0]
    frames = picture.patches
    assert len(frames) == 2 and all(to_hex(frame.get_edgecolor()) == COLOURS["marked"] for frame in frames)
    assert all(frame.get_linewidth() >= 1.5 and not frame.get_clip_on() for frame in frames)
    x, y, width, height = frames[0].get_bbox().bounds
    assert (width, height) == (5, 5) and (x + 1) % 4 == 0 and (y + 1) % 4 == 0, "around its 4x4 pixels"


def test_codebook_is_titled_by_its_dataset():
    fill(PARAMS, "both")
    bars, *_ = codebook(groups(PARAMS, "both")).axes
    assert bars.get_title(loc="left").startswith("Digits: 20 of 32 codes used, perplexity ")


def tuned(**columns):
    for name in ("digits", "digits-fsvae"):
        path = paths.tuning_path(name).with_suffix(".csv")
        if path.exists():
            rewrite(path, lambda table: pd.DataFrame({"sampler": "ancestral", "kid": 0.1, **columns}))


def test_ticks_of_steps_and_temperature_are_what_was_tried():
    """Without a legend where there is one run, and the star is explained."""
    fill(PARAMS, "both")
    tried = {"steps": [49] * 4 + [4, 16], "temperature": [0.7, 0.8, 0.9, 1.0, 0.9, 0.9]}
    calls = [31.2] * 4 + [4.0, 13.5]
    tuned(**tried, fid=[5.0, 4, 3, 4, 9, 5], network_calls=calls, chosen=[0, 0, 1, 0, 1, 1], guidance=0.0)
    by_steps, by_calls = steps(groups(PARAMS, "both")).axes
    assert by_steps.get_xticks().tolist() == [4, 16, 49] and by_calls.get_xticks().tolist() == [4, 13.5, 31.2]
    assert plt.gcf().legends == [] and plt.gcf().get_suptitle() == "Digits"
    figure = temperature(groups(PARAMS, "both"))
    assert figure.axes[0].get_xticks().tolist() == [0.7, 0.8, 0.9, 1.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chosen temperature"]


def test_ticks_that_would_overlap_are_left_out():
    fill(PARAMS, "both")
    tuned(steps=[49, 50, 4], temperature=1.0, fid=[3.0, 3, 9], network_calls=9.0, chosen=1, guidance=0.0)
    assert steps(groups(PARAMS, "both")).axes[0].get_xticks().tolist() == [4, 49]


def test_bars_and_band_of_an_ablation_are_explained():
    fill(PARAMS, "ablation-k-quick")
    figure = ablation(groups(PARAMS, "ablation-k-quick"))
    assert figure.get_suptitle() == "Digits: mean and standard deviation over 3 seeds"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Digits, learned"]
    assert len(legend.get_patches()) == 1, "the band, next to its line"
