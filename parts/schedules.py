"""Alpha over training: from hiding patches of every part (0) to hiding whole parts (1)."""

import math

SCHEDULES = ("intra_to_inter", "intra", "inter", "inter_to_intra", "cosine")


def alpha_at(progress: float, *, schedule: str, gamma: float) -> float:
    """Alpha in [0, 1] at a moment of training: a pure function, so a resumed run sees the same values.

    progress: the fraction of training done, in [0, 1].
    gamma: exponent of the two power schedules, > 0; unused by the others.

    intra_to_inter  t^gamma: first some patches of every part, later whole parts (the method, gamma 2)
    intra           0: the same share of every part, always
    inter           1: whole parts, always
    inter_to_intra  (1 - t)^gamma: the method's curriculum reversed. 1 - t^gamma would also fall from 1 to 0; only the
                    reversal spends equal time at each alpha, so that the comparison varies the order alone.
    cosine          (1 - cos(pi t)) / 2: slow at both ends

    Raises ValueError for an unknown schedule, a progress outside [0, 1] or a gamma not positive and finite.
    Source: SemMAE section 3.3 and table 3 (which names inter-to-intra but gives no formula).
    Differs: the fraction of training, taken at each step, stands for the paper's t/T in epochs.
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is {progress}: expected the fraction of training done, in [0, 1]")
    if not (gamma > 0.0 and math.isfinite(gamma)):
        raise ValueError(f"gamma is {gamma}: expected a positive finite exponent (the paper's best is 2)")
    match schedule:
        case "intra_to_inter":
            return float(progress**gamma)
        case "intra":
            return 0.0
        case "inter":
            return 1.0
        case "inter_to_intra":
            return float((1.0 - progress) ** gamma)
        case "cosine":
            return (1.0 - math.cos(math.pi * progress)) / 2.0
    raise ValueError(f"schedule is {schedule!r}: expected one of {', '.join(SCHEDULES)}")
