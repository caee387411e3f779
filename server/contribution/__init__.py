"""What each client contributed: games over clients, the values they lead to, and the wrapper that appraises a round."""

from server.contribution.appraising import Appraising, appraisal, updates_of
from server.contribution.coalitions import Coalitions, Update
from server.contribution.estimators import ESTIMATORS, Estimator
from server.contribution.exact import exact, leave_one_out
from server.contribution.game import Remembered, Utility, Values
from server.contribution.guided import Effort, gtg
from server.contribution.rounds import multi_round, one_round
from server.contribution.sampled import Stopping, published_gtg, truncated_monte_carlo
from server.contribution.validation import Metric, Validator

__all__ = [
    "ESTIMATORS",
    "Appraising",
    "Coalitions",
    "Effort",
    "Estimator",
    "Metric",
    "Remembered",
    "Stopping",
    "Update",
    "Utility",
    "Validator",
    "Values",
    "appraisal",
    "exact",
    "gtg",
    "leave_one_out",
    "multi_round",
    "one_round",
    "published_gtg",
    "truncated_monte_carlo",
    "updates_of",
]
