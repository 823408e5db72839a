"""One self-contained HTML page of an evaluation: no script, nothing fetched."""

import itertools
import json
from pathlib import Path
from typing import Any

from tf_avae.evaluation import charts, markup, table
from tf_avae.evaluation.checks import CHECKS
from tf_avae.evaluation.markup import safe
from tf_avae.evaluation.suite import Evaluation, Pictures
from tf_avae.plots import scaled_change, stacked

_NONE = table.NONE.text
_INTERVALS = "with 95 % intervals"
_NAMED = 3  # encoders that the heading names


def page(evaluation: Evaluation) -> str:
    """The page, HTML."""
    results = evaluation.results
    names = [encoder["name"] for encoder in results["encoders"]]
    of = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} encoders"
    heading = f"Robustness of {of}"
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{safe(heading)}</h1>",
        _introduction(results),
        _verdict(evaluation),
        *_main_table(results),
        *_accuracy(results),
        *_attack_by_attack(results),
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
        f"<title>{safe(heading)}</title><style>{css}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _asked(results: dict[str, Any], section: str) -> bool:
    return section in results["settings"]["sections"]


def _introduction(results: dict[str, Any]) -> str:
    settings, data = results["settings"], results["data"]
    of = f" of {safe(data['name'])}" if "name" in data else ""
    images = f"{data['test_images']:,} test images{of}"
    able = [encoder for encoder in results["encoders"] if "robustness" in encoder]
    counts = [row["accuracy"]["count"] for e in able for row in e["robustness"]["rows"]]
    if counts:
        images = f"{max(counts):,} attacked of {images}"
    return (
        f"<p>Budget <b>{safe(settings['budget'])}</b>, {safe(settings['norm'])} ball, {images}. "
        "Encoders never saw a label; each head was fitted to embeddings of the training split. "
        "Attacks go through head and encoder. Square brackets hold 95 % intervals over test "
        "images.</p>"
    )


def _verdict(evaluation: Evaluation) -> str:
    if not evaluation.checked:
        asked = _asked(evaluation.results, "checks")
        without = [e["name"] for e in evaluation.results["encoders"] if "checks" not in e]
        why = f"could not be made of {', '.join(without)}" if asked else "were not asked for"
        return (
            f'<p class="verdict bad">The honesty checks {safe(why)}: whether these figures can be '
            "trusted is not known.</p>"
        )
    failed = evaluation.failed_checks
    if not failed:
        missing = evaluation.results["encoders"][0]["checks"]["left_out"]
        but = f" Not made in this ball: {', '.join(missing)}." if missing else ""
        return f'<p class="verdict good">All honesty checks passed.{safe(but)}</p>'
    items = "".join(
        f"<li><b>{safe(name)}</b>, {safe(head)} probe of {safe(task)}: "
        f"<span class='fail'>{safe(check)}</span> – not so: {safe(CHECKS[check].must)}. "
        f"{safe(CHECKS[check].why[:1].upper() + CHECKS[check].why[1:])}.</li>"
        for name, task, head, check in failed
    )
    return (
        f'<div class="verdict bad"><b>{len(failed)} honesty checks failed: do not trust the '
        f"figures they concern.</b><ul>{items}</ul></div>"
    )


def _main_table(results: dict[str, Any]) -> list[str]:
    names = [encoder["name"] for encoder in results["encoders"]]
    figures = table.rows(results)
    if not figures:
        return []
    rows = []
    for group, members in itertools.groupby(figures, key=lambda row: row.group):
        rows.append(
            f'<tr class="group"><th colspan="{len(names) + 1}"><span>{safe(group)}</span></th></tr>'
        )
        rows += [markup.row(row.label, *row.cells) for row in members]
    return ["<h2>Accuracy, nominal and under attack</h2>", markup.table(["", *names], rows)]


def _accuracy(results: dict[str, Any]) -> list[str]:
    if not any("robustness" in encoder for encoder in results["encoders"]):
        return []
    head = results["settings"]["heads"][0]
    verified = any(
        row["head"] == head
        for encoder in results["encoders"]
        for row in encoder.get("certified", {"rows": ()})["rows"]
    )
    words = _INTERVALS
    if verified:
        settings = results["settings"]
        bounds = f"{settings['certify']} bounds{', rounded outward' if settings['outward'] else ''}"
        words += f". Dashed, hollow: verified by {bounds}; the worst case is in the hatched band"
    shown = [
        (charts.accuracy(results, task), f"Accuracy of the {head} probe of {task}, {words}")
        for task in results["settings"]["tasks"]
    ]
    return [markup.charts(shown)]


def _attack_by_attack(results: dict[str, Any]) -> list[str]:
    able = [encoder for encoder in results["encoders"] if "robustness" in encoder]
    found = [(e["name"], r, table.broken_by(r)) for e in able for r in e["robustness"]["rows"]]
    if not found:
        return []
    # A budget may have attacks that the number of a task's classes does not allow.
    attacks = list(dict.fromkeys(attack for *_, broken in found for attack in broken))
    heads = ["encoder", "task", "head", "ε", "images", "right", *attacks, "unbroken"]
    proofs = {e["name"]: e["certified"] for e in able if "certified" in e}
    heads += ["verified"] if proofs else []
    rows = []
    for name, row, broken in found:
        count = row["accuracy"]["count"]
        right, left = (round(row[key]["value"] * count) for key in ("nominal", "accuracy"))
        by = [broken.get(attack, _NONE) for attack in attacks]
        figures = [f"{row['epsilon']:g}", count, right, *by, left]
        if proofs:
            of = (row["task"], row["head"], row["epsilon"])
            proof = table.verified(proofs[name], *of) if name in proofs else None
            figures.append(round(proof["verified"]["value"] * count) if proof else _NONE)
        rows.append(markup.row(name, row["task"], row["head"], *map(str, figures)))
    proved = " No attack can break an image that is verified." if proofs else ""
    return [
        markup.details(
            "Attack by attack",
            "<p>How many images each attack of the budget broke, from left to right. Only what all "
            f"before it left unbroken is attacked.{proved}</p>" + markup.table(heads, rows),
        )
    ]


def _checks(results: dict[str, Any]) -> list[str]:
    if not any("checks" in encoder for encoder in results["encoders"]):
        return []
    parts = ["<h2>Can these figures be trusted?</h2>"]
    for encoder in results["encoders"]:
        for group in encoder.get("checks", {"groups": ()})["groups"]:
            rows = []
            for check in group["checks"]:
                kind, word = ("pass", "passed") if check["passed"] else ("fail", "FAILED")
                rows.append(
                    f"<tr><td><span class='{kind}'>{word}</span></td>"
                    f"{markup.cell(CHECKS[check['name']].must)}{markup.cell(check['found'])}</tr>"
                )
            bad = sum(not check["passed"] for check in group["checks"])
            summary = (
                f"{encoder['name']}, {group['head']} probe of {group['task']}: "
                f"{len(rows) - bad} of {len(rows)} passed (ε {group['epsilon']:g}, "
                f"{group['images']} images)"
            )
            found = markup.table(["", "must be so", "found"], rows, "words")
            parts.append(markup.details(summary, found, opened=bad > 0))
    return parts


def _attacked(evaluation: Evaluation) -> list[str]:
    if not any(evaluation.pictures):
        return []
    head = evaluation.results["settings"]["heads"][0]
    return [
        "<h2>What attacks do</h2>",
        "<p>From top to bottom: a test image x; the image xᵃ that the attack made of it; the "
        "change, scaled to full contrast; where there is a decoder, what both decode to, g(μ(x)) "
        "and g(μ(xᵃ)); and the attack. For broken images: the attack that broke it, and what the "
        f"{safe(head)} probe reads x and xᵃ as.</p>",
        f'<div class="sheets">{"".join(map(_sheet, itertools.chain(*evaluation.pictures)))}</div>',
    ]


def _sheet(pictures: Pictures) -> str:
    rows = pictures.rows | {"change": scaled_change(pictures.rows["change"])}
    shown = [
        markup.picture(stacked(images), "png", f"{', '.join(rows)}: {', '.join(caption)}", *caption)
        for *images, caption in zip(*rows.values(), pictures.captions, strict=True)
    ]
    heading = f"<h3>{safe(pictures.heading)}</h3>"
    return f'<section>{heading}<div class="strips">{"".join(shown)}</div></section>'


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
            made.append(markup.row(
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
        markup.details("Table", markup.table(heads, made)),
        markup.charts([(charts.shift(results), _SHIFT)] if tasks else []),
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
    return ["<h2>Self-consistency</h2>", markup.charts([*shown, (charts.turns(able), moved)])]


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
        markup.row(
            encoder["name"], row["task"], f"{row['epsilon']:g}", attack["attack"],
            table.area(attack["auc"]),
            *(table.percent(attack[key]) for key in ("flagged", "success", "undetected")),
        )
        for encoder in able
        for row in encoder["detection"]["rows"]
        for attack in row["attacks"]
    ]  # fmt: skip
    words = f"{_INTERVALS}. Solid: PGD on the classification; dashed, hollow: attacks that know"
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
        f"through the {safe(told['head'])} head. Of these as they are, flagged: "
        f"{safe(alarms)}. “pgd” climbs the cross-entropy alone; “λ” the cross-entropy less λ "
        "times the logarithm of the inconsistency; “least score” makes it small once an image is "
        "misclassified; “knowing” is, for each image, the one of all these that breaks it with "
        "the least inconsistency. “noise” is a random point of the ball.</p>",
        markup.charts(shown),
        markup.details("Table", markup.table(heads, rows)),
    ]


def _usage(results: dict[str, Any]) -> list[str]:
    able = [encoder for encoder in results["encoders"] if "kl" in encoder.get("latents", {})]
    if not able:
        return []
    caption = "Latents at 0 carry nothing: an encoder that says nothing cannot be attacked"
    return ["<h2>Use of the latent space</h2>", markup.charts([(charts.usage(able), caption)])]


def _left_out(results: dict[str, Any]) -> str:
    items = [f"<li>{safe(name)} – {safe(why)}</li>" for name, why in table.left_out(results)]
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
        + markup.details("Show", f"<pre>{safe(content)}</pre>")
    )


_NOTES = ("name", "kind", "config", "step", "complete", "trained_at_commit", "sha256")
