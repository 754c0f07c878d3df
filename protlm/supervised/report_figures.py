"""The charts of the report of a fit."""

from typing import Any

from protlm.plots.inline_svg import ACCENT, LINE, inline_svg
from protlm.supervised.evaluation import shown
from protlm.supervised.metrics import MAIN

_SIDE = 4.0  # inches
_POINT = "#12a594"  # seen on a light and on a dark page: rasterized points do not follow the theme


def figures(target: dict[str, Any]) -> str:
    """All charts of a target of report.json, side by side, each with a caption."""
    found = []
    if "calibration" in target:
        error = target["calibration"]["expected_error"]
        caption = "Calibration on held-out rows: how often predictions of a confidence are right. On the line, the "
        caption += f"confidence is true; larger points have more rows. Expected calibration error {error:.3f}."
        found.append(_figure(caption, lambda axes: _calibration(axes, target)))
    if "points" in target:
        ranking = target["kind"] == "ranking"
        metric = MAIN[target["kind"]]
        value = next(iter(target["metrics"].values()))[metric]["value"]
        caption = f"Held-out rows: predicted {'rank' if ranking else 'value'} by measured value ({metric} "
        caption += f"{shown(metric, value)}{'' if ranking else '; on the line, both are equal'})."
        found.append(_figure(caption, lambda axes: _values(axes, target)))
        if not ranking:  # predictions of a ranking are ranks: their differences from values say nothing
            caption = "Residuals: measured minus predicted value, by predicted value."
            found.append(_figure(caption, lambda axes: _residuals(axes, target)))
    if len(target.get("learning_curve", ())) > 1:
        caption = (
            "Learning curve: the probe fitted to fewer training proteins. If it still rises at the end, more labels "
        )
        caption += "would help."
        found.append(_figure(caption, lambda axes: _learning_curve(axes, target)))
    return f'<div class="figures">{"".join(found)}</div>' if found else ""


def _figure(caption: str, draw: Any) -> str:
    svg = inline_svg(_SIDE, _SIDE * 0.9, caption, lambda figure: draw(figure.add_subplot()))
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _calibration(axes: Any, target: dict[str, Any]) -> None:
    curve = target["calibration"]["curve"]
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
    confidence, accuracy = ([point[name] for point in curve] for name in ("confidence", "accuracy"))
    axes.plot(confidence, accuracy, color=ACCENT)
    most = max(point["rows"] for point in curve)
    sizes = [8 + 72 * point["rows"] / most for point in curve]
    axes.scatter(confidence, accuracy, s=sizes, color=ACCENT, clip_on=False, zorder=3)
    axes.set(xlabel="predicted probability", ylabel="fraction that is right", xlim=(0, 1), ylim=(0, 1))


def _values(axes: Any, target: dict[str, Any]) -> None:
    measured, predicted = (list(column) for column in zip(*target["points"], strict=True))
    if target["kind"] != "ranking":
        ends = [min(measured), max(measured)]
        axes.plot(ends, ends, color=LINE, linewidth=1)
    _scatter(axes, measured, predicted)
    axes.set(
        xlabel=f"measured {target['name']}", ylabel="predicted rank" if target["kind"] == "ranking" else "predicted"
    )


def _residuals(axes: Any, target: dict[str, Any]) -> None:
    axes.axhline(0, color=LINE, linewidth=1)
    _scatter(axes, [other for _, other in target["points"]], [one - other for one, other in target["points"]])
    axes.set(xlabel=f"predicted {target['name']}", ylabel="measured - predicted")


def _scatter(axes: Any, x: list[float], y: list[float]) -> None:
    axes.scatter(x, y, s=9, alpha=0.6, color=_POINT, linewidths=0, rasterized=True)


def _learning_curve(axes: Any, target: dict[str, Any]) -> None:
    proteins, values = ([point[name] for point in target["learning_curve"]] for name in ("proteins", "value"))
    axes.plot(proteins, values, marker="o", color=ACCENT)
    axes.set_xscale("log", base=2)
    axes.set_xticks(proteins, [f"{count:,.0f}" for count in proteins])
    axes.minorticks_off()
    axes.set(xlabel="training proteins", ylabel=target["learning_curve"][0]["metric"])
