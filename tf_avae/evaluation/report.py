"""One self-contained HTML page of an evaluation: no script, nothing fetched."""

import base64
import html
import itertools
import json
from pathlib import Path
from typing import Any

from tf_avae.evaluation import charts, table
from tf_avae.evaluation.checks import CHECKS
from tf_avae.evaluation.suite import Evaluation, Pictures
from tf_avae.plots import Figure, rendered, scaled_change, sheet

_INTERVALS = "with 95 % intervals"


def page(evaluation: Evaluation) -> str:
    """The page, HTML."""
    results = evaluation.results
    heading = "Robustness of " + ", ".join(encoder["name"] for encoder in results["encoders"])
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{_safe(heading)}</h1>",
        _introduction(results),
        _verdict(evaluation),
        *_main_table(results),
        *_accuracy(results),
        *_checks(results),
        *_attacked(evaluation),
        *_representation(results),
        *_consistency(results),
        *_detection(results),
        *_usage(results),
        "<h2>What was left out</h2>",
        _left_out(results),
        "<h2>Settings and provenance</h2>",
        _provenance(results),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{_safe(heading)}</title><style>{css}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _safe(words: Any) -> str:
    return html.escape(str(words))


def _asked(results: dict[str, Any], section: str) -> bool:
    return section in results["settings"]["sections"]


def _introduction(results: dict[str, Any]) -> str:
    settings, data = results["settings"], results["data"]
    of = f" of {_safe(data['name'])}" if "name" in data else ""
    images = f"{data['test_images']:,} test images{of}"
    able = [encoder for encoder in results["encoders"] if "robustness" in encoder]
    counts = [row["accuracy"]["count"] for e in able for row in e["robustness"]["rows"]]
    if counts:
        images = f"{max(counts):,} attacked of {images}"
    return (
        f"<p>Budget <b>{_safe(settings['budget'])}</b>, {_safe(settings['norm'])} ball, {images}. "
        "Encoders never saw a label; each head was fitted to embeddings of the training split. "
        "Attacks go through head and encoder. Square brackets hold 95 % intervals over test "
        "images.</p>"
    )


def _verdict(evaluation: Evaluation) -> str:
    if not evaluation.checked:
        asked = _asked(evaluation.results, "checks")
        why = "could not be made" if asked else "were not asked for"
        return (
            f'<p class="verdict bad">The honesty checks {why}: whether these figures can be '
            "trusted is not known.</p>"
        )
    failed = evaluation.failed_checks
    if not failed:
        missing = evaluation.results["encoders"][0]["checks"]["left_out"]
        but = f" Not made in this ball: {', '.join(missing)}." if missing else ""
        return f'<p class="verdict good">All honesty checks passed.{_safe(but)}</p>'
    items = "".join(
        f"<li><b>{_safe(name)}</b>, {_safe(head)} probe of {_safe(task)}: "
        f"<span class='fail'>{_safe(check)}</span> – not so: {_safe(CHECKS[check].must)}. "
        f"{_safe(CHECKS[check].why[:1].upper() + CHECKS[check].why[1:])}.</li>"
        for name, task, head, check in failed
    )
    return (
        f'<div class="verdict bad"><b>{len(failed)} honesty checks failed: do not trust the '
        f"figures they concern.</b><ul>{items}</ul></div>"
    )


def _cell(cell: table.Cell | str) -> str:
    if isinstance(cell, str):
        return f"<td>{_safe(cell)}</td>"
    interval = f" <small>[{_safe(cell.interval)}]</small>" if cell.interval else ""
    beside = f" / {_safe(cell.beside)}" if cell.beside else ""
    return f"<td>{_safe(cell.text)}{interval}{beside}</td>"


def _row(*cells: table.Cell | str) -> str:
    return f"<tr>{''.join(map(_cell, cells))}</tr>"


def _table(heads: list[str], rows: list[str], kind: str = "") -> str:
    head = "".join(f'<th scope="col">{_safe(word)}</th>' for word in heads)
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _main_table(results: dict[str, Any]) -> list[str]:
    names = [encoder["name"] for encoder in results["encoders"]]
    figures = table.rows(results)
    if not figures:
        return []
    rows = []
    for group, members in itertools.groupby(figures, key=lambda row: row.group):
        rows.append(f'<tr class="group"><th colspan="{len(names) + 1}">{_safe(group)}</th></tr>')
        rows += [_row(row.label, *row.cells) for row in members]
    return ["<h2>Accuracy, nominal and under attack</h2>", _table(["", *names], rows)]


def _accuracy(results: dict[str, Any]) -> list[str]:
    if not _asked(results, "robustness") or not results["settings"]["tasks"]:
        return []
    head = results["settings"]["heads"][0]
    shown = [
        (charts.accuracy(results, task), f"Accuracy of the {head} probe of {task}, {_INTERVALS}")
        for task in results["settings"]["tasks"]
    ]
    return [_charts(shown)]


def _checks(results: dict[str, Any]) -> list[str]:
    if not any("checks" in encoder for encoder in results["encoders"]):
        return []
    parts = ["<h2>Can these figures be trusted?</h2>"]
    for encoder in results["encoders"]:
        for group in encoder["checks"]["groups"]:
            rows = []
            for check in group["checks"]:
                kind, word = ("pass", "passed") if check["passed"] else ("fail", "FAILED")
                rows.append(
                    f"<tr><td><span class='{kind}'>{word}</span></td>"
                    f"{_cell(CHECKS[check['name']].must)}{_cell(check['found'])}</tr>"
                )
            bad = sum(not check["passed"] for check in group["checks"])
            summary = (
                f"{encoder['name']}, {group['head']} probe of {group['task']}: "
                f"{len(rows) - bad} of {len(rows)} passed (ε {group['epsilon']:g}, "
                f"{group['images']} images)"
            )
            parts.append(
                f"<details{' open' if bad else ''}><summary>{_safe(summary)}</summary>"
                f"{_table(['', 'must be so', 'found'], rows, 'words')}</details>"
            )
    return parts


# ---------------------------------------------------------------------- figures


def _picture(content: bytes, kind: str, alt: str, caption: str = "", css: str = "") -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    below = f"<figcaption>{_safe(caption)}</figcaption>" if caption else ""
    return f'<figure class="{css}"><img src="{source}" alt="{_safe(alt)}">{below}</figure>'


def _charts(captioned: list[tuple[Figure, str]]) -> str:
    shown = [
        _picture(rendered(figure, "svg", caption), "svg+xml", caption, caption)
        for figure, caption in captioned
    ]
    return f'<div class="charts">{"".join(shown)}</div>'


def _attacked(evaluation: Evaluation) -> list[str]:
    if not any(evaluation.pictures):
        return []
    return [
        "<h2>What attacks do</h2>",
        "<p>From top to bottom: test images; the images that the attack made of them; the change, "
        "scaled to full contrast; and, where there is a decoder, what both decode to.</p>",
        *(_sheets(pictures) for pictures in evaluation.pictures),
    ]


def _sheets(pictures: list[Pictures]) -> str:
    shown = []
    for heading, rows in pictures:
        content = sheet(rows | {"change": scaled_change(rows["change"])}, heading)
        picture = _picture(content, "png", heading, css="sheet")
        shown.append(f'<div class="scroll" tabindex="0">{picture}</div>')
    return f'<div class="sheets">{"".join(shown)}</div>'


_SHIFT = f"Mean shift under the first distance of the table, {_INTERVALS}"


def _representation(results: dict[str, Any]) -> list[str]:
    able = [encoder for encoder in results["encoders"] if "representation" in encoder]
    if not able:
        return []
    tasks = results["settings"]["tasks"]
    heads = ["encoder", "distance", "ε", "moved", *(f"shift, {t}" for t in tasks),
             *(f"{t} right, %" for t in tasks), "reach the target, %"]  # fmt: skip
    made = []
    for encoder in able:
        rows = encoder["representation"]["rows"]
        targeted = {(r["distance"], r["epsilon"]): r for r in rows if r["targeted"]}
        for row in rows:
            if row["targeted"]:
                continue
            shifts = [row["tasks"][task]["shift"] for task in tasks]
            reached = targeted[row["distance"], row["epsilon"]]["nearer_to_target"]
            made.append(_row(
                encoder["name"], row["distance"], f"{row['epsilon']:g}",
                table.number(row["moved"]),
                *(table.number(shift) if shift else table.NONE for shift in shifts),
                *(table.percent(row["tasks"][task]["accuracy"]) for task in tasks),
                table.percent(reached),
            ))  # fmt: skip
    return [
        "<h2>Attacks on the representation, without labels</h2>",
        "<p>PGD moves q(z|x') as far as it can in the distance named. The shift of the mean is in "
        "units of the mean distance between classes: above 1, an image is carried farther than "
        "from one class to another. An image reaches its target, the next test image, when its "
        "embedding ends nearer to the target's than to its own.</p>",
        f"<details><summary>Table</summary>{_table(heads, made)}</details>",
        _charts([(charts.shift(results), _SHIFT)] if tasks else []),
    ]


def _consistency(results: dict[str, Any]) -> list[str]:
    able = [encoder for encoder in results["encoders"] if "consistency" in encoder]
    if not able:
        return []
    dotted = "Dotted: what the coupling ρ of training allows"
    chain, codes = "Chain of samples z → g(z) → z′", "from codes of test images"
    moved = f"How far the posterior moves from one turn to the next, following means, {codes}"
    shown = [
        (charts.drift(able, start, words), f"{chain}, {words}, {_INTERVALS}. {dotted}")
        for start, words in (("data", codes), ("prior", "from the prior"))
    ]
    return ["<h2>Self-consistency</h2>", _charts([*shown, (charts.turns(able), moved)])]


def _detection(results: dict[str, Any]) -> list[str]:
    able = [encoder for encoder in results["encoders"] if "detection" in encoder]
    if not able:
        return []
    settings = results["settings"]
    told = able[0]["detection"]
    alarms = ", ".join(
        f"{e['name']} {100 * e['detection']['false_alarms']['value']:.1f} %" for e in able
    )
    heads = ["encoder", "task", "ε", "attack", "ROC AUC", "flagged, %", "broken, %",
             "broken and not flagged, %"]  # fmt: skip
    rows = [
        _row(
            encoder["name"], row["task"], f"{row['epsilon']:g}", attack["attack"],
            table.area(attack["auc"]),
            *(table.percent(attack[key]) for key in ("flagged", "success", "undetected")),
        )
        for encoder in able
        for row in encoder["detection"]["rows"]
        for attack in row["attacks"]
    ]  # fmt: skip
    words = f"{_INTERVALS}. Solid: PGD on the classification; dashed: attacks that know"
    shown = [
        figure
        for task in settings["tasks"]
        for figure in (
            (charts.unseen(able, task), f"Broken for {task} and not flagged, {words}"),
            (charts.told(able, task), f"ROC AUC, attacks on {task} against other images, {words}"),
        )
    ]
    return [
        "<h2>Do attacks show?</h2>",
        "<p>An image is flagged where W2² of q(z|x) and q(z|g(μ(x))) is above what 5 % of "
        f"{told['others']:,} other test images exceed; {told['images']:,} are attacked "
        f"through the {_safe(told['head'])} head. Of these as they are, flagged: "
        f"{_safe(alarms)}. “pgd” climbs the cross-entropy alone; “λ” the cross-entropy less λ "
        "times the logarithm of the inconsistency; “least score” makes it small once an image is "
        "misclassified; “knowing” is, for each image, the one of all these that breaks it with "
        "the least inconsistency. “noise” is a random point of the ball.</p>",
        _charts(shown),
        f"<details><summary>Table</summary>{_table(heads, rows)}</details>",
    ]


def _usage(results: dict[str, Any]) -> list[str]:
    able = [encoder for encoder in results["encoders"] if "kl" in encoder.get("latents", {})]
    if not able:
        return []
    caption = "Latents at 0 carry nothing: an encoder that says nothing cannot be attacked"
    return ["<h2>Use of the latent space</h2>", _charts([(charts.usage(able), caption)])]


def _left_out(results: dict[str, Any]) -> str:
    items = [f"<li>{_safe(name)} – {_safe(why)}</li>" for name, why in table.left_out(results)]
    items += [
        f"<li>{_safe(encoder['name'])}: {_safe(section)} – {_safe(why)}</li>"
        for encoder in results["encoders"]
        for section, why in encoder["left_out"].items()
    ]
    return f"<ul>{''.join(items)}</ul>" if items else "<p>Nothing.</p>"


def _provenance(results: dict[str, Any]) -> str:
    shown = {key: value for key, value in results.items() if key != "encoders"}
    shown["encoders"] = [
        {key: value for key, value in encoder.items() if key in _NOTES}
        for encoder in results["encoders"]
    ]
    content = json.dumps(shown, indent=2, ensure_ascii=False)
    return (
        "<p>results.json holds all figures, and the outcome of each attacked image.</p>"
        f"<details><summary>Show</summary><pre>{_safe(content)}</pre></details>"
    )


_NOTES = ("name", "kind", "config", "step", "complete", "trained_at_commit", "sha256")
