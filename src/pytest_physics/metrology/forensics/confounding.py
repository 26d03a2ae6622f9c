"""Confounding: factors that changed together cannot be told apart.

Arms of a comparison are rows of factors. Another factor is confounded with the contrasted one where each of its levels goes with one level
of the contrast (knowing it, one knows the arm). One arm per level leaves no replicates, so the spread between runs is unknown.
Identical files under different labels are one replicate, whatever the labels say.

False alarms: none by construction; a factor that takes one value only is no confounder.
Reference: Fisher, "The Design of Experiments".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pytest_physics.metrology.forensics.finding import Check, Effect, Finding

CONFOUNDING = Check(
    name="confounding",
    needs="the factors of every arm of a comparison",
    proves="that the difference may be due to another factor that changed with it, or that no run was repeated",
)
REPLICATES = Check(
    name="replicates",
    needs="digests (or the data) of runs that are said to be different workloads",
    proves="that runs with different names are one and the same",
)


def confounding(arms: Sequence[Mapping[str, str]], contrast: str) -> Finding:
    """Look for factors that determine, or are determined by, ``contrast``."""
    levels = Counter(arm[contrast] for arm in arms)
    others = sorted({key for arm in arms for key in arm} - {contrast})
    tied = [key for key in others if len({arm.get(key) for arm in arms}) > 1 and _determines(arms, key, contrast)]
    steps = [f"{contrast} = {level}: " + "; ".join(f"{k} {_values(arms, contrast, level, k)}" for k in others) for level in levels]
    if tied:
        return CONFOUNDING.finding(
            Effect.INVALIDATES,
            f"'{contrast}' changed together with {', '.join(tied)}: the difference belongs to none of them alone",
            *steps,
        )
    if min(levels.values()) < 2:
        return CONFOUNDING.finding(
            Effect.INVALIDATES,
            f"one run per level of '{contrast}': the spread between runs is unknown",
            *steps,
            needs="at least two runs per level",
        )
    return CONFOUNDING.finding(Effect.CONSISTENT, f"no declared factor goes with '{contrast}', and each level was repeated", *steps)


def _determines(arms: Sequence[Mapping[str, str]], key: str, contrast: str) -> bool:
    """Whether each level of ``key`` occurs with one level of ``contrast`` only."""
    seen: dict[str | None, set[str]] = {}
    for arm in arms:
        seen.setdefault(arm.get(key), set()).add(arm[contrast])
    return all(len(found) == 1 for found in seen.values())


def _values(arms: Sequence[Mapping[str, str]], contrast: str, level: str, key: str) -> str:
    return "/".join(dict.fromkeys(arm.get(key, "–") for arm in arms if arm[contrast] == level))


def replicates(digests: Mapping[str, str]) -> Finding:
    """Equal digests under different names."""
    groups: dict[str, list[str]] = {}
    for name, digest in digests.items():
        groups.setdefault(digest, []).append(name)
    same = [names for names in groups.values() if len(names) > 1]
    steps = [f"{name}: {digest[:16]}" for name, digest in digests.items()]
    if same:
        return REPLICATES.finding(
            Effect.CONTRADICTS,
            f"{' = '.join(same[0])}: identical to the last digit, so they are repeats of one run, not different workloads",
            *steps,
        )
    return REPLICATES.finding(Effect.CONSISTENT, f"the {len(digests)} runs differ", *steps)
