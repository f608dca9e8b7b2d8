"""How far labels mend the clean probabilities:  python -m benchmarks.refit [--seeds 3] [--repetitions 40]

The cases of `benchmarks.kinds`, judged once per seed; simulated reviewers label 100 and 200 pairs as they were planted,
and the probabilities are refitted with the labels. Medians of the expected calibration error of the judged pairs.
"""

from __future__ import annotations

import argparse

import numpy as np

from pairclean.judge import Judgement, Labelled, Rate, judge, learn, with_labels
from pairclean.metrics.detection import expected_calibration_error
from pairclean.review.rates import rate
from pairclean.review.strata import draw_strata

from .kinds import Case, cases
from .review import sampled


def refitted(found: Judgement, case: Case, labels: int, seed: int) -> np.ndarray:
    """(n,) clean probabilities after so many labels."""
    clean = found.clean_probability
    stratum, about = draw_strata(clean, np.ones(len(clean), bool), labels=labels)
    rows, strata = sampled(stratum, len(about), case.noisy, labels, np.random.default_rng(seed))
    share = rate(strata)
    assert share is not None
    weight = (strata.size / np.maximum(strata.labelled, 1))[stratum[rows]]
    labelled = Labelled(rows, ~case.noisy[rows], weight, Rate(share.estimate, share.low, share.high))
    return with_labels(found, labelled, case.pairs.image_id).clean_probability


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repetitions", type=int, default=40)
    options = parser.parse_args()
    results: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(options.seeds):
        for case in cases(seed):
            rows = np.arange(len(case.pairs))
            learned = learn(case.pairs, rows, method="zero-shot", comparable=True, kind_column=case.kind)
            found = judge(case.pairs, rows, learned, comparable=True)
            judged = ~np.isnan(found.clean_probability)
            truth = ~case.noisy[judged]
            errors = [expected_calibration_error(found.clean_probability[judged], truth)]
            for labels in (100, 200):
                each = [refitted(found, case, labels, r)[judged] for r in range(options.repetitions)]
                errors.append(float(np.median([expected_calibration_error(p, truth) for p in each])))
            results.setdefault(case.name, []).append(tuple(errors))
    print("| planted | by the scores | after 100 labels | after 200 |\n|---|---|---|---|")
    for name, errors in results.items():
        print(f"| {name} | {' | '.join(f'{error:.3f}' for error in np.median(errors, axis=0))} |")


if __name__ == "__main__":
    main()
