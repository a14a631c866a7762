"""Training of infinitely wide networks over time.

For the loss (1/2N) Σ‖f(x_i) − y_i‖² and θ̇ = −η ∇loss, the outputs at infinite width obey
ḟ = −(η/N) Θ(·, X)(f(X) − Y). Along an eigenvector of H = Θ(X, X) with eigenvalue λ, the distance to
the targets falls as e^{−ηλt/N}. For small η, t is the number of steps of gradient descent.
(neural-tangents averages the loss over the K outputs too: its time is K times this one.)
"""

from ntkdist.learning.dynamics.cross_entropy import (
    CrossEntropyFlow,
    cross_entropy_flow,
    cross_entropy_loss,
)
from ntkdist.learning.dynamics.curves import (
    CurveLabels,
    Curves,
    Stopping,
    choose_stopping_time,
    cross_entropy_curves,
    squared_curves,
)
from ntkdist.learning.dynamics.ensemble import Ensemble, NngpPosterior, Spread, spread_of
from ntkdist.learning.dynamics.flow import GradientDescent, GradientFlow, log_times, squared_loss

__all__ = [
    "CrossEntropyFlow",
    "CurveLabels",
    "Curves",
    "Ensemble",
    "GradientDescent",
    "GradientFlow",
    "NngpPosterior",
    "Spread",
    "Stopping",
    "choose_stopping_time",
    "cross_entropy_curves",
    "cross_entropy_flow",
    "cross_entropy_loss",
    "log_times",
    "spread_of",
    "squared_curves",
    "squared_loss",
]
