"""The report of a fit as one self-contained page: baselines, calibration, learning curve, confusions or residuals."""

import html
from pathlib import Path
from typing import Any

from protlm.errors import counted
from protlm.plots.page import page_of
from protlm.supervised.card import base_of
from protlm.supervised.evaluation import gain_heading, gain_of, interval, shown
from protlm.supervised.report_figures import figures

PARTS = Path(__file__).parent / "page"
_MOST_CLASSES = 30  # in the picture of the confusion matrix
_SHORT = 6  # letters of names that fit above a column


def report_page(report: dict[str, Any]) -> str:
    """The page, from the content of report.json."""
    names = ", ".join(target["name"] for target in report["targets"])
    data, split = report["data"], report["split"]
    lines = [
        f"{data['proteins']:,} labelled proteins of {data['source']} (fingerprint {data['fingerprint']})",
        f"Base model: {base_of(report)}",
        f"Evaluation: {split['described']}",
    ]
    if training := report.get("training"):
        lines.append(
            f"Training: {training['steps']:,} steps ({counted(training['epochs'], 'epoch')}); score on validation "
            f"{training['start']:.3f} before, {training['score']:.3f} after, standard error of the difference "
            f"{training['margin']:.3f}"
        )
    if split["rounds"] > 1:
        lines.append(
            "Predictions of all folds are compared together; baselines that ignore the sequence score below chance"
        )
    if split["leakage"]:
        lines.append(f"Leakage: {split['leakage']['described']}")
    body = ["<header>", f"<h1>{html.escape(f'protlm fit: {names}')}</h1>", '<ul class="about">']
    body += [*(f"<li>{html.escape(line)}</li>" for line in lines), "</ul>"]
    body += [f'<p class="warning">{html.escape(line)}</p>' for line in report["warnings"]]
    body += ["</header>", "<main>", *map(_section, report["targets"]), "</main>"]
    return page_of(f"protlm fit: {names}", "\n".join(body), (PARTS / "report.css").read_text(encoding="utf-8"))


def _section(target: dict[str, Any]) -> str:
    rows = f"{counted(target['test_proteins'], 'held-out protein')}"
    if target["per_residue"]:
        rows = f"{counted(target['test_rows'], 'residue')} of {rows}"
    found = [
        f"<section><h2>{html.escape(target['name'])}: {html.escape(target['described'])}</h2>",
        f'<p class="about">{rows}; in brackets, 95 % bootstrap intervals over proteins.</p>',
        _metrics(target),
        f'<p class="hint">{_meaning(target)}</p>',
    ]
    if "threshold" in target:
        name, least = html.escape(target["threshold"]["class"]), target["threshold"]["probability"]
        found += [f"<p>{name} is rare, and predicted from a probability of {least:.3f}, which has the highest F1"]
        found += ["in the validation part or, without one, in cross-validation within the training part, also in"]
        found += ["the confusion matrix. Accuracy, MCC and macro F1 are of the more probable class.</p>"]
    found += [figures(target)]
    if "confusion" in target:
        found += ["<h3>Confusion matrix</h3>", _confusion(target)]
    return "\n".join([*found, "</section>"])


_MEANINGS = {
    "accuracy": "Accuracy is the fraction of rows whose most probable class is right.",
    "MCC": "MCC, Matthews' correlation coefficient, is 0 for guesses and 1 for perfect predictions.",
    "F1": "F1 is that of the rarer class, called from a probability that is chosen on the other half of the proteins.",
    "macro F1": "Macro F1 counts all classes equally.",
    "AUROC": "AUROC is the probability that a row of a class gets a higher score for it than another row.",
    "AUPRC": "AUPRC, average precision, of guesses is the frequency of the class; look at it where a class is rare.",
    "Fmax": "Fmax is the F1 of the labels of a protein at the best threshold.",
    "micro AUPRC": "Micro AUPRC is the average precision of all pairs of a protein and a label.",
    "Spearman": "Spearman's correlation compares orders; 0 for guesses, 1 for the right order.",
    "R2": "R2 is the fraction of the variance that is explained; 0 for the mean.",
    "RMSE": "RMSE is the root mean squared error, in the unit of the labels.",
    "NDCG": "NDCG is the gain of the tenth predicted best, relative to that of the best possible choice.",
    "top-10 % recall": "Recall is the fraction of the best tenth that is predicted to be in it.",
}


def _meaning(target: dict[str, Any]) -> str:
    """What the metrics of a target mean, a sentence each."""
    names = next(iter(target["metrics"].values()))
    return html.escape(" ".join(_MEANINGS[name] for name in names if name in _MEANINGS))


def _metrics(target: dict[str, Any]) -> str:
    names = list(next(iter(target["metrics"].values())))
    heads = [*names, gain_heading(target)]
    rows = [f"<tr><th>method</th>{''.join(f'<th>{html.escape(name)}</th>' for name in heads)}</tr>"]
    for number, (method, metrics) in enumerate(target["metrics"].items()):
        cells = [
            f"<td>{shown(name, one['value'])} <small>{interval(name, one)}</small></td>"
            for name, one in metrics.items()
        ]
        gain, _, ends = gain_of(target, method).partition(" ")
        cells.append(f"<td>{gain} <small>{ends}</small></td>")
        kind = ' class="probe"' if number == 0 else ""
        rows.append(f"<tr{kind}><td>{html.escape(method)}</td>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _confusion(target: dict[str, Any]) -> str:
    """True classes by rows, predicted ones by columns; the last column is the fraction of the row that is right."""
    names, counts = target["classes"], target["confusion"]
    if len(names) > _MOST_CLASSES:
        return f"<p>{len(names):,} classes; the matrix is in report.json.</p>"
    upright = ' class="upright"' if max(map(len, names)) > _SHORT else ""
    heads = "".join(f'<th scope="col"><span{upright}>{html.escape(name)}</span></th>' for name in names)
    rows = [f'<tr><th>true \\ predicted</th>{heads}<th scope="col">recall</th></tr>']
    for number, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = sum(row)
        cells = [_cell(count, count / max(1, total)) for count in row]
        recall = f"{100 * row[number] / total:.0f} %" if total else "-"
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{"".join(cells)}<td>{recall}</td></tr>')
    caption = "Each row is a true class, each column a predicted one; a stronger colour means more of the row. "
    caption += "Recall is the fraction of a class that is predicted as such."
    return f'<div class="scroll"><table class="matrix">{"".join(rows)}</table></div><p class="hint">{caption}</p>'


def _cell(count: int, share: float) -> str:
    shade = f' style="background: rgb(13 148 136 / {0.85 * share:.2f})"' if count else ' class="none"'
    return f"<td{shade}>{count:,}</td>"
