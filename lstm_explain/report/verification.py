"""Which findings are verified? What units that tell a label do for the behaviour, chosen on some groups and tested on the others."""

import numpy as np

from lstm_explain.display import jsonable, number, percent
from lstm_explain.errors import LstmExplainError
from lstm_explain.plots import panels, plot
from lstm_explain.report.behaviour import behaviour_of
from lstm_explain.report.beside import Beside, beside_each_other, held_texts, text
from lstm_explain.report.claims import Asked, asked, tested
from lstm_explain.report.lead import lead
from lstm_explain.report.measure import Measured
from lstm_explain.report.read import Read
from lstm_explain.report.section import Picture, Section, Table, nothing
from lstm_explain.study import Study
from lstm_explain.verdicts.verification.asked import donors_of
from lstm_explain.verdicts.verification.result import VerificationResult, Verified

TITLE = "Which findings are verified?"
DONORS, MATCHED = 1, 19


def section(study: Study, measured: Measured) -> Section:
    """The claims, their legs, and what the network predicts without the best founded of them and without one that fails."""
    try:
        chosen = asked(study, measured)
        read, behaviour = chosen.read, behaviour_of(study, chosen.read)
        more = 2 if measured.thorough else 1
        result = tested(study, measured, chosen.claims, read, behaviour, donors=more * DONORS, matched=more * MATCHED)
        beside = _beside(study, read, result, measured.seed)
    except LstmExplainError as error:
        return nothing("verification", TITLE, "No claim is tested", str(error))
    planted = _planted(study, result)
    return Section(
        name="verification",
        title=TITLE,
        finding=_finding(result, planted),
        pictures=_pictures(result, beside, behaviour.effect),
        tables=(_table(result),),
        method=_method(chosen, result, behaviour.what),
        not_shown=_not_shown(result, study, beside),
        missed=_missed(result),
        lead=lead(result, _failed(result), beside),
        holds=held_texts(beside.values()),
        numbers=jsonable(
            result.to_dict()
            | {
                "not_verified": len(result.claims) - len(result.verified),
                "planted": planted,
                "planted_none": None if planted else "nothing is planted in this network",
                "sequences": read.rows,
                "first_steps": read.steps,
                "claims_none": "a control that isn't defined on these groups has no interval",
                "predictions": {kind: one.numbers for kind, one in beside.items()},
            }
        ),
        results={"verification": result},
    )


def _beside(study: Study, read: Read, result: VerificationResult, seed: int) -> dict[str, Beside]:
    """Predictions with the best founded claim's units held, and with those of the most plausible claim that fails."""
    group = np.unique(read.groups or read.rows.tolist(), return_inverse=True)[1]
    chosen = {"best": result.ranked[0]}
    if (failed := _failed(result)) is not None:
        chosen["failed"] = failed
    found = {}
    for kind, one in chosen.items():
        shown = beside_each_other(study, read, one.claim.layer, one.claim.units, donors_of(group, seed + 1))
        if shown is not None:
            found[kind] = shown
    return found


def _failed(result: VerificationResult) -> Verified | None:
    """Of the claims that aren't verified the most plausible one: that knows, if one does, furthest above its controls."""
    best = result.ranked[0]
    rest = [one for one in result.claims if one.verdict != "verified" and one is not best]
    know = [one for one in rest if one.knows.verdict == "shown"] or rest
    return max(know, key=lambda one: one.knows.score - one.knows.controls[one.knows.closest], default=None)


def _planted(study: Study, result: VerificationResult) -> dict[str, int] | None:
    if not study.planted:
        return None
    found, truth = set(result.verified), set(study.planted)
    return {"planted": len(truth), "found": len(found & truth), "falsely_claimed": len(found - truth)}


def _words(one: Verified) -> str:
    return f"{one.claim.named} for “{one.claim.label.replace('_', ' ')}”"


def _legs(one: Verified) -> str:
    knows, used, share = one.knows, one.used, one.suffices.share
    return (
        f"{knows.metric} {knows.score:z.2f} beside {knows.controls[knows.closest]:z.2f} ({knows.closest.split(' ')[0]}), "
        f"{number(used.as_much)} of {number(len(used.matched))} matched units as much used, {100 * share.value:z.0f} % of the way"
    )


def _finding(result: VerificationResult, planted: dict[str, int] | None) -> str:
    best, failed = result.ranked[0], _failed(result)
    said = f"{number(len(result.claims))} claims tested, {number(len(result.verified))} verified"
    said += f": the best founded is {_words(best)}, {best.verdict} ({_legs(best)})"
    if failed is not None:
        how = "as plausible" if failed.knows.verdict == "shown" else "beside it"
        said += f"; {how}, {_words(failed)} is {failed.verdict} ({_legs(failed)})"
    if planted is not None:
        said += f". Planted {planted['planted']}, found {planted['found']}, falsely claimed {planted['falsely_claimed']}"
    return said + "."


def _missed(result: VerificationResult) -> str:
    short = len(result.claims) - len(result.verified)
    return (
        f"{number(short)} of {number(len(result.claims))} claims aren’t verified; that doesn’t say that they are false, but that these "
        "data don’t show them."
        if short
        else ""
    )


def _pictures(result: VerificationResult, beside: dict[str, Beside], effect: str) -> tuple[Picture, ...]:
    shown = min(24, len(result.claims))
    legs, (ax,) = panels(9.6, 1.3 + 0.26 * shown)
    plot(result, ax, effect=effect)
    verified = number(len(result.verified))
    pictures = [
        Picture("verification_legs", legs, f"The three legs of {number(shown)} of {len(result.claims)} claims, {verified} verified.")
    ]
    best = result.ranked[0]
    if len(best.used.matched):
        among, (ax,) = panels(6.8, 3.6)
        plot(result, ax, kind="used", effect=effect)
        alt = f"How much is changed where the label differs by {_words(best)}, {best.used.effect.value:.3g}, beside matched units, at most "
        pictures.append(Picture("verification_used", among, f"{alt}{best.used.matched.max():.3g}."))
    pictures += [text(one, f"verification_text_{kind}") for kind, one in beside.items()]
    return tuple(pictures)


def _table(result: VerificationResult) -> Table:
    header = (
        "claim",
        "label",
        "verdict",
        "knows",
        "closest control",
        "p",
        "change where the label differs",
        "matched, as much",
        "share of the way",
    )
    rows = []
    for one in result.ranked[:24]:
        knows, effect, share = one.knows, one.used.effect, one.suffices.share
        rows.append(
            (
                one.claim.named,
                one.claim.label.replace("_", " "),
                one.verdict,
                f"{knows.metric} {knows.score:z.2f}",
                f"{knows.controls[knows.closest]:z.2f} ({knows.closest})",
                f"{knows.p_value:z.3f}",
                f"{effect.value:+.3g} [{effect.family_low:+.2g}, {effect.family_high:+.2g}]",
                f"{one.used.as_much} of {len(one.used.matched)}",
                f"{percent(share.value, 1)} [{percent(share.family_low, 1)}, {percent(share.family_high, 1)}]",
            )
        )
    units = tuple((one.claim.layer, one.claim.units[0]) for one in result.ranked[:24])
    more = "" if len(result.claims) <= 24 else f" (the first 24 of {len(result.claims)})"
    return Table(f"Claims, the best founded first{more}; in brackets 95 % for all claims at once", header, tuple(rows), units)


def _method(asked: Asked, result: VerificationResult, what: str) -> str:
    weights = "; ".join(f"{layer}: {', '.join(names) or 'none'}" for layer, names in result.matched_by.items())
    certificates = "; ".join(f"{layer} {patched.partition(':')[0]}" for layer, (_, patched) in result.certificates.items())
    return (
        f"{asked.why} A claim stands on three legs. It knows: the units’ held-out score is above a constant’s, that of the last "
        f"{number(result.window)} inputs, and those of the best units of {number(result.twins)} untrained networks, each in the interval "
        f"for all claims, and above that of labels moved in time. It is used: where the units hold what they held in another sequence "
        f"({number(result.donors)} for each), {what} changes more at steps where that sequence’s label differs than where it doesn’t, "
        f"and, by an interval for all claims, more than all but 5 % of matched units do, which are the nearest in the ranks of how much "
        f"they vary and of the norm of the weights that read them ({weights}). It suffices: the output moves along the "
        f"direction in which outputs of other groups go with the label, as a share of how far they go with it. Read were the first "
        f"{number(asked.read.steps)} steps of {number(len(asked.read.rows))} sequences from {number(result.groups)} groups, in "
        f"{number(result.passes)} passes; intervals are from "
        f"{number(result.resamples)} bootstrap draws of groups. The patched runs are certified: {certificates}."
    )


def _not_shown(result: VerificationResult, study: Study, beside: dict[str, Beside]) -> str:
    said = (
        "A claim that isn’t verified may still be true: intervals are as wide as groups are few, and where several units carry the same, "
        "each alone may do nothing. That a label’s units are used doesn’t say that it is the label, and not something that goes with it, "
        "that the network has in mind."
    )
    return said if beside or study.next_tokens is None else f"{said} Predictions aren’t shown: no stretch of tokens could be read."
