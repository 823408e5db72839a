"""`python -m benchmarks.tables` and `benchmarks.detection`, and what the results and the model card
say of the trainings of 12,000 steps."""

import json

from test_resume import ROOT

from benchmarks import detection, tables
from tf_avae.evaluation import table

RESULTS = ROOT / "docs" / "results"
SHIPPED = RESULTS / "colormnist-robust-1"
LONGER = [SHIPPED / "paper.json", RESULTS / "conv" / "se_avae_12000_paper.json"]
STRONG = [(SHIPPED / "strong.json", "linear"), (SHIPPED / "strong_mlp.json", "mlp"),
          (RESULTS / "conv" / "strong_se.json", "linear"),
          (RESULTS / "conv" / "strong_se_avae.json", "linear")]  # fmt: skip


def left_after(path, task, head="linear"):
    """The percentages that kept results of one encoder have at ε 0.1 after each attack."""
    (encoder,) = json.loads(path.read_text())["encoders"]
    row = table.attacked(encoder["robustness"], task, head, 0.1)
    shares = zip(row["trials"], row["accuracy_after"][1:], strict=True)
    after = {trial.split("/")[0]: f"{100 * share:.1f}" for trial, share in shares}
    return list(after.values())


def test_the_results_show_the_trainings_side_by_side():
    results = (ROOT / "docs" / "results.md").read_text()
    both = tables.joined(LONGER)
    assert [e["config"]["algo"] for e in both["encoders"]] == ["se", "se_avae"]
    assert {(e["config"]["arch"], e["step"]) for e in both["encoders"]} == {("conv", 12000)}
    assert tables.markdown(both, ["se", "se_avae"]) in results
    variances = tables.joined([RESULTS / "conv" / f"se_3000_v{v}.json" for v in (0.1, 0.02)])
    assert [encoder["config"]["obs_var"] for encoder in variances["encoders"]] == [0.1, 0.02]
    assert variances["data"]["validation"] == 10_000
    assert tables.markdown(variances, ["v 0.1", "v 0.02"]) in results
    for file, head in STRONG:
        link = f"([file]({file.relative_to(ROOT / 'docs')}))"
        for task in ("digit", "color"):
            assert f"{link} | {' | '.join(left_after(file, task, head))} |" in results


def test_the_text_says_what_the_files_do():
    """Sentences of the results and of the card, with the figures put in anew."""
    results, card = (
        (ROOT / "docs" / name).read_text() for name in ("results.md", "model_card_1.md")
    )
    both = tables.joined(LONGER)

    def shares(task, head, epsilon):
        rows = [table.attacked(e["robustness"], task, head, epsilon) for e in both["encoders"]]
        return [table.percent(row["accuracy"]).text for row in rows]

    lost = [shares("color", "linear", 0.2), shares("color", "margin", 0.2),
            shares("digit", "margin", 0.2)]  # fmt: skip
    words = "of the colours {} % beside {} ({} beside {} through `margin`), of the digits {} beside"
    assert words.format(*lost[0], *lost[1], lost[2][0]) + f" {lost[2][1]} " in results
    probes = both["encoders"][0]["probes"]
    nominal = {task: table.percent(probes[task]["linear"]["nominal"]).text for task in probes}
    near = table.percent(probes["digit"]["retrieval"]["accuracy"]).text
    digits, colours = (left_after(SHIPPED / "strong.json", task) for task in ("digit", "color"))
    paper = shares("digit", "linear", 0.1)[0]
    for said in (
        f"**Colours: reached**, {nominal['color']} and {shares('color', 'linear', 0.1)[0]} under "
        f"`paper`, and {colours[-1]} under `strong`",
        f"reached under `paper`, {paper}, and missed under `strong`, {digits[-1]}",
        f"missed by a point and a half**, {nominal['digit']}.",
        f"ten nearest neighbours read {near} % of them",
    ):
        assert said in results
    hidden = left_after(SHIPPED / "strong_mlp.json", "digit", "mlp")
    (encoder,) = json.loads((SHIPPED / "paper_mlp.json").read_text())["encoders"]
    row = table.attacked(encoder["robustness"], "digit", "mlp", 0.1)
    of_paper = table.percent(row["accuracy"]).text
    assert f"keeps more under attack, {of_paper} and {hidden[-1]} at ε 0.1" in results
    (first,) = json.loads((SHIPPED / "strong.json").read_text())["encoders"]
    outcomes = table.attacked(first["robustness"], "digit", "linear", 0.1)["outcomes"][:500]
    same = f"{100 * outcomes.count('.') / 500:.1f}"
    assert f"{paper} % of the digits are left under `paper`, and {same} under `strong`" in card
    (dead,) = {
        check["found"] for group in first["checks"]["groups"] for check in group["checks"]
        if check["name"] == "dead-pixels"
    }  # fmt: skip
    assert f"{dead[: dead.index(' have')]} are dead" in card


def share_left(outcomes):
    return f"{100 * outcomes.count('.') / len(outcomes):.1f}"


def digits_of(path):
    """The letters that kept results of one encoder have for digits at ε 0.1."""
    (encoder,) = json.loads(path.read_text())["encoders"]
    return table.attacked(encoder["robustness"], "digit", "linear", 0.1)["outcomes"]


def test_what_is_said_of_strong_and_wider_searches_is_in_the_files():
    pages = ("evaluation.md", "model_card_1.md", "results.md")
    evaluation, card, results = ((ROOT / "docs" / page).read_text() for page in pages)
    strong, wider = digits_of(SHIPPED / "strong.json"), digits_of(SHIPPED / "exhaustive.json")
    same = strong[: len(wider)]
    words = f"leaves {share_left(wider)} % of the first {len(wider)} digits"
    assert words in evaluation and words in card
    assert f"and `strong` {share_left(same)} ([file]" in evaluation
    assert f"where `strong` leaves {share_left(same)}: it broke none" in card
    assert all(other == "." for one, other in zip(same, wider, strict=True) if one == ".")
    crossed = json.loads((RESULTS / "cross_check.json").read_text())["encoders"]
    assert [row["compared"]["strong"]["theirs_alone"] for row in crossed] == [[]] * 4
    rows = json.loads((RESULTS / "budgets.json").read_text())["rows"]
    shipped, vae = (row for row in rows if row["budget"] == "strong before")
    (now,) = (r for r in rows if r["budget"] == "strong" and
              (r["encoder"], r["task"]) == (vae["encoder"], vae["task"]))  # fmt: skip
    steps = [
        f"{sum(trial['steps'] for trial in row['trials']):,.0f}" for row in (vae, now, shipped)
    ]
    assert f"took {steps[0]} steps for the digits of `vae` where `strong` takes {steps[1]}" in (
        evaluation
    )
    assert vae["left"] == now["left"]
    assert (
        f"after {steps[2]} steps, where `strong` leaves {share_left(strong[:100])} " in evaluation
    )
    of_200 = [share_left(digits_of(path)[:200]) for path, _ in STRONG[2:]]
    assert f"they keep {of_200[0]} (`se`) and {of_200[1]} % (`se_avae`)" in results


def test_the_objectives_stand_beside_what_the_search_before_left():
    results, evaluation = (
        (ROOT / "docs" / page).read_text() for page in ("results.md", "evaluation.md")
    )
    before = json.loads((RESULTS / "objectives" / "colormnist.json").read_text())["models"]
    encoders = json.loads((RESULTS / "objectives" / "strong_s0.json").read_text())["encoders"]
    for encoder in encoders:
        figures = before[encoder["name"]]["trainings"][0]["figures"]
        cells = []
        for task in ("digit", "color"):
            row = table.attacked(encoder["robustness"], task, "linear", 0.1)
            cells.append(f"{figures[f'{task}, linear, strong, ε 0.1']:.1f}")
            cells.append(table.percent(row["accuracy"]).text)
        assert f"| `{encoder['name']}` | {' | '.join(cells)} |" in results
    row = table.attacked(encoders[-1]["robustness"], "color", "linear", 0.3)
    after = dict(zip(row["trials"], row["accuracy_after"][1:], strict=True))
    assert f"leave {100 * after['pgd-20-flat/7']:.1f} % of the colours at ε 0.3" in evaluation
    assert after["apgd-t/2"] == 0


def test_only_what_measured_the_same_stands_side_by_side(tmp_path, capsys):
    paper, strong = SHIPPED / "paper.json", SHIPPED / "strong.json"
    kept = json.loads(paper.read_text())
    strange = tmp_path / "strange.json"
    cases = [
        ([paper, strong], kept, ["differ in settings", "budget"]),
        ([paper, "--names", "a", "b"], kept, ["2 names for 1 encoders"]),
        ([tmp_path / "none.json"], kept, ["cannot read"]),
    ]
    for encoders in (3, [], [3], [{}]):
        cases.append(
            ([paper, strange], {**kept, "encoders": encoders}, ["results", "strange.json"])
        )
    for given, content, words in cases:
        strange.write_text(json.dumps(content))
        assert tables.main([str(word) for word in given]) == 2
        said = capsys.readouterr()
        assert said.out == "" and all(word in said.err for word in words)


def test_the_table_of_detection_needs_an_evaluation_of_it(tmp_path, capsys):
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"settings": {"tasks": ["digit"]}, "encoders": []}))
    for file in (*LONGER, RESULTS / "terms.json", empty):
        assert detection.main(["--from", str(file)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and f"{file} has no results of an evaluation with" in said.err


def test_a_failed_check_stands_beside_what_the_others_found_there():
    def encoder(name, *checks):
        made = [{"name": "falls", "passed": passed, "found": found} for passed, found in checks]
        group = {"task": "digit", "head": "linear", "epsilon": 0.1, "checks": made}
        return {"name": name, "checks": {"groups": [group]}}

    rows = table.failed_rows({
        "encoders": [encoder("a", (False, "it rises")), encoder("b", (True, "it falls")),
                     encoder("c"), {"name": "d"}]
    })  # fmt: skip
    assert [(row.group, row.label) for row in rows] == [
        ("failed check", "digit, linear, ε 0.1, falls")
    ]
    assert [cell.text for cell in rows[0].cells] == ["it rises", "passed", "–", "–"]
    assert table.failed_rows({"encoders": [encoder("b", (True, "it falls"))]}) == []
