"""What the paper claims of the objectives, and whether a grid's figures bear it out."""

from dataclasses import dataclass
from typing import Any

from training.sweep.colormnist.measures import accuracies
from training.sweep.models import INCONSISTENCY, Values
from training.sweep.seeds import by_seed, differs, paired

FOR, AGAINST, OPEN = "for", "against", "open"
_ROBUST, _NOMINAL, _CONSISTENT = "robust", "nominal", "consistent"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper: of one objective against another.

    Attributes:
        title: the claim in a sentence.
        pairs: (objective, what it is compared with).
        about: which figures: accuracies under attack, nominal accuracies, or the inconsistency.
        keeps: the claim is that nothing is lost: only a loss counts against it.
    """

    title: str
    pairs: tuple[tuple[str, str], ...]
    about: str
    keeps: bool = False


_AFTER = ("avae", "se", "se_avae", "avae_ss")

CLAIMS = (
    Claim(
        "AVAE is more robust than the VAE, without ever seeing an attack.",
        (("avae", "vae"),),
        _ROBUST,
    ),
    Claim(
        "SE-AVAE is more robust than both SE and AVAE at the smaller ε.",
        (("se_avae", "se"), ("se_avae", "avae")),
        _ROBUST,
    ),
    Claim("AVAE-SS makes a trained VAE more robust, without data.", (("avae_ss", "vae"),), _ROBUST),
    Claim(
        "Nominal accuracy is kept.", tuple((algo, "vae") for algo in _AFTER), _NOMINAL, keeps=True
    ),
    Claim(
        "Self-consistency is restored: an encoder encodes what it decodes as what it decoded.",
        tuple((algo, "vae") for algo in _AFTER),
        _CONSISTENT,
    ),
)


def judged(claim: Claim, values: Values) -> Values:
    """A claim with the differences that bear on it, each seed by seed, JSON values.

    Each has a word: "for" or "against" where zero lies outside the 95 % interval, "open" where it
    does not or there is no interval.
    """
    measures = _about(claim, values)
    own = {m["algo"]: m for m in values["models"].values() if not m["differs"]}
    rows, several = [], values["settings"]["seeds"] > 1
    for algo, baseline in claim.pairs:
        if algo not in own or baseline not in own:
            continue
        for measure in measures:
            name = measure["name"]
            pair = (by_seed(own[which]["trainings"], name) for which in (algo, baseline))
            estimate = paired(*pair)
            # Of several seeds, one alone has no interval to judge by.
            if estimate is None or (several and estimate["high"] is None):
                continue
            rows.append({
                "algo": algo, "baseline": baseline, "measure": measure,
                "difference": estimate, "word": _word(claim, estimate),
            })  # fmt: skip
    return {"title": claim.title, "keeps": claim.keeps, "rows": rows}


def _about(claim: Claim, values: Values) -> list[Values]:
    """The measures that bear on a claim."""
    if claim.about == _CONSISTENT:
        return [m for m in values["measures"] if m["name"] == INCONSISTENCY]
    attacked = claim.about == _ROBUST
    return [m for m in accuracies(values) if (m["epsilon"] > 0) == attacked]


def _word(claim: Claim, estimate: dict[str, Any]) -> str:
    if not differs(estimate):
        return OPEN
    better = estimate["value"] < 0 if claim.about == _CONSISTENT else estimate["value"] > 0
    return FOR if better else AGAINST
